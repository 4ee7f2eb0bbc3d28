"""The memory of a step: by hand for a model of two layers, against autograd, and its properties on every mesh."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from concordant.config.names import HardwareName
from concordant.config.train import TrainConfig
from concordant.core import logprobs
from concordant.core.trees import Branch, Layout, PromptTree
from concordant.engines.local import decoding, optimizer, scorer
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.kernels.put_on import put_on
from concordant.kernels.reader import reader_of
from concordant.kernels.weight_gradients import gradients_in_place
from concordant.models import tree_attention
from concordant.models.four_bits import keep_base_in_four_bits
from concordant.models.lora import apply_lora_to_model
from concordant.models.quantized import bytes_of_base
from concordant.planning import memory, work
from concordant.planning.hardware import machine
from concordant.planning.known import KNOWN
from concordant.planning.memory import kept, memory_of
from concordant.planning.read_shape import from_settings
from concordant.planning.shapes import KINDS, Shape
from concordant.planning.work import Setup, Tree, Work
from tests.engines.tiny import tiny_policy
from tests.stages.preset_memory import counting

TWO_LAYERS = Shape(kind="llama", vocabulary=10, hidden=4, layers=2, heads=2, kv_heads=1, head_size=2, mlp=6, tied=False)
WEIGHTS, LAYER = 340, 128  # as test_shapes.py counts them
EXACT = ["fragmentation=0", "base=0", "holes=0"]


def of(shape: Shape = TWO_LAYERS, **changes) -> Work:
    made = Work(
        method="sft", shape=shape, tree=Tree(3, 2, 1), trees=4, rank=0, keep_best=False, reward_shape=None, bf16=False
    )
    return replace(made, **changes)


def test_the_constants_are_the_engines():
    assert (work.GPU_MICRO_BATCH, work.CPU_MICRO_BATCH) == (scorer.MICRO_BATCH_TOKENS, scorer.CPU_GRADIENT_TOKENS)
    forward = (tree_attention.FORWARD_TOKENS, tree_attention.CPU_FORWARD_TOKENS)
    assert forward == (work.GPU_FORWARD, work.CPU_FORWARD)
    assert (work.FORWARD_FACTOR, memory.MOMENTS) == (scorer._FORWARD_FACTOR, optimizer.ADAM_MOMENTS)
    assert work.PREFILL_TOKENS == decoding.PREFILL_TOKENS
    assert (memory.CHUNK_ELEMENTS, memory.KEPT_ELEMENTS) == (logprobs.CHUNK_ELEMENTS, logprobs.KEPT_ELEMENTS)


def test_every_byte_of_a_model_of_two_layers():
    """SFT in fp32 on a CPU: 4 trees of 3 + 2 tokens in one pass of 20 tokens, of which 8 are read.

    A token and layer keep: 4 hidden states of 4 numbers, the query, its result in two copies (3 · 4), key and value
    (2 · 2), 4 of the MLP (4 · 6), and per head or norm one number (2 + 2). The last layer's MLP keeps only the 8 read.
    """
    found = memory_of(of(), Setup(), machine("cpu", EXACT))
    assert found.resident == {"base": 0, "weights": 4 * WEIGHTS, "optimizer": 8 * WEIGHTS}
    # One pass: the gradients of all but the head, 4 · 300 bytes, come while the activations go.
    assert found.learning["gradients"] == 4 * WEIGHTS - 4 * (WEIGHTS - 40)
    numbers = 4 * 4 + 3 * 4 + 2 * 2 + 4 * 6 + 2 + 2
    in_work = 20 * 4 * (3 * 6 + 2 * 4)  # gradients of the MLP's product and its two factors, and of hidden states
    assert found.learning["activations"] == 4 * numbers * 2 * 20 - 4 * 24 * 12 + in_work
    assert found.learning["logits"] == 2 * 4 * 8 * 10  # the logits, and their gradient
    assert found.learning["weight copies"] == 4 * 10 * 4  # the product that is added to the head's gradient
    assert found.total == sum(found.resident.values()) + sum(found.learning.values())


@pytest.mark.parametrize(("name", "rank"), [("muon", 0), ("muon", 3), ("adafactor", 0)])
def test_the_state_of_an_optimizer_is_what_the_engine_keeps(name, rank):
    """For a Llama of the same dimensions, with its norms and its head; adapters are on every matrix of the layers."""
    policy = tiny_policy(lora_rank=rank)
    learner = LocalLearner(PolicyNetwork(policy), TrainConfig(optimizer=name))
    shapes = {key: (p.numel(), p.shape) for key, p in learner.trained.items()}
    kept = optimizer.numbers_kept(shapes, learner.config, learner.hidden) - (len(shapes) if name == "adafactor" else 0)
    made = of(from_settings(policy.model.config.to_dict(), "tiny"), rank=rank, optimizer=name)
    assert memory.optimizer_numbers(made, Setup(), memory.trained_of(made, Setup())) == pytest.approx(kept)


def test_the_bytes_of_a_base_in_four_bits_are_the_engines():
    """For a Llama whose matrices are whole blocks, beside what is kept for real."""
    pytest.importorskip("bitsandbytes")
    policy = tiny_policy(lora_rank=4, hidden_size=64)
    keep_base_in_four_bits(policy.model, fresh=True)
    shape = from_settings(policy.model.config.to_dict(), "tiny")
    found = memory.base_bytes(of(shape, rank=4, quantized=True), Setup())
    codes = 4 * 16 * 7 * shape.layers  # the table of sixteen values, of every layer
    rotary = sum(b.numel() * 4 for name, b in policy.model.named_buffers() if "inv_freq" in name)
    assert bytes_of_base(policy.model) - codes - rotary == pytest.approx(found)


def test_a_teacher_is_frozen_weights_and_a_pass_beside_the_students():
    made = of(method="distill", teacher=TWO_LAYERS)
    found, plain = (memory_of(work, Setup(), machine("cpu", EXACT)) for work in (made, of()))
    assert found.resident == plain.resident | {"teacher": 4 * WEIGHTS}
    of_token = max(3 * 6, 4 * 4 + 2 * 2) * 4 + 3 * 4 * 4  # the MLP or attention, and hidden states, of 20 tokens
    more = {"teacher's pass": of_token * 20, "teacher's logits": plain.learning["logits"]}
    assert found.learning == plain.learning | more


def test_on_a_shared_backbone_critic_and_reward_model_are_adapters():
    adapters = TWO_LAYERS.adapters(2, 1, 1)
    ppo = of(method="ppo", rank=2, reward_shape=TWO_LAYERS)
    found = memory_of(replace(ppo, shares=True, reward_shares=True), Setup(), machine("cpu", EXACT))
    assert (found.resident["critic"], found.resident["reward model"]) == (12 * adapters, 4 * adapters)
    assert found.learning["critic's gradients"] == 4 * adapters
    apart = memory_of(ppo, Setup(), machine("cpu", EXACT))
    body = WEIGHTS - 40  # without the language-model head
    assert (apart.resident["critic"], apart.resident["reward model"]) == (12 * body, 4 * body)
    mixed = memory_of(replace(ppo, shares=True), Setup(), machine("cpu", EXACT))
    assert (mixed.resident["critic"], mixed.resident["reward model"]) == (12 * adapters, 4 * body)


def test_an_adapters_gradients_and_moments_are_the_adapters_alone():
    found = memory_of(of(rank=3), Setup(micro_batch_tokens=10), machine("cpu", EXACT))
    adapter = TWO_LAYERS.adapters(3)
    assert found.resident["weights"] == 4 * (WEIGHTS + adapter)
    assert (found.learning["gradients"], found.resident["optimizer"]) == (4 * adapter, 8 * adapter)


def test_with_several_passes_the_whole_gradient_stands_beside_the_activations():
    found = memory_of(of(), Setup(micro_batch_tokens=10), machine("cpu", EXACT)).learning
    assert found["gradients"] == 4 * WEIGHTS


def test_ppo_has_a_reference_a_critic_and_a_reward_model_by_hand():
    """Critic and reward model have no language-model head; a trained critic has moments, and gradients in a pass."""
    made = of(method="ppo", tree=Tree(3, 2, 2), reward_shape=TWO_LAYERS, keep_best=True)
    found = memory_of(made, Setup(), machine("cpu", EXACT))
    backbone = WEIGHTS - 40
    assert found.resident["reference"] == found.resident["best weights"] == 4 * WEIGHTS
    assert (found.resident["critic"], found.resident["reward model"]) == (12 * backbone, 4 * backbone)
    assert found.learning["critic's gradients"] == 4 * backbone
    # 8 responses of 3 + 2 - 1 cached tokens; key and value of 2 numbers in each of 2 layers.
    assert found.sampling["KV cache"] == 8 * 4 * 2 * 2 * 2 * 4


def test_a_stage_of_a_pipeline_samples_its_share_with_the_weights_of_all_stages():
    """The last stage holds one layer, the final norm of 4 and the head of 40; the other layer and the embedding of 40
    are gathered, and with an adapter of rank 1 half of the adapters."""
    made = of(method="ppo", tree=Tree(3, 2, 2), reward_shape=TWO_LAYERS)
    found = memory_of(made, Setup(pipeline=2), machine("cpu", EXACT))
    assert found.sampling["weights of all stages"] == 4 * (LAYER + 40)
    # 4 of the 8 responses; the cached tokens of both layers.
    assert found.sampling["KV cache"] == 4 * 4 * 2 * 2 * 2 * 4
    adapted = memory_of(replace(made, rank=1), Setup(pipeline=2), machine("cpu", EXACT))
    assert adapted.sampling["weights of all stages"] == 4 * (LAYER + 40 + TWO_LAYERS.adapters(1) / 2)
    assert "weights of all stages" not in memory_of(made, Setup(tensor=2), machine("cpu", EXACT)).sampling


def test_dpo_keeps_room_for_the_answers_of_its_evaluations():
    """7 slots of 3 + 2 - 1 cached tokens, though a step has only 4 prompts."""
    found = memory_of(of(method="dpo", slots=7), Setup(), machine("cpu", EXACT))
    assert found.sampling["KV cache"] == 7 * 4 * 2 * 2 * 2 * 4
    assert not memory_of(of(slots=7), Setup(), machine("cpu", EXACT)).sampling


def test_grpo_with_an_adapter_and_a_function_as_reward_has_no_second_model():
    made = of(method="grpo", tree=Tree(3, 2, 2), rank=3)
    parts = memory_of(made, Setup(), machine("cpu", EXACT)).resident
    assert set(parts) == {"base", "weights", "optimizer", "reference"}
    assert parts["reference"] == 4 * TWO_LAYERS.adapters(3)


def test_sharding_divides_what_is_resident():
    made, four = of(trees=8), machine("h100-80gb", EXACT)
    whole = memory_of(made, Setup(data=4), four).resident
    parts = memory_of(made, Setup(data=4, sharded=True), four).resident
    assert all(4 * parts[name] == size for name, size in whole.items())


def test_what_a_rank_gathers_beside_its_part_by_hand():
    """The root has embedding, head and final norm, 40 + 40 + 4 weights, in fp32 and with a gradient. In bf16 autocast
    copies the head, and two layers of 128 are gathered in bf16; the gradient of one is in bf16, and in fp32 to be sent.
    """
    gpu, setup = machine("h100-80gb", EXACT), Setup(data=4, sharded=True)
    fp32, bf16 = (memory_of(of(trees=8, bf16=flag), setup, gpu).learning for flag in (False, True))
    assert fp32["gathered weights"] == 4 * 84 * 2 + 4 * LAYER * 2 + (4 + 4) * LAYER and "weight copies" not in fp32
    assert bf16["gathered weights"] == 4 * 84 * 2 + 2 * LAYER * 2 + (2 + 4) * LAYER
    assert bf16["weight copies"] == 2 * 40
    # With an adapter nothing else has a gradient. Its two matrices are gathered with their layer.
    adapted = memory_of(of(trees=8, bf16=True, rank=3), setup, gpu).learning
    adapter = TWO_LAYERS.adapters(3) / 2
    assert adapted["gathered weights"] == 4 * 84 + 2 * 2 * (LAYER + adapter) + (2 + 4) * adapter
    # The reference of DPO is read from gathered layers too; and the sampler of its evaluations reads all of them.
    dpo = memory_of(of(method="dpo", trees=8, bf16=True), setup, gpu)
    assert dpo.scoring["gathered weights"] == 4 * 84 + 2 * LAYER * 2
    assert dpo.sampling["weight transfer"] == 4 * 84 + 2 * LAYER * 2 + 2 * 40
    # On a CPU a rank gathers as much.
    assert memory_of(of(trees=8), setup, machine("cpu", EXACT)).learning["gathered weights"] == fp32["gathered weights"]


def test_a_reward_model_is_whole_on_every_rank():
    """Weights of the two layers, without a head: 340 - 40."""
    made = of(method="grpo", reward_shape=TWO_LAYERS, trees=8)
    parts = memory_of(made, Setup(data=4, sharded=True), machine("h100-80gb", EXACT)).resident
    assert parts["reward model"] == 4 * (WEIGHTS - 40) and parts["weights"] == WEIGHTS


def test_offloaded_parts_leave_the_gpu_to_what_is_gathered():
    made, gpu = of(method="ppo", reward_shape=TWO_LAYERS, trees=8, keep_best=True), machine("h100-80gb", EXACT)
    here, there = (memory_of(made, Setup(data=4, sharded=True, offload=flag), gpu) for flag in (False, True))
    assert set(there.resident) == {"base", "reward model"} and not here.offloaded
    gathered = ("gradients", "critic's gradients")
    assert there.learning == {name: size for name, size in here.learning.items() if name not in gathered}
    assert (there.scoring, there.sampling) == (here.scoring, here.sampling)
    critic = WEIGHTS - 40
    assert there.offloaded == {
        "weights": WEIGHTS,  # a quarter of 4 bytes a weight
        "optimizer": 2 * WEIGHTS,
        "best weights": WEIGHTS,
        "reference": WEIGHTS,
        "critic": 3 * critic,
        "gradients": WEIGHTS,
        "critic's gradients": critic,
    }


# -- what a layer keeps --------------------------------------------------------------------------------


def saved_by_autograd(kind: str, layers: int, fast: bool, bf16: bool, rank: int, tokens: int = 256) -> int:
    sizes = {"hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 4, "num_key_value_heads": 2}
    if kind == "gpt2":
        sizes = {"n_embd": 128, "n_layer": layers, "n_head": 4, "n_inner": 320}
        sizes |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    elif kind != "llama":
        sizes |= {"layer_types": ["full_attention"] * layers}
    config = AutoConfig.for_model(kind, vocab_size=96, num_hidden_layers=layers, **sizes)
    if kind != "gpt2":
        config.head_dim, config.sliding_window = 48, None if kind != "gemma3_text" else 64
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if rank:
        apply_lora_to_model(model, r=rank)
    if fast:
        put_on(model)
    half = torch.arange(tokens // 2) % 90
    reader = reader_of(model, Layout.TREE)
    (batch,) = reader.batches([PromptTree(half, (Branch.response(half),))], 2**20)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
    with counting() as found, torch.autocast("cpu", torch.bfloat16, enabled=bf16), gradients_in_place():
        reader.hidden_at(batch, batch.source_N)
    assert from_settings(config.to_dict(), "c").layers == layers
    return sum(
        size for pointer, (size, shape) in found.items()
        if pointer not in weights and shape not in shapes and shape[::-1] not in shapes
    )  # fmt: skip


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma3_text"])
def test_a_layer_keeps_what_autograd_keeps(kind, fast, bf16, rank):
    """A model of four layers keeps more than one of three. Without kernels each layer also has a mask of its row."""
    three, four = (saved_by_autograd(kind, layers, fast, bf16, rank) for layers in (3, 4))
    shape = Shape(
        kind=kind, vocabulary=96, hidden=128, layers=4, heads=4, kv_heads=2, head_size=48, mlp=320, tied=False
    )
    mask = 0 if fast and kind != "gemma3_text" else 256 * (2 if bf16 else 4)
    assert kept(shape, not fast, bf16, rank) + mask == pytest.approx((four - three) / 256, rel=0.03)


def test_gpt2s_layer_keeps_what_autograd_keeps():
    three, four = (saved_by_autograd("gpt2", layers, True, False, 0) for layers in (3, 4))
    shape = replace(KNOWN["openai-community/gpt2"], hidden=128, heads=4, kv_heads=4, head_size=32, mlp=320)
    assert kept(shape, False, False) == pytest.approx((four - three) / 256, rel=0.03)


# -- properties ----------------------------------------------------------------------------------------

HARDWARE: list[HardwareName] = ["cpu", "h100-80gb"]
works = st.builds(
    of,
    shape=st.sampled_from([KNOWN["Qwen/Qwen3-8B"], KNOWN["meta-llama/Llama-3.1-70B"], KNOWN["google/gemma-3-1b"]]),
    method=st.sampled_from(["sft", "reward", "dpo", "ppo", "grpo", "distill"]),
    tree=st.builds(Tree, st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 4)),
    trees=st.integers(1, 64),
    rank=st.sampled_from([0, 16]),
    reward_shape=st.sampled_from([None, KNOWN["Qwen/Qwen3-0.6B"]]),
    bf16=st.booleans(),
    keep_best=st.booleans(),
)
setups = st.builds(
    Setup,
    data=st.sampled_from([1, 2, 4]),
    tensor=st.sampled_from([1, 2]),
    pipeline=st.sampled_from([1, 2]),
    sharded=st.booleans(),
    recompute=st.booleans(),
    micro_batch_tokens=st.sampled_from([512, 8192]),
)


@settings(deadline=None)
@given(made=works, setup=setups, name=st.sampled_from(HARDWARE))
def test_memory_falls_with_tensor_parallelism(made, setup, name):
    before = memory_of(made, setup, machine(name))
    after = memory_of(made, replace(setup, tensor=2 * setup.tensor), machine(name))
    assert after.total < before.total
    assert all(size <= before.resident[part] for part, size in after.resident.items())


@settings(deadline=None)
@given(made=works, setup=setups)
def test_memory_never_rises_with_more_data_parallel_ranks(made, setup):
    assume(not setup.sharded or setup.data > 1)  # one rank gathers nothing
    gpu = machine("h100-80gb")
    more = replace(setup, data=2 * setup.data)
    assert without_logits(memory_of(made, more, gpu)) <= without_logits(memory_of(made, setup, gpu)) * (1 + 1e-12)


def without_logits(memory):
    """The engine keeps the logits of a batch that is small enough, so logits alone may take more in a smaller share."""
    phases = (sum(size for part, size in phase.items() if part != "logits") for phase in memory.phases.values())
    return sum(memory.resident.values()) + max(phases)


@settings(deadline=None)
@given(made=works, setup=setups, name=st.sampled_from(HARDWARE))
def test_an_adapters_optimizer_state_is_smaller_than_the_models(made, setup, name):
    adapted, whole = (memory_of(replace(made, rank=r), setup, machine(name)).resident for r in (16, 0))
    share = setup.data if setup.sharded else 1
    adapters = made.shape.adapters(16, setup.tensor, setup.pipeline) / share
    assert adapted["optimizer"] == pytest.approx(8 * adapters) and adapted["optimizer"] < whole["optimizer"] / 10


@settings(deadline=None)
@given(made=works, setup=setups)
def test_recomputing_activations_never_needs_more_where_there_are_many_layers(made, setup):
    gpu = machine("h100-80gb")
    on, off = (memory_of(made, replace(setup, recompute=flag), gpu).learning["activations"] for flag in (True, False))
    assert on < off


def test_every_kind_has_a_count():
    for kind in KINDS:
        for is_gpu in (True, False):
            for bf16 in (True, False):
                shape = replace(TWO_LAYERS, kind=kind)
                assert kept(shape, is_gpu, bf16) > kept(shape, is_gpu, bf16, tensor=2) > 0
