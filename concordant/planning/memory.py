"""Bytes of each part of the memory of the fullest rank.

Resident parts are there all the time: weights and AdamW's moments in fp32, copies of the weights, other models. Of the
phases of a step (a pass with gradient, a pass without, sampling) only the largest one is added.

What autograd keeps for a token and a layer (``kept``) is counted by hand from the code of the layers. A test compares
the count with what autograd really keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from concordant.planning.gathered import copies_beside, gathered, gradients_of_gathered, whole_model
from concordant.planning.hardware import Machine
from concordant.planning.shapes import Shape
from concordant.planning.work import (
    BF16,
    CPU_FORWARD,
    FORWARD_FACTOR,
    FP32,
    GPU_FORWARD,
    PREFILL_TOKENS,
    Setup,
    Work,
)

NF4 = 0.5 + 4 / 64  # bytes of a weight
MOMENTS = 2  # numbers that AdamW keeps for each trained weight
# The engine's own numbers (core/logprobs.py); a test compares them.
CHUNK_ELEMENTS, KEPT_ELEMENTS = 2**24, 2**26
OFFLOADED = ("weights", "optimizer", "best weights", "reference", "critic", "gradients", "critic's gradients")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by part: ``resident``, and each phase of a step. ``offloaded`` parts are in the processor's memory."""

    resident: dict[str, float]
    learning: dict[str, float]
    scoring: dict[str, float]
    sampling: dict[str, float]
    offloaded: dict[str, float] = field(default_factory=dict)

    @property
    def phases(self) -> dict[str, dict[str, float]]:
        return {"learning": self.learning, "scoring": self.scoring, "sampling": self.sampling}

    @property
    def largest(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def total(self) -> float:
        return sum(self.resident.values()) + sum(self.phases[self.largest].values())


def memory_of(work: Work, setup: Setup, machine: Machine) -> Memory:
    """The memory of the fullest rank."""
    phases = (_learning(work, setup, machine), _scoring(work, setup, machine), _sampling(work, setup, machine))
    more = 1 + machine["fragmentation"]
    learning, scoring, sampling = ({name: more * size for name, size in phase.items()} for phase in phases)
    gradients = _gradients(work, setup, machine, phases[0]["activations"])
    base, resident = {"base": machine["base"] + machine["holes"]}, _resident(work, setup)
    if not setup.offload:
        return Memory(base | resident, gradients | learning, scoring, sampling)
    # Gradients wait for the optimizer there too. Those of what is gathered are among the gathered weights.
    waiting = resident | gradients | {"gradients": FP32 * trained_of(work, setup)}
    offloaded = {name: size for name, size in waiting.items() if name in OFFLOADED}
    stays = {name: size for name, size in resident.items() if name not in OFFLOADED}
    return Memory(base | stays, learning, scoring, sampling, offloaded)


# -- what stays --------------------------------------------------------------------------------------


def weights_of(shape: Shape, setup: Setup, head: bool = True) -> float:
    """Weights that the fullest rank holds."""
    whole = shape.weights(setup.tensor, setup.pipeline, head)
    return whole / setup.data if setup.sharded else whole


def trained_of(work: Work, setup: Setup) -> float:
    """Weights of the policy or reward model that this rank trains."""
    if not work.rank:
        return weights_of(work.shape, setup, work.has_head)
    adapters = work.shape.adapters(work.rank, setup.tensor, setup.pipeline)
    return adapters / setup.data if setup.sharded else adapters


def critic_of(work: Work, setup: Setup) -> float:
    """Weights of the critic's own backbone, that of the reward model or of the policy; 0 if it is the policy's own.

    A critic that starts from a whole reward model trains all of them. A critic that starts from an adapter trains a
    copy of the adapter, beside the frozen base.
    """
    return 0.0 if work.shares else weights_of(work.reward_shape or work.shape, setup, head=False)


def critic_trained(work: Work, setup: Setup) -> float:
    return critic_of(work, setup) if work.whole_critic or not work.rank else trained_of(work, setup)


def base_bytes(work: Work, setup: Setup) -> float:
    """Bytes of the policy's or reward model's weights without an adapter.

    In NF4 a weight of a layer's matrix has four bits and a share of a scale of 64 weights; the tables have bf16.
    """
    whole = weights_of(work.shape, setup, work.has_head)
    if not work.quantized:
        return FP32 * whole
    inside = work.shape.layers * work.shape.layer_matrices
    tables = work.shape.embedding * (1 if work.shape.tied or not work.has_head else 2)
    return NF4 * inside + BF16 * tables + FP32 * (whole - inside - tables)


def optimizer_numbers(work: Work, setup: Setup, trained: float) -> float:
    """Numbers that the optimizer keeps for ``trained`` weights on a rank.

    Muon keeps one for a weight of a matrix inside a layer. Adafactor keeps one for each row and each column of a
    matrix. A critic has the share of such numbers that the policy has.
    """
    if work.optimizer == "adamw":
        return MOMENTS * trained
    shape, rank = work.shape, work.rank
    sizes = [(m.inputs, m.outputs) for m in shape.matrices]
    if rank:
        sizes = [size for inputs, outputs in sizes for size in ((inputs, rank), (rank, outputs))]
    inside = shape.layers * sum(rows * columns for rows, columns in sizes)
    whole = float(inside if rank else shape.weights(head=work.has_head))
    if work.optimizer == "muon":
        numbers = MOMENTS * whole - inside
    else:
        edges = shape.layers * sum(rows + columns for rows, columns in sizes)
        tables = 0 if rank else 1 if shape.tied or not work.has_head else 2
        table = shape.vocabulary + shape.hidden
        numbers = whole - inside - tables * shape.embedding + edges + tables * table
    return trained * numbers / whole


def _resident(work: Work, setup: Setup) -> dict[str, float]:
    trained = trained_of(work, setup)
    added = trained if work.rank else 0.0
    parts = {
        "weights": base_bytes(work, setup) + FP32 * added,
        "optimizer": FP32 * optimizer_numbers(work, setup, trained),
        "best weights": FP32 * trained * work.keep_best,
        "reference": FP32 * trained * work.has_reference,
    }
    if work.has_critic:
        of_critic = critic_trained(work, setup)
        parts["critic"] = FP32 * (critic_of(work, setup) + optimizer_numbers(work, setup, of_critic))
        parts["critic"] += FP32 * of_critic if work.rank and not work.whole_critic else 0.0
    if work.teacher:
        parts["teacher"] = FP32 * weights_of(work.teacher, replace(setup, sharded=False))
    if work.reward_shape:
        whole = weights_of(work.reward_shape, replace(setup, sharded=False), head=False)  # it is only read
        parts["reward model"] = FP32 * (trained if work.reward_shares else whole)
    return {name: size for name, size in parts.items() if size}


# -- a pass with gradient ----------------------------------------------------------------------------


def _gradients(work: Work, setup: Setup, machine: Machine, activations: float) -> dict[str, float]:
    """Gradients, which live from the first pass with gradient to the optimizer's step.

    Where one pass is enough, the gradients of the layers come while the activations of the layers go. So the smaller
    of the two needs no room of its own. The gradient of the head comes first, beside all activations.
    """
    trained = trained_of(work, setup)
    size = FP32 * trained
    if setup.micro_batches(work, not machine.is_gpu) == 1:
        head = work.shape.embedding / setup.tensor * work.has_head * (not work.rank)
        head /= setup.data if setup.sharded else 1
        size -= min(activations, FP32 * (trained - min(head, trained)))
    critic = {"critic's gradients": FP32 * critic_trained(work, setup)} if work.has_critic else {}
    return {"gradients": size} | critic


def kept(shape: Shape, is_gpu: bool, bf16: bool, rank: int = 0, tensor: int = 1) -> float:
    """Bytes that autograd keeps for one token in one layer, on one of ``tensor`` ranks.

    A layer keeps the inputs of its products, norms, attention and activation. On a CPU the kernels share these between
    products, and keep keys and values once for each head of keys; without the kernels every product has its own copy
    in autocast's dtype, and attention gets keys and values for every head of queries. The mask is not counted here.
    """
    number = BF16 if bf16 else FP32
    queries, keys = shape.queries / tensor, shape.keys / tensor
    if packs(shape, is_gpu):
        attention = (10 * queries + 8 * keys) if bf16 else (12 * queries + 8 * keys)
    else:
        attention = 4 * queries * number
    attention += FP32 * shape.heads / tensor  # the normaliser of each head
    adapters = rank * len(shape.matrices) * number
    return _norms_kept(shape, is_gpu, bf16, rank, tensor) + attention + _mlp_kept(shape, bf16, tensor) + adapters


def packs(shape: Shape, is_gpu: bool) -> bool:
    """Whether trees share a row in which each attends only to itself. A sliding window, as Gemma's, needs a mask."""
    return not is_gpu and shape.kind != "gemma3_text"


def row_share(shape: Shape, machine: Machine) -> float:
    """The share of the pairs of tokens that do not see each other and are computed too, under a mask."""
    if machine.is_gpu:
        return machine["whole_row"]
    return machine["whole_row"] if packs(shape, False) else 1.0


def _norms_kept(shape: Shape, is_gpu: bool, bf16: bool, rank: int, tensor: int) -> float:
    """Bytes of one token for the norms of a layer, with the residual stream and the inputs of the products."""
    traits, hidden = shape.traits, shape.hidden
    if traits.all_biases:  # a layer norm is one operation: input, mean and deviation
        return 2 * (6 if bf16 and is_gpu else 8) * hidden + 16
    own_code = is_gpu or not traits.scales_once  # separate operations, which keep more than the kernel
    if own_code:
        # Of each norm the input and, for the gradient of its weight, the normalised input, both in fp32. Then the
        # norms' outputs, which five products read: in bf16 each product has a copy of its own.
        normalised = 0 if rank else FP32
        kept_bytes: float = traits.norms * ((FP32 + normalised) * hidden + FP32)
        kept_bytes += (5 * BF16 if bf16 else 2 * FP32) * hidden
    else:
        kept_bytes = 4 * FP32 * hidden + 2 * FP32
    if traits.norms_heads:
        # The kernel serves fp32 only. The norm's own code keeps the input in fp32 and, for the gradient of its weight,
        # the normalised input in autocast's dtype, or in fp32 where its weight is used in fp32.
        in_bf16 = bf16 and traits.scales_once
        normalised = 0 if rank or not (own_code or bf16) else BF16 if in_bf16 else FP32
        heads = (shape.heads + shape.kv_heads) / tensor
        kept_bytes += (FP32 + normalised) * (shape.queries + shape.keys) / tensor + FP32 * heads
    return kept_bytes


def _in_work(shape: Shape, bf16: bool, tensor: int) -> float:
    """Bytes of the gradients of one token that are alive together while a layer's backward pass runs: of the MLP's
    product and of its two factors, and of the hidden states."""
    factors = shape.traits.mlp_inputs + 1
    return factors * shape.mlp / tensor * (BF16 if bf16 else FP32) + 2 * FP32 * shape.hidden


def _learning(work: Work, setup: Setup, machine: Machine) -> dict[str, float]:
    shape, packed = work.shape, not machine.is_gpu
    trees = setup.trees_at_once(work, packed)
    tokens, read = trees * work.tree.tokens, trees * work.read
    one = kept(shape, machine.is_gpu, work.bf16, work.rank, setup.tensor)
    # Each layer has its own copy of the mask.
    mask = row_share(shape, machine) * (BF16 if work.bf16 else FP32) * work.tree.tokens
    layers = math.ceil(shape.layers / setup.pipeline)
    # With a pipeline, the first stage keeps the activations of as many micro-batches as there are stages.
    waiting = min(setup.pipeline, setup.micro_batches(work, packed))
    in_work = _in_work(shape, work.bf16, setup.tensor) * tokens
    if setup.recompute:
        activations = FP32 * shape.hidden * layers * tokens * waiting + (one + mask) * tokens + in_work
    else:
        # The MLP of the last layer is computed only where a head reads.
        unread = (tokens - read) * _mlp_kept(shape, work.bf16, setup.tensor)
        activations = (one + mask) * layers * tokens * waiting - unread + in_work
    parts = {"activations": activations}
    if work.has_head:
        parts["logits"] = _logits(work, read, setup.tensor, machine.is_gpu)
    if work.teacher:
        # The teacher reads the same trees, and the gradient of the divergence is computed with its value.
        parts["teacher's pass"] = _forward_bytes(work.teacher, work.bf16, setup.tensor) * tokens
        parts["teacher's logits"] = parts["logits"]
    if setup.sharded and not work.quantized:
        parts["gathered weights"] = gathered(work, setup) + gradients_of_gathered(work, setup)
    parts["weight copies"] = _copies(work, setup, machine)
    return {name: size for name, size in parts.items() if size}


def _mlp_kept(shape: Shape, bf16: bool, tensor: int) -> float:
    return (4 if shape.traits.mlp_inputs == 2 else 2) * shape.mlp / tensor * (BF16 if bf16 else FP32)


def _logits(work: Work, read: int, tensor: int, is_gpu: bool) -> float:
    """Logits that are kept for the backward pass, and one chunk with its gradient (core/logprobs.py)."""
    number = BF16 if work.bf16 else FP32
    vocabulary = work.shape.vocabulary / tensor
    elements = read * vocabulary
    chunk = min(elements, CHUNK_ELEMENTS)
    stays = elements if elements <= KEPT_ELEMENTS else chunk
    rows_in_fp32 = 2 * FP32 * chunk if is_gpu else 0  # a CPU makes these for a few rows at a time
    return number * stays + number * chunk + rows_in_fp32


def _copies(work: Work, setup: Setup, machine: Machine) -> float:
    """Weights in autocast's dtype beside those in fp32, and the product that is added to a gradient."""
    shape = work.shape
    if work.quantized:  # the weight of one product is made whole at a time
        return FP32 * max(m.size for m in shape.matrices)
    largest = max(shape.embedding if work.has_head else 0, *(m.size for m in shape.matrices)) / setup.tensor
    if not machine.is_gpu:
        # A product of the backward pass is computed apart and then added to the gradient.
        return FP32 * largest if not work.rank else 0.0
    if setup.sharded:
        return copies_beside(work, setup)
    if not work.bf16:
        return 0.0
    layer, head = shape.layer(setup.tensor), shape.embedding / setup.tensor * work.has_head
    if work.rank and setup.recompute:  # frozen weights are cast anew for each layer
        return BF16 * (layer + head)
    return BF16 * shape.weights(setup.tensor, setup.pipeline, work.has_head)


# -- passes without gradient -------------------------------------------------------------------------


def _scoring(work: Work, setup: Setup, machine: Machine) -> dict[str, float]:
    """A pass for log-probs, values and scores. DPO's reference is read before the first step."""
    if not work.has_reference:
        return {}
    limit = GPU_FORWARD if machine.is_gpu else CPU_FORWARD
    tokens = max(work.tree.tokens, min(limit, FORWARD_FACTOR * setup.micro_batch_tokens))
    tokens = min(tokens, setup.trees_of_rank(work) * work.tree.tokens)
    chunk = min(tokens * work.shape.vocabulary / setup.tensor, CHUNK_ELEMENTS)
    parts = {
        "activations": _forward_bytes(work.shape, work.bf16, setup.tensor) * tokens,
        "logits": ((BF16 if work.bf16 else FP32) + (2 * FP32 if machine.is_gpu else 0)) * chunk,
    }
    if setup.sharded:
        parts["gathered weights"] = gathered(work, setup)
    if machine.is_gpu and work.bf16:
        parts["weight copies"] = _copies(work, setup, machine)
    return parts


def _forward_bytes(shape: Shape, bf16: bool, tensor: int) -> float:
    """Bytes of one token that are alive together in a pass without gradient: the MLP's, or those of attention."""
    number = BF16 if bf16 else FP32
    mlp = (shape.traits.mlp_inputs + 1) * shape.mlp / tensor * number
    attention = (4 * shape.queries + 2 * shape.keys) / tensor * FP32
    return max(mlp, attention) + 3 * FP32 * shape.hidden


def cache_bytes(shape: Shape, bf16: bool, setup: Setup) -> float:
    """Bytes of keys and values of one token on a rank. A stage of a pipeline samples with the layers of all stages."""
    return 2 * shape.layers * shape.keys / setup.tensor * (BF16 if bf16 else FP32)


def gathered_weights(work: Work, setup: Setup) -> float:
    """Weights of the other stages that a stage of a pipeline has while it samples. A teacher samples after the student.

    (engines/pipeline/passing.py)
    """
    shapes = [work.shape, *([work.teacher] if work.teacher else [])]
    of_others = [shape.weights(setup.tensor) - shape.weights(setup.tensor, setup.pipeline) for shape in shapes]
    if work.rank:
        of_others[0] += work.shape.adapters(work.rank, setup.tensor)
        of_others[0] -= work.shape.adapters(work.rank, setup.tensor, setup.pipeline)
    return max(of_others)


def _sampling(work: Work, setup: Setup, machine: Machine) -> dict[str, float]:
    if not (work.samples or work.method == "dpo"):
        return {}
    shape = work.shape
    # An evaluation of DPO answers held-out prompts, in all slots. No time is planned for it.
    rows = min(work.slots, setup.trees_of_stage(work) * work.tree.branches) if work.samples else work.slots
    columns = work.tree.prompt + work.tree.response - 1
    prompts = math.ceil(rows / work.tree.branches) if work.samples else rows
    at_once = max(work.tree.prompt, min(PREFILL_TOKENS, prompts * work.tree.prompt))
    parts = {
        "KV cache": rows * columns * cache_bytes(shape, work.bf16, setup),
        "sampled logits": (2 * FP32 + (BF16 if work.bf16 else 0)) * rows * shape.vocabulary / setup.tensor,
        "prompts": _forward_bytes(shape, work.bf16, setup.tensor) * at_once,
    }
    if setup.sharded:  # the sampler reads whole weights: each rank gathers a copy for the rollout
        parts["weight transfer"] = whole_model(work, setup) + copies_beside(work, setup)
    elif machine.is_gpu and work.bf16:
        parts["weight transfer"] = BF16 * shape.weights(setup.tensor)
    if setup.pipeline > 1:
        parts["weights of all stages"] = FP32 * gathered_weights(work, setup)
    return parts
