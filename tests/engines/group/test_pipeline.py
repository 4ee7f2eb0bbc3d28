"""A model whose layers are on several workers, one after another: the numbers, files and samples of the whole model."""

import shutil

import pytest
from safetensors.torch import load_file

from bench.parallel import apart
from concordant.config.cluster import ClusterConfig
from concordant.core.errors import UserError
from concordant.engines.group.everywhere import working_together
from concordant.engines.pipeline.stages import split_into_stages
from concordant.engines.ranks import Alone
from tests.engines.group.test_processes import small_run
from tests.engines.group.test_tensor import Axis, check_files, check_numbers, measured
from tests.models import zoo

# With dropout every stage draws numbers of its own, so no two meshes have the same masks.
CASES = (
    "SFT, Llama with odd sizes",
    "SFT, LoRA with recomputed activations",
    "DPO, GPT-2",
    "reward, Llama with tied embeddings",
    "PPO with exact KL, Llama",
    "value, Qwen3",
)


def test_a_model_in_two_stages_has_the_numbers_files_and_samples_of_the_whole_one():
    found = measured(2, 1, 0, 2, *CASES)
    check_numbers(found, CASES)
    check_files(found["files"], [[[True], [False]]])


def test_two_stages_of_two_workers_each_have_the_numbers_of_the_whole_model():
    cases = ("SFT, Llama with odd sizes", "value, Qwen3")
    found = measured(4, 2, 0, 2, *cases)
    check_numbers(found, cases)
    check_files(found["files"], [[[True, False], [False, False]]])


def test_a_run_of_ppo_goes_on_with_and_without_a_pipeline(tmp_path):
    """The last checkpoint is removed, as if the run had been killed before it. The stages share the sampling out."""
    clusters = {"whole": {"workers": 1}, "stages": {"pipeline": 2}}
    last = {}
    for name, cluster in clusters.items():
        small_run(verb="gae", output=str(tmp_path / name), steps=3, cluster=cluster)
        last[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    assert apart(last["stages"], last["whole"]) < 1e-4
    for name, other in (("whole", "stages"), ("stages", "whole")):
        shutil.rmtree(tmp_path / name / "checkpoints" / "step-000003")
        small_run(verb="gae", output=str(tmp_path / name), steps=3, cluster=clusters[other], resume="auto")
        assert apart(load_file(tmp_path / name / "model" / "model.safetensors"), last["whole"]) < 1e-4


def ranks_of(size):
    ranks = Alone()
    ranks.stages = Axis(size)
    return ranks


@pytest.mark.parametrize(
    ("architecture", "size", "words"),
    [
        ("Llama", 3, "has 2 layers, .* cluster.pipeline can be 1 to 2"),
        ("OPT", 2, "found no list of decoder layers in OPTForCausalLM"),
    ],
)
def test_models_without_a_stage_for_every_worker_are_refused_with_what_fits(architecture, size, words):
    with pytest.raises(UserError, match=words):
        split_into_stages(zoo.make(architecture), ranks_of(size))


def test_workers_that_do_not_fill_the_stages_are_refused_with_the_sizes_that_fit():
    words = "6 workers cannot form groups of cluster.tensor × cluster.pipeline 2 × 2; .* can be 1, 2, 3, 6"
    with pytest.raises(UserError, match=words), working_together(ClusterConfig(workers=6, tensor=2, pipeline=2), 1):
        pass
