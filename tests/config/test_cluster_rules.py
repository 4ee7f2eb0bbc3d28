"""Settings of several processes that contradict each other."""

import pytest

from concordant.config.checks import validate
from concordant.config.stages import PPOConfig, SFTConfig
from tests.config.test_checks import made, refused


@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("cluster.shards", {"cluster__shards": 2}),
        ("cluster.sharded", {"cluster__sharded": True}),
        ("train.halve_on_oom", {"train__halve_on_oom": True}),
        ("retain.ewc", {"retain__ewc": 1.0, "retain__text": "x.txt"}),
        ("train.optimizer", {"train__optimizer": "muon"}),
        ("model.quantize", {"model__quantize": "nf4", "model__lora__rank": 4}),
    ],
)
def test_a_pipeline_is_refused_beside_what_was_not_built_for_it(key, more):
    refused(SFTConfig, f"(?s)(?=.*cluster.pipeline).*{key}", cluster__pipeline=2, **more)


def test_roles_of_a_pipeline_share_its_workers_and_no_base():
    refused(PPOConfig, "share_backbone", share_backbone="auto", cluster__pipeline=2)
    refused(PPOConfig, "with whole models", cluster__pipeline=2, cluster__ray="local", cluster__apart__critic=1)


def test_a_pipeline_stands_beside_tensor_and_data():
    validate(made(SFTConfig, cluster__pipeline=2, cluster__tensor=2, cluster__workers=8))
