"""A model whose layers are split over workers: the numbers, files and samples of the whole model."""

import pytest

from concordant.config.cluster import ClusterConfig
from concordant.core.errors import UserError
from concordant.engines.group.everywhere import working_together
from concordant.engines.ranks import Alone
from concordant.engines.tensor.cuts import Cut, even
from concordant.engines.tensor.split import split_over
from tests.engines.group.tensor import CASES
from tests.models import zoo

NUMBERS = ("loss", "gradient", "weights")


def check_numbers(found, cases):
    for case in cases:
        assert all(found[case][number] < 1e-5 for number in NUMBERS), (case, found[case])
        assert found[case]["norm"] < 1e-6, (case, found[case])


def check_files(found, writes=([[True, False]],)):
    """Files are whole, a run goes on whole and in parts, and both give the same samples."""
    assert all(found[name] is True for name in ("exported", "published", "kept", "tokens", "reached")), found
    assert all(found[name] is True for name in ("bytes", "export bytes", "described")), found
    assert found["resumed"] == found["moments"] == 0.0, found
    assert found["logprobs"] < 1e-5 and found["writes"] == [*writes], found


def test_a_split_model_has_the_numbers_files_and_samples_of_the_whole_one(measured):
    found = measured(*CASES, workers=2, tensor=2)
    check_numbers(found, CASES)
    check_files(found["files"])
    vocabulary = found["vocabulary"]
    assert vocabulary["values"] < 1e-5 and vocabulary["gradient"] < 1e-5 and vocabulary["top"], vocabulary
    assert vocabulary["bytes a token"] == 16, "the logits themselves are never sent"
    assert vocabulary["gathered"] == vocabulary["bytes backward"] == 0


def test_with_shards_a_split_model_has_the_bits_of_the_whole_one(measured):
    found = measured(*CASES, workers=2, tensor=2, shards=2)
    assert [case for case in CASES if not found[case]["equal"]] == []
    check_files(found["files"])


@pytest.mark.parametrize(
    ("sharded", "cases"),
    [
        (False, ("SFT, Llama with odd sizes", "DPO, GPT-2")),
        (
            True,
            (
                "SFT, Llama with odd sizes",
                "SFT, LoRA with recomputed activations",
                "DPO, GPT-2",
                "PPO with exact KL, Llama",
            ),
        ),
    ],
)
def test_two_groups_of_two_workers_have_the_numbers_of_the_whole_model(sharded, cases, measured):
    """``sharded``: the two groups divide the rows of the parts that their workers hold."""
    found = measured(*cases, workers=4, tensor=2, sharded=sharded)
    check_numbers(found, cases)
    check_files(found["files"], [[[True, False]], [[False, False]]])  # one process writes


class Axis:
    """An axis that sends nothing."""

    def __init__(self, size, rank=0):
        self.size, self.rank = size, rank


def ranks_of(size):
    ranks = Alone()
    ranks.tensor = Axis(size)
    return ranks


@pytest.mark.parametrize(
    ("architecture", "size", "words"),
    [
        ("Llama", 4, "has 2 key/value heads, .* cluster.tensor can be 1 to 2"),
        ("BLOOM", 2, "no plan for BloomBlock"),
        ("Qwen3-MoE", 2, "no plan for Qwen3MoeDecoderLayer"),
        ("OLMo 2", 2, "Olmo2RMSNorm normalises all heads together"),
    ],
)
def test_models_that_cannot_be_split_are_refused_with_what_fits(architecture, size, words):
    with pytest.raises(UserError, match=words):
        split_over(zoo.make(architecture), ranks_of(size))


def test_parts_differ_by_one_unit_at_most():
    axis = Axis(3)
    assert even(axis, 10).spans == (((0, 4),), ((4, 7),), ((7, 10),))
    assert even(axis, 40, unit=8).spans == (((0, 16),), ((16, 32),), ((32, 40),))
    assert Cut(axis, (((0, 1), (2, 4)), ((1, 2),), ((4, 9),))).total == 9


def test_workers_that_do_not_fill_the_groups_are_refused_with_the_sizes_that_fit():
    with (
        pytest.raises(UserError, match="6 workers cannot form groups of cluster.tensor 4; .* 1, 2, 3, 6"),
        working_together(ClusterConfig(workers=6, tensor=4), 1),
    ):
        pass
