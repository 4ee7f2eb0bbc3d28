"""A cure changes something, whatever the settings are: no cure names a value that is set already."""

import pytest

from bench.doctor_cures_text import Setting, read_cure
from concordant.config.fields import build, flatten, unnest
from concordant.config.parse import to_mapping
from concordant.config.stages import DPOConfig, PPOConfig, RewardConfig, SFTConfig
from concordant.doctor.monitor import Monitor
from tests.doctor.histories import CONFIG, rows
from tests.doctor.test_rules import CASES
from tests.doctor.test_rules_quantities import QUANTITIES, beside

CONFIGS = {"sft": SFTConfig, "reward": RewardConfig, "dpo": DPOConfig, "ppo": PPOConfig}
RUN = {"train.learning_rate": 1e-3, "train.max_steps": 48, "train.batch_size": 16, "model.precision": "fp32"}
SICK = [
    *((rule, stage, changes, settings, {}) for rule, stage, changes, settings, _ in CASES),
    *((rule, stage, *sick) for rule, stage, sick, _ in QUANTITIES),
]


def cures(config, stage, changes, numbers):
    """The cures for a run whose config.yaml has every key, as a real one has."""
    monitor = Monitor(to_mapping(stage, config), beside(**numbers))
    for row in rows(stage, **changes):
        monitor.see(row)
    return [finding.cure for finding in monitor.findings.values()]


@pytest.mark.parametrize(("rule", "stage", "changes", "settings", "numbers"), SICK)
def test_a_cure_is_never_the_present_value(rule, stage, changes, settings, numbers):
    """Also where a user has followed a cure before: its values are settings then, and no cure may name them again."""
    given = {k: v for k, v in unnest({**CONFIG[stage], **settings}).items() if k != "verb"}
    if isinstance(changes.get("kl_coefficient"), float):
        given["kl.coefficient"] = changes["kl_coefficient"]  # what a fixed weight logs is what was set
    values = {**flatten(CONFIGS[stage]()), **RUN, **given}
    for cure in cures(build(CONFIGS[stage], values), stage, changes, numbers):
        for alternative in (alternative for part in read_cure(cure, values) for alternative in part):
            settings_alone = all(isinstance(act, Setting) for act in alternative)
            assert not settings_alone or any(values[act.key] != act.value for act in alternative), cure
