"""A model whose layers are on several workers, one after another: the numbers, files and samples of the whole model."""

import shutil
from itertools import product

import pytest
import torch
from safetensors.torch import load_file

from bench.parallel import apart
from concordant.config.cluster import ClusterConfig
from concordant.core.errors import UserError
from concordant.engines.group.everywhere import working_together
from concordant.engines.pipeline.held import Held
from concordant.engines.pipeline.stages import split_into_stages
from concordant.engines.ranks import Alone
from concordant.engines.tensor.cuts import Piece, even
from tests.engines.group.test_tensor import Axis, check_files, check_numbers
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


def test_a_model_in_two_stages_has_the_numbers_files_and_samples_of_the_whole_one(measured):
    found = measured(*CASES, workers=2, pipeline=2)
    check_numbers(found, CASES)
    check_files(found["files"], [[[True], [False]]])


def test_a_run_of_ppo_goes_on_in_two_stages(small_run, tmp_path):
    """The last checkpoint is removed, as if the run had been killed before it. The stages share the sampling out."""
    last = tmp_path / "run" / "model" / "model.safetensors"
    small_run(verb="gae", output=str(tmp_path / "run"), steps=3, cluster={"workers": 1})
    whole = load_file(last)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000003")
    last.unlink()
    small_run(verb="gae", output=str(tmp_path / "run"), steps=3, cluster={"pipeline": 2}, resume="auto")
    assert apart(load_file(last), whole) < 1e-4


class Chain(Axis):
    """A chain that passes nothing on: ``held`` is what the owner of a weight holds, ``others`` the other gradients."""

    held = others = None

    def of(self, x, place):
        assert x.shape == self.held.shape and place == 0
        return self.held

    def sum(self, x):
        return x + self.others


class Gathering(Axis):
    def gather(self, x):
        return self.parts


def test_a_weight_of_one_stage_that_its_tensor_group_splits():
    """Three stages of two workers; the weight is on the first and on the last stage, such as tied embeddings."""
    weight = torch.arange(24.0).view(6, 4)
    for place, stage in product(range(2), range(3)):
        tensor, chain = Gathering(2, place), Chain(3, stage)
        piece = Piece(even(tensor, 6), 0)
        part = weight[3 * place : 3 * place + 3]
        tensor.parts, chain.held, chain.others = [weight[:3], weight[3:]], part, torch.ones(3, 4)
        held = Held(chain, (0, 2), part.shape, 24, piece)
        own = held.own(weight)
        assert torch.equal(own, part if stage != 1 else weight[:0])
        assert torch.equal(held.whole(own), weight)
        assert held.elements(own) == 24 and held.counts is (stage == 0) and held.is_split
        assert torch.equal(held.joined(own), own + 1 if stage != 1 else own)


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
