"""Settings of several processes that contradict each other."""

import pytest

from concordant.config.checks import validate
from concordant.config.cluster import ClusterConfig
from concordant.config.stages import PPOConfig, SFTConfig
from concordant.core.errors import UserError
from concordant.engines.group.everywhere import working_together
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


def test_what_is_offloaded_is_split_and_was_on_a_gpu():
    split = {"cluster__sharded": True, "cluster__workers": 2, "cluster__offload": True}
    validate(made(SFTConfig, **split, model__device="cuda"))
    refused(SFTConfig, "(?s)cluster.offload.*model.device.*on a CPU everything", **split, model__device="cpu")
    refused(SFTConfig, "cluster.offload.*set cluster.sharded true", **{**split, "cluster__sharded": False})


def test_offloading_is_refused_where_no_gpu_is_seen():
    cluster = ClusterConfig(workers=2, sharded=True, offload=True)
    with pytest.raises(UserError, match="cluster.offload.*PyTorch sees no GPU"):
        working_together(cluster, 1, "auto").__enter__()


def test_split_weights_need_a_second_copy_of_the_model_and_stand_beside_tensor():
    validate(made(SFTConfig, cluster__sharded=True, cluster__tensor=2, cluster__workers=4))
    refused(SFTConfig, "there is one", cluster__sharded=True, cluster__tensor=2, cluster__workers=2)
    with pytest.raises(UserError, match="this run has 2, which hold one model together"):
        working_together(ClusterConfig(tensor=2, sharded=True), 1).__enter__()
