"""Weights that are split over two processes: the same gradients and steps as one process, half the numbers on each."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import CPUOffloadPolicy

from bench.parallel import IN_BF16, METHODS, apart, compared, length
from concordant.engines.local import sharding
from concordant.engines.local.networks import PolicyNetwork, computing_device
from tests.engines.tiny import tiny_policy

SETTERS = (
    "set_gradient_divide_factor", "set_force_sum_reduction_for_comms", "set_reduce_scatter_unused_params",
)  # fmt: skip

SHARDED, ALONE = {"workers": 2, "sharded": True}, {"workers": 1}
OFFLOADED = ("sft with lora", "ppo policy")
# Methods that differ from DPO or KTO in their loss alone take two small steps. Losses of the presets are those of the
# conformance suite, and whole runs of environments and of distillation have tests with two workers of their own.
SHORT = ("simpo", "orpo", "bco")
LONG = [name for name in METHODS if name not in SHORT and not name.startswith(("preset", "distill", "ppo with an"))]


@pytest.fixture(scope="module")
def side(python, tmp_path_factory):
    file = tmp_path_factory.mktemp("sides") / "side"

    def side(mesh, methods=LONG, batches=()):
        more = ("--batches", *map(str, batches)) if batches else ()
        python("-m", "bench.parallel", "--side", file, "--mesh", mesh, "--only", *methods, *more)
        return torch.load(file, weights_only=True)

    return side


@pytest.fixture(scope="module")
def split(side):
    return side("sharded 2")


@pytest.fixture(scope="module")
def rows(side, split):
    alone = side("")
    return {method: compared(split[method], alone[method]) for method in LONG}


@pytest.mark.parametrize("method", LONG)
def test_gradients_and_five_steps_equal_those_of_one_process(rows, method):
    """Odd sizes, and a batch of one tree, which leaves one worker without tokens."""
    assert rows[method]["gradient"] < 1e-5 and rows[method]["weights"] < 1e-5
    assert rows[method]["norm"] < 1e-6


def test_two_workers_learn_by_losses_without_a_reference_and_by_bco_the_bits_that_one_learns(side):
    one, two = (side(mesh, SHORT, (2, 1)) for mesh in ("two shards", "two shards, data 2"))
    assert {name: compared(two[name], one[name])["gradient"] for name in SHORT} == dict.fromkeys(SHORT, 0.0)
    assert all(compared(two[name], one[name])["weights"] == 0 < length(one[name]["gradients"][0]) for name in SHORT)


@pytest.mark.parametrize("method", LONG)
def test_each_of_two_workers_holds_half_of_weights_gradients_and_moments(rows, method):
    assert rows[method]["held"] == pytest.approx(0.5, abs=0.01)


def test_layers_that_are_gathered_in_bf16_are_as_near_to_fp32_as_autocast_is(side, split):
    """Gradients of one step, all of whose products autocast rounds in one process too."""
    wholes, parts, exact = side("", tuple(IN_BF16)), side("sharded 2", tuple(IN_BF16)), split
    for method, in_fp32 in zip(IN_BF16, ("sft", "ppo with lora"), strict=True):
        whole, part, right = (s[m]["gradients"][0] for s, m in ((wholes, method), (parts, method), (exact, in_fp32)))
        assert 1e-4 < apart(part, right) < 1.1 * apart(whole, right)
        assert {p.dtype for p in part.values()} == {torch.float32}


def test_parts_that_wait_in_the_processors_memory_learn_the_same_bits(side, split):
    """A CPU has nowhere else to keep them, so this runs the code of the policy and not its copies."""
    offloaded = side("sharded 2, offloaded", OFFLOADED)
    for method in OFFLOADED:
        assert compared(offloaded[method], split[method]) | {"held": 1.0} == {
            "first": 0.0,
            "gradient": 0.0,
            "weights": 0.0,
            "norm": pytest.approx(0.0, abs=1e-6),
            "held": 1.0,
        }


def test_ranks_that_offload_give_fsdp_the_policy_and_keep_the_device_of_the_work(monkeypatch):
    """The parts are on the CPU, and the network still computes where it did."""
    given = []

    def shard(module, **settings):
        given.append(settings)
        return SimpleNamespace(**dict.fromkeys(SETTERS, lambda *_: None))

    monkeypatch.setattr(sharding, "fully_shard", shard)
    gpu = torch.device("cuda", 1)
    for offload in (False, True):
        network = PolicyNetwork(tiny_policy())
        ranks = SimpleNamespace(mesh=lambda kind: f"mesh of {kind}", offload=offload, rank=0, size=2)
        sharding._Sharding(network, ranks, gpu, network, torch.bfloat16)
        *of_layers, of_root = (s.get("mp_policy") for s in given)
        assert of_root is None, "embeddings and heads are gathered in fp32"
        assert {(p.param_dtype, p.reduce_dtype) for p in of_layers} == {(torch.bfloat16, torch.float32)}
        assert network.device == computing_device(network.model) == gpu
        assert {s["mesh"] for s in given} == {"mesh of cuda"} and len(given) > 1
        policies = [s.get("offload_policy") for s in given]
        assert policies == [CPUOffloadPolicy(pin_memory=True) if offload else None] * len(given)
        given.clear()


@pytest.mark.parametrize(("verb", "before", "after"), [("sft", ALONE, SHARDED), ("gae", SHARDED, ALONE)])
def test_a_run_goes_on_with_split_or_with_whole_weights(verb, before, after, small_run, tmp_path):
    """The last checkpoint is removed, as if the run had been killed before it. PPO samples from the split weights."""
    small_run(verb=verb, output=str(tmp_path / "moved"), steps=3, cluster=before)
    small_run(verb=verb, output=str(tmp_path / "alone"), steps=3, cluster=ALONE)
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "step-000003")
    small_run(verb=verb, output=str(tmp_path / "moved"), steps=3, cluster=after, resume="auto")
    moved, alone = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("moved", "alone"))
    assert apart(moved, alone) < 1e-4
