"""The time of a step: operations by hand, transfers by hand, and what must make a step faster or slower."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.planning.duration import duration_of, forward_operations, sampling_seconds
from concordant.planning.hardware import machine
from concordant.planning.known import KNOWN
from concordant.planning.work import Setup, Tree
from tests.planning.test_memory import LAYER, TWO_LAYERS, WEIGHTS, of, setups, works

# One operation takes a second, and nothing else takes time.
ONLY_PRODUCTS = [
    *("peak_fp32=1", "reached=1", "attention_reached=1", "decode_reached=1", "bandwidth=1e30", "launch=0"),
    *("link=1e30", "network=1e30", "whole_row=0"),
]
MATRICES = 16 + 8 + 8 + 16 + 24 + 24 + 24


def parts(work, setup=None, *more):
    return duration_of(work, setup or Setup(), machine("cpu", [*ONLY_PRODUCTS, *more])).parts


def replaced(*changes):
    names = [change.partition("=")[0] for change in changes]
    return machine("cpu", [a for a in ONLY_PRODUCTS if a.partition("=")[0] not in names] + list(changes))


def test_a_forward_pass_by_hand():
    """20 tokens, 8 read: a multiplication and an addition for each weight; the last layer's keys and values (4·2 each)
    for every token, and its other matrices and the head (10·4) for the 8 tokens that are read."""
    layers, head = forward_operations(TWO_LAYERS, 20, 8)
    assert layers == 2 * (MATRICES * 20 + 16 * 20 + (MATRICES - 16) * 8)
    assert head == 2 * 40 * 8


def test_the_products_of_a_step_by_hand():
    """The backward pass has two products for each one of the forward pass, and with frozen weights only one."""
    layers, head = forward_operations(TWO_LAYERS, 20, 8)
    assert parts(of())["products"] == 3 * (layers + head)
    assert parts(of(rank=3))["products"] == 2 * (layers + head)
    assert parts(of(), Setup(recompute=True))["products"] == 4 * layers + 3 * head


def test_the_attention_of_a_step_by_hand():
    """A tree of 3 + 2 tokens has 15 pairs that see each other. Scores and values: 4 operations for each pair and each
    of the 4 numbers of the queries, in 2 layers of 4 trees; the backward pass takes two and a half times as much."""
    assert Tree(3, 2, 1).seen_pairs == 15
    assert parts(of())["attention"] == 3.5 * 4 * 4 * 15 * 2 * 4
    whole_row = duration_of(of(), Setup(), replaced("whole_row=1")).parts["attention"]
    assert whole_row == 3.5 * 4 * 4 * 25 * 2 * 4


def test_a_prompt_counts_once_for_all_its_responses():
    """Pairs: 6 of the prompt's 3 tokens, and 3·2 + 3 of each response of 2."""
    assert Tree(3, 2, 4).tokens == 11
    assert Tree(3, 2, 4).seen_pairs == 6 + 4 * 9


def test_ppo_reads_the_trees_once_to_score_and_once_an_epoch_to_learn():
    """Policy and reference give log-probs, critic values, the reward model scores; then policy and critic learn."""
    made = of(method="ppo", tree=Tree(3, 2, 1), reward_shape=TWO_LAYERS, inner_epochs=2, slots=4)
    layers, head = forward_operations(TWO_LAYERS, 20, 8)
    scoring = 2 * (layers + head) + layers + layers
    learning = 2 * 3 * (layers + head) + 2 * 3 * layers
    assert parts(made)["products"] == scoring + learning


def test_sampling_by_hand():
    """4 responses in 2 slots: two waves of 2 tokens. A token reads every matrix and the head for 2 rows."""
    made = of(method="grpo", tree=Tree(3, 2, 1), slots=2)
    reading = forward_operations(TWO_LAYERS, 12, 0)[0]
    token = 2 * (2 * MATRICES + 40) * 2
    assert sampling_seconds(made, Setup(), machine("cpu", ONLY_PRODUCTS)) == reading + 2 * 2 * token


def test_sampling_waits_for_the_memory_where_reading_the_weights_takes_longer():
    made = of(method="grpo", tree=Tree(3, 2, 1), slots=4)
    slow = replaced("peak_fp32=1e30", "bandwidth=1", "bandwidth_reached=1")
    weights = 4 * (2 * MATRICES + 40)
    cache = 4 * (3 + 1) * 2 * 2 * 2 * 4  # rows · tokens so far · (key and value) · layers · numbers · bytes
    assert sampling_seconds(made, Setup(), slow) == pytest.approx(2 * (weights + cache))


def test_the_optimizer_moves_forty_bytes_a_weight():
    slow = replaced("bandwidth=1", "bandwidth_reached=1")
    assert duration_of(of(), Setup(), slow).parts["optimizer"] == 40 * WEIGHTS
    assert duration_of(of(rank=3), Setup(), slow).parts["optimizer"] == 40 * TWO_LAYERS.adapters(3)


def test_the_gradients_of_four_ranks_by_hand():
    """A ring of four sends three quarters of the gradient twice. Half of that is hidden behind products."""
    made, given = of(), ["network=1", "transfer_reached=1", "hidden_transfer=0.5"]
    assert duration_of(made, Setup(data=4), replaced(*given)).parts["transfers"] == 0.5 * 2 * 0.75 * 4 * WEIGHTS
    adapter = TWO_LAYERS.adapters(3)
    found = duration_of(replace(made, rank=3), Setup(data=4), replaced(*given)).parts["transfers"]
    assert found == pytest.approx(0.5 * 2 * 0.75 * 4 * adapter)


def test_what_is_sent_for_divided_weights_by_hand():
    """Of 340 weights 84 are outside of the layers: they are gathered once a pass in fp32, and the layers twice."""
    given = ["network=1", "transfer_reached=1", "hidden_transfer=0"]
    for bf16, number in ((False, 4), (True, 2)):
        found = duration_of(of(bf16=bf16), Setup(data=4, sharded=True), replaced(*given)).parts["transfers"]
        assert found == pytest.approx(0.75 * (2 * number * (WEIGHTS - 84) + 4 * 84 + 4 * WEIGHTS))


def test_what_offloading_adds_to_a_step_by_hand():
    """A quarter of the weights goes to the GPU twice for its one pass, but once outside of the layers, and a quarter of
    the gradient comes back. The optimizer reads and writes the processor's memory."""
    given = ["host_link=1", "transfer_reached=1", "hidden_transfer=0", "host_bandwidth=1", "bandwidth_reached=1"]
    here, there = (
        duration_of(of(), Setup(data=4, sharded=True, offload=flag), replaced(*given)).parts for flag in (False, True)
    )
    assert there["transfers"] - here["transfers"] == pytest.approx(4 * (3 * WEIGHTS - 84) / 4)
    assert there["optimizer"] == 40 * WEIGHTS / 4 and here["optimizer"] < 1e-20


def test_the_bubble_of_a_pipeline_by_hand():
    """Four micro-batches in two stages: the last stage waits for one of them, a quarter of the work."""
    found = parts(of(), Setup(pipeline=2, micro_batch_tokens=5))
    assert found["waiting"] == (found["products"] + found["attention"]) / 4
    assert parts(of())["waiting"] == 0


def test_operations_start_behind_a_gpus_work_and_not_behind_a_cpus():
    made = of()
    waits = replaced("launch=1", "operations=10")
    # One micro-batch; 10 operations in each of 2 layers, forward and backward.
    assert duration_of(made, Setup(), waits).parts["starting"] == 2 * 10 * 2
    behind = replaced("launch=1", "operations=10", "overlaps=1")
    assert duration_of(made, Setup(), behind).parts["starting"] == 0


@settings(deadline=None)
@given(made=works, setup=setups)
def test_twice_the_data_parallel_ranks_never_compute_longer(made, setup):
    gpu = machine("h100-80gb")
    one, two = (duration_of(made, replace(setup, data=n * setup.data), gpu).parts for n in (1, 2))
    assert all(two[name] <= one[name] * (1 + 1e-9) for name in ("products", "attention", "optimizer"))


@settings(deadline=None)
@given(made=works, setup=setups, name=st.sampled_from(["cpu", "h200-141gb"]))
def test_every_part_is_a_time_and_products_are_there(made, setup, name):
    found = duration_of(made, setup, machine(name))
    assert all(value >= 0 for value in found.parts.values()) and found.parts["products"] > 0
    assert found.operations > 0 and found.total == sum(found.parts.values())


@settings(deadline=None)
@given(made=works, setup=setups)
def test_a_better_machine_is_never_slower(made, setup):
    a100, h100 = (duration_of(made, setup, machine(name)).total for name in ("a100-80gb", "h100-80gb"))
    assert h100 <= a100


def test_the_count_is_the_benchs_count():
    """6 operations a weight and token, as docs/bench.md counts them, but for the last layer of tokens not read."""
    shape = KNOWN["HuggingFaceTB/SmolLM2-135M"]
    layers, head = forward_operations(shape, 100, 100)
    assert 3 * (layers + head) == 6 * (shape.layer_matrices * shape.layers + shape.embedding) * 100
    assert LAYER == MATRICES + 8
