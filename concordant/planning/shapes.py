"""The dimensions of a decoder, and the numbers of weights that follow from them.

H hidden size, V vocabulary. A query projection has ``queries`` = heads × head size outputs; keys and values have
``keys`` outputs each. Under tensor parallelism a matrix is divided by the number of ranks: the projections of queries,
keys, values and the first matrices of the MLP by their outputs, the other two by their inputs, embedding and head by
the vocabulary. Vectors of size H are whole on every rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from concordant.config.names import ModelKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What an architecture has beside its dimensions."""

    mlp_inputs: int = 2  # matrices before the MLP's activation: 2 with a gate
    norms: int = 2  # norms of size H in a layer
    norms_heads: bool = False  # queries and keys have a norm of the head size
    scales_once: bool = True  # the norm's own code is Llama's, for which there is a kernel
    projection_bias: bool = False  # of queries, keys and values
    all_biases: bool = False  # every matrix and every norm has a bias
    fused: bool = False  # queries, keys and values are one matrix, which changes an adapter's size


KINDS: dict[ModelKind, Kind] = {
    "llama": Kind(),
    "mistral": Kind(),
    "qwen2": Kind(projection_bias=True),
    "qwen3": Kind(norms_heads=True),
    "gemma3_text": Kind(norms=4, norms_heads=True, scales_once=False),
    "gpt2": Kind(mlp_inputs=1, all_biases=True, fused=True, scales_once=False),
}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight of a layer. ``by_outputs``: tensor parallelism divides its outputs, and otherwise its inputs."""

    inputs: int
    outputs: int
    by_outputs: bool

    @property
    def size(self) -> int:
        return self.inputs * self.outputs

    def adapter(self, rank: int, tensor: int) -> float:
        """Weights of a LoRA adapter on one of ``tensor`` ranks. The half beside the undivided side is whole."""
        whole, divided = (self.inputs, self.outputs) if self.by_outputs else (self.outputs, self.inputs)
        return rank * (whole + divided / tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions of a decoder, as in its config.json."""

    kind: ModelKind
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    tied: bool  # embedding and head are one matrix
    positions: int = 0  # rows of a table of learnt positions; 0: rotary positions

    @property
    def traits(self) -> Kind:
        return KINDS[self.kind]

    @property
    def queries(self) -> int:
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_size

    @property
    def attention(self) -> list[Matrix]:
        """Matrices of a layer's attention. The keys and values are the second and the third, or part of the first."""
        out = Matrix(self.queries, self.hidden, False)
        if self.traits.fused:
            return [Matrix(self.hidden, self.queries + 2 * self.keys, True), out]
        inputs = [Matrix(self.hidden, n, True) for n in (self.queries, self.keys, self.keys)]
        return [*inputs, out]

    @property
    def matrices(self) -> list[Matrix]:
        """All matrices of a layer."""
        first = [Matrix(self.hidden, self.mlp, True)] * self.traits.mlp_inputs
        return [*self.attention, *first, Matrix(self.mlp, self.hidden, False)]

    @property
    def embedding(self) -> int:
        """Weights of the embedding of tokens."""
        return self.vocabulary * self.hidden

    @property
    def layer_matrices(self) -> int:
        return sum(m.size for m in self.matrices)

    def layer(self, tensor: int = 1) -> float:
        """Weights of a layer on one of ``tensor`` ranks."""
        traits = self.traits
        whole = traits.norms * self.hidden * (2 if traits.all_biases else 1)
        whole += 2 * self.head_size if traits.norms_heads else 0
        divided: float = self.layer_matrices
        if traits.projection_bias or traits.all_biases:
            divided += self.queries + 2 * self.keys
        if traits.all_biases:
            divided += self.mlp  # of the MLP's first matrix
            whole += 2 * self.hidden  # of the two matrices that are divided by their inputs
        return whole + divided / tensor

    def weights(self, tensor: int = 1, pipeline: int = 1, head: bool = True) -> float:
        """Weights of the fullest rank of a mesh; all weights with one rank. ``head``: with the language-model head.

        The stages of a pipeline have equally many layers, or one more. The first has the embedding, the last the final
        norm and the head. A tied head is a second copy of the embedding where there are two stages or more.
        """
        final = self.hidden * (2 if self.traits.all_biases else 1)
        table = self.embedding / tensor
        first = table + self.positions * self.hidden
        last = final + (table if head and (pipeline > 1 or not self.tied) else 0)
        layers = math.ceil(self.layers / pipeline) * self.layer(tensor)
        return layers + (first + last if pipeline == 1 else max(first, last))

    def adapters(self, rank: int, tensor: int = 1, pipeline: int = 1) -> float:
        """Weights of adapters of this ``rank`` on every matrix of the layers, on the fullest rank of a mesh."""
        return math.ceil(self.layers / pipeline) * sum(m.adapter(rank, tensor) for m in self.matrices)

    def divides(self, tensor: int, pipeline: int) -> bool:
        """Whether a mesh can divide this model: whole heads on each rank, and a layer for each stage."""
        parts = (self.heads, self.kv_heads, self.mlp)
        return pipeline <= self.layers and all(part % tensor == 0 for part in parts)
