"""A cure changes something, whatever the settings are: no cure names a value that is set already."""

import pytest

from bench.doctor_cures_text import Setting, read_cure
from concordant.config.fields import build, flatten, unnest
from concordant.config.parse import to_mapping
from concordant.config.stages import DPOConfig, PPOConfig, RewardConfig, SFTConfig
from concordant.doctor.history import Beside, History
from concordant.doctor.monitor import Monitor
from concordant.doctor.preflight_answers import phrase_of
from concordant.doctor.quantities import balance, fitting_rate, mend, no_dropout, one_temperature
from tests.doctor.histories import CONFIG, falling, rows
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


def cure(rule, stage, changes, settings=None, beside_it=None):
    """The cure of ``rule`` in a made-up run."""
    monitor = Monitor({**CONFIG[stage], **(settings or {})}, Beside(**(beside_it or {})))
    for row in rows(stage, **changes):
        monitor.see(row)
    return monitor.findings[rule].cure


def history(stage, *, weights=1e6, usual=1e-3, rank=0, name="a/model", **row):
    """A run's settings and start, with one row."""
    model = {"name": name, "lora": {"rank": rank}}
    start = {"usual_rate": usual, "weights": weights, "steps": 40}
    made = History({"verb": stage, "model": model, "train": {"learning_rate": 1e-3}}, Beside(start=lambda: start))
    made.add({"step": 1, **{key.replace("__", "/"): value for key, value in row.items()}})
    return made


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (history("dpo", weights=7e9, usual=6.3e-7), 6.3e-7),
        (history("dpo", weights=130_000, usual=7.5e-4), 2e-4),  # what a million weights take
        (history("dpo", weights=130_000, usual=5e-3, rank=8), 2e-3),  # LoRA: ten times that
        (history("reward", weights=130_000, usual=2.8e-3), 1e-3),
        (history("sft", weights=7e9, usual=1.2e-5), 3.6e-6),  # random weights take three times the usual, 3.6e-5
        (history("sft", weights=140_000, usual=5e-3, rank=8), 5e-4),  # random weights take 5e-3, the highest rate
        (history("sft", weights=130_000, usual=5e-3, name="builtin:tiny"), 5e-3),
        (History({"verb": "dpo"}), None),
    ],
)
def test_the_rate_of_a_cure_fits_the_start(given, rate):
    assert fitting_rate(given) == (rate and pytest.approx(rate))


def test_a_rate_is_lowered_tenfold_or_to_the_one_that_fits():
    start = {"start": lambda: {"usual_rate": 7.5e-4, "weights": 130_000, "steps": 48}}
    broken = {"loss": falling(0.69, 2.0), "doctor__update__ratio": 0.2}
    for rate, fits in ((0.02, "0.0002"), (1e-3, "0.0001")):
        assert cure("learning_rate_too_high", "dpo", broken, {"train": {"learning_rate": rate}}, start).endswith(fits)


def test_the_kl_weight_that_holds_while_a_reward_is_mended():
    """At least 0.3 and three times the present weight, in deviations of the reward, and at most one deviation."""
    ways = [(0.03, 1.0, "0.3"), (0.2, 1.0, "0.6"), (0.03, 4.0, "1.2"), (0.03, 0.2, "0.2")]
    for weight, spread, fits in ways:
        said = mend(history("ppo", kl_coefficient=weight, objective__score_std=spread), "mend it")
        assert said == f"Stop the run and mend it; until then set kl.coefficient {fits}"
    stuck = mend(history("ppo", kl_coefficient=1.0, objective__score_std=1.0), "mend it")
    assert stuck.endswith("set train.max_steps 20")


def test_lengths_are_balanced_where_enough_pairs_are_left():
    """Of 1,000 pairs 800 have the longer answer chosen: balancing keeps 200 of each kind, 400 in all."""
    assert balance(0.8, 1000, 300) == "Balance lengths in the data, which leaves about 400 of 1000 pairs"
    assert balance(0.04, 1500, 300).startswith("Have the pairs labelled anew")
    assert balance(0.95, 0, 300) == "Balance lengths in the data"  # nobody knows how many pairs there are
    longer = {"doctor__data__chosen_longer": 0.96}
    assert "48 of 600" in cure("chosen_is_longer", "reward", longer, {}, {"start": lambda: {"examples": 600}})


def test_a_limit_is_raised_only_where_it_cuts_answers():
    cut = {"data": {"too_long": "cut_response_end", "max_response_tokens": 8}}
    before = {"before": lambda: {"truncation": {"response_tokens": 38.0}}}
    same = {"doctor__data__identical": 0.4, "doctor__data__ends": 0.1}
    for rule in ("answers_identical", "end_token_missing"):
        assert cure(rule, "dpo", same, cut, before) == "Set data.max_response_tokens 38, which fits 99 % of the answers"
        assert cure(rule, "dpo", same, cut) == "Set data.max_response_tokens 64, or data.too_long drop"
        assert "max_response_tokens" not in cure(rule, "dpo", same, {"data": {"max_response_tokens": 8}})
    whole = same | {"doctor__data__ends": 1.0}
    assert "rejected column" in cure("answers_identical", "dpo", whole, cut)


def test_what_was_learnt_by_heart_needs_more_data_or_fewer_steps():
    learnt = {"loss": falling(3.0, 0.1), "eval__loss": lambda i, n: {11: 2.0, 23: 1.5, 35: 2.5, 47: 4.0}.get(i)}
    assert cure("overfitting", "sft", learnt, {"data": {"max_samples": 60}}).startswith("Set data.max_samples 0")
    assert cure("overfitting", "sft", learnt).startswith("Set train.max_steps 24,")


def test_more_answers_a_prompt_only_where_few_groups_have_a_spread():
    for tied, helps in ((0.6, False), (0.9, True)):
        said = cure("tied_groups", "ppo", {"objective__tied_groups": tied}, {"sampling": {"n": 4, "temperature": 1}})
        assert said.startswith("Look at the reward first") and ("set sampling.n 8" in said) == helps
    assert "sampling.n" not in cure("tied_groups", "ppo", {"objective__tied_groups": 0.9})  # nobody knows how many
    still = cure("reward_does_not_rise", "ppo", {"objective__score": 0.0})
    assert still.startswith("Look at the reward first") and "sampling.n" not in still


def test_fp32_is_not_named_where_it_is_set():
    infinite = {"loss": lambda i, n: 1.0 if i < 20 else float("nan")}
    for precision, said in (("fp32", "make the loss finite"), ("bf16", "set model.precision fp32")):
        assert said in cure("not_finite", "sft", infinite, {"model": {"precision": precision}})


def test_a_gradient_of_zero_is_looked_for_in_the_loss():
    still = {"doctor__update__still": 1.0, "learning_rate": 1e-3}
    assert "cuts the loss from the weights" in cure("part_frozen", "sft", still | {"grad_norm": 0.0})
    assert "the optimizer" in cure("part_frozen", "sft", still | {"grad_norm": 1.0})


def test_the_target_of_an_adaptive_controller_is_its_cure():
    heavy = {"kl_coefficient": 5.0}
    adaptive = {"kl": {"controller": "adaptive", "target": 0.2}}
    assert cure("kl_penalty_too_strong", "ppo", heavy, adaptive) == "Set kl.target 6 and kl.horizon 10000"
    far = {"kl": {"controller": "adaptive", "target": 8}}
    assert cure("kl_penalty_too_strong", "ppo", heavy, far).startswith(
        "Set kl.coefficient 0.05 and kl.controller fixed"
    )


def test_dropout_and_temperature_name_what_is_not_right_yet():
    assert no_dropout(0.1) == "Set --model.lora.dropout 0" and "lora" not in no_dropout(0.0)
    assert one_temperature(1.0) == "Give the learner sampling.temperature 1 too"
    assert one_temperature(0.6).startswith("Set sampling.temperature 1, or ")


def test_the_longest_phrase_of_one_side_is_named():
    answers = ["It is here. Many thanks.", "The owl is in the wood. Many thanks.", "Go on, then. Many thanks."]
    assert phrase_of('"thanks"', answers, 0.95) == '"Many thanks."'
    assert phrase_of('"owl"', [*answers, "An owl."], 0.95) == '"owl"'  # no two answers have more in common
    assert phrase_of("one line", answers, 0.95) == "one line"
