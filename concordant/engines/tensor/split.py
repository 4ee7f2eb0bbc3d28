"""Splits a model over the processes of a tensor group. Nothing else of the engines knows how a layer is split.

The slices are written by hand and put on a model as kernels are (kernels/put_on.py): a layer changes its class, keeps
its name, and its weights become the parts of this process. PyTorch's DTensor is not used, because our products add to
``.grad`` in place and read plain tensors, and because the exact plan has no counterpart there.

A model is split after it was loaded, checked and given its kernels as a whole. So every mesh decides alike about layout
and kernels, and a policy, its frozen copy, its critic and its generator are all made from the same split model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from concordant.core.axis import Axis
from concordant.core.errors import UserError
from concordant.engines.ranks import Ranks
from concordant.engines.tensor import exact, layers
from concordant.engines.tensor.cuts import Cut, Piece, even, hold_part
from concordant.engines.tensor.layers import SHARE, PartDropout, Share, share_of
from concordant.kernels import weight_gradients
from concordant.kernels.replaced import MAKERS, Maker, is_made_by, put_beneath
from concordant.models.backbone import backbone, run_backbone, undisturbed
from concordant.models.lora_layer import Adapter, LoRALinear
from concordant.models.scalar_head import ValueHead
from concordant.models.trial import TOLERANCE, two_rows

FITTING = "cluster.tensor splits decoders whose layers have the parts of Llama's (Qwen, Mistral, …) or of GPT-2's"

LLAMA = {f"self_attn.{name}_proj" for name in "qkvo"} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
GPT2 = {f"attn.{name}" for name in ("c_attn", "c_proj")} | {f"mlp.{name}" for name in ("c_fc", "c_proj")}


def split_over(model: PreTrainedModel, ranks: Ranks) -> None:
    """Give every large layer of ``model`` only this process's part of its weights. Nothing changes without a group.

    Raises:
        UserError: the layers have other parts than the plan knows; there are fewer heads than processes; or the split
            model gives other numbers than the whole one.
    """
    if ranks.tensor.size == 1:
        return
    _decoder_layers(model)  # before a pass that an encoder could not do
    rows, _ = two_rows(model)
    with undisturbed(model):
        wanted = run_backbone(model, rows)
    _Split(model, ranks.tensor, ranks.in_order).put_on()
    with undisturbed(model):
        found = run_backbone(model, rows)
    if not (found - wanted).abs().max() <= TOLERANCE * wanted.square().mean().sqrt():
        raise UserError(f"{type(model).__name__} gives other numbers when its layers are split; {FITTING}")


def split_value_head(head: nn.Module, ranks: Ranks) -> None:
    """Split the wide layer of a critic's head. A layer with one output, and the exact plan, leave it whole."""
    if ranks.tensor.size > 1 and isinstance(head, ValueHead) and not ranks.in_order:
        _Split(head, ranks.tensor, False).head(head.dense)


def vocabulary_cut(model: PreTrainedModel) -> Cut | None:
    """How the vocabulary is split where the logits can stay in parts; None if they are whole."""
    head: Any = model.get_output_embeddings()
    return share_of(head).outputs if head is not None and is_made_by(head, layers.head) else None


class _Split:
    """Splits the layers of one model."""

    def __init__(self, model: nn.Module, axis: Axis, in_order: bool) -> None:
        self.model, self.axis, self.in_order = model, axis, in_order
        self.whole = list(model.parameters())  # alive until the end, so that no two have the same id
        self.parts: dict[int, nn.Parameter] = {}

    def put_on(self) -> None:
        assert isinstance(self.model, PreTrainedModel)
        for layer in _decoder_layers(self.model):
            parts = dict(layer.named_modules())
            if parts.keys() >= LLAMA:
                self._like_llama(layer)
            elif parts.keys() >= GPT2:
                self._like_gpt2(layer)
            else:
                raise UserError(f"cluster.tensor has no plan for {type(layer).__name__}; {FITTING}")
        self._vocabulary(self.model)

    # -- architectures --------------------------------------------------------------------------

    def _like_llama(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        size, heads = attention.head_dim, _base(attention.k_proj).weight.shape[0] // attention.head_dim
        self._check_heads(heads)
        queries = _base(attention.q_proj).weight.shape[0]
        q_cut, kv_cut = self._even(queries, queries // heads), self._even(heads * size, size)
        for name, cut in (("q_proj", q_cut), ("k_proj", kv_cut), ("v_proj", kv_cut)):
            self.columns(getattr(attention, name), cut)
        self.rows(attention.o_proj, q_cut)
        for name, cut in (("q_norm", q_cut), ("k_norm", kv_cut)):
            if hasattr(attention, name):
                self._norm(getattr(attention, name), cut, size)
        self._mlp([mlp.gate_proj, mlp.up_proj], mlp.down_proj, _base(mlp.up_proj).weight.shape[0])

    def _like_gpt2(self, layer: Any) -> None:
        attention, mlp = layer.attn, layer.mlp
        hidden = attention.embed_dim
        self._check_heads(attention.num_heads)
        cut = self._even(hidden, attention.head_dim)
        fused = tuple(tuple((at + a, at + b) for at in (0, hidden, 2 * hidden) for a, b in part) for part in cut.spans)
        self.columns(attention.c_attn, Cut(self.axis, fused))  # queries, keys and values side by side
        attention.split_size = cut.own_size
        self.rows(attention.c_proj, cut)
        self._mlp([mlp.c_fc], mlp.c_proj, _base(mlp.c_fc).weight.shape[1])

    def _mlp(self, first: list[nn.Module], last: nn.Module, width: int) -> None:
        """``first`` layers of ``width`` columns, an activation function, and the ``last`` layer."""
        cut = self._even(width)
        if self.in_order and not exact.fits(cut, exact.ACTIVATED):
            for layer in (*first, last):
                self._gathered(_base(layer))
            return
        for layer in first:
            self.columns(layer, cut)
        self.rows(last, cut)

    def _vocabulary(self, model: PreTrainedModel) -> None:
        embedding: Any = model.get_input_embeddings()
        head: Any = model.get_output_embeddings()
        if isinstance(head, LoRALinear):
            raise UserError("cluster.tensor cannot split an output head with an adapter: leave it out of the targets")
        is_tied = head is not None and head.weight is embedding.weight
        is_plain = _plain_class(embedding) is nn.Embedding
        if is_plain:
            self._embedding(embedding)
        if head is not None and _plain_class(head) is nn.Linear and (is_plain or not is_tied):
            self.head(head)

    def _even(self, size: int, unit: int = 0) -> Cut:
        """A cut of ``size`` columns in whole heads of ``unit`` columns; without heads, in the plan's own units."""
        if unit or not self.in_order:
            return even(self.axis, size, unit or 1)
        return exact.even_units(self.axis, size)

    def _check_heads(self, heads: int) -> None:
        if heads < self.axis.size:
            raise UserError(
                f"cluster.tensor is {self.axis.size}, but the attention of {type(self.model).__name__} has {heads} "
                f"key/value heads, and every worker needs one at least; cluster.tensor can be 1 to {heads}"
            )

    # -- layers ---------------------------------------------------------------------------------

    def columns(self, layer: nn.Module, cut: Cut) -> None:
        """``layer`` computes the columns ``cut``, and the next layer takes them as they are."""
        base, share = _base(layer), Share(self.axis, outputs=cut)
        if isinstance(layer, LoRALinear):
            self._adapters(layer, share)
        if self.in_order and not exact.fits(cut):
            self._wrap(base, exact.own_columns, share)
            return
        self._put(base, exact.columns if self.in_order else layers.columns, share)
        self._hold_columns(base, cut)

    def rows(self, layer: nn.Module, cut: Cut) -> None:
        """``layer`` takes the columns ``cut`` of its input, and its result is whole."""
        base, share = _base(layer), Share(self.axis, inputs=cut)
        if isinstance(layer, LoRALinear):
            self._adapters(layer, share)
        if self.in_order:
            self._gathered(base, None if isinstance(layer, LoRALinear) else cut)  # else the wrapper gathers
        else:
            self._put(base, layers.rows, share)
            self._hold(base, "weight", Piece(cut, 0 if isinstance(base, Conv1D) else 1))

    def head(self, layer: Any) -> None:
        """``layer`` takes a whole input. Its result is whole too, or stays in parts for a reader that can use them."""
        if self.in_order:
            self._gathered(layer)
            return
        cut = self._even(layer.weight.shape[0])
        self._put(layer, layers.head, Share(self.axis, None, cut))
        self._hold_columns(layer, cut)

    def _gathered(self, layer: Any, inputs: Cut | None = None) -> None:
        """``layer`` has a whole result by the exact plan. Its input is whole too, or has the columns ``inputs``."""
        share = Share(self.axis, inputs)
        cut = self._even(layer.weight.shape[1 if isinstance(layer, Conv1D) else 0])
        if exact.fits(cut):
            self._put(layer, exact.gathered_columns, share)
            self._hold_columns(layer, cut)
        elif inputs is not None:
            self._wrap(layer, exact.gathered_input, share)

    def _embedding(self, layer: Any) -> None:
        cut = self._even(layer.weight.shape[0])
        if self.in_order and not exact.fits(cut):
            return
        self._put(layer, layers.vocabulary, Share(self.axis, None, cut))
        self._hold(layer, "weight", Piece(cut, 0))
        if layer.padding_idx is not None:
            own = layer.padding_idx - cut.start
            layer.padding_idx = own if 0 <= own < cut.own_size else None

    def _norm(self, norm: Any, cut: Cut, head_size: int) -> None:
        if norm.weight.shape != (head_size,):
            raise UserError(f"{type(norm).__name__} normalises all heads together, which cluster.tensor cannot split")
        heads = Cut(self.axis, tuple(tuple((a // head_size, b // head_size) for a, b in part) for part in cut.spans))
        self._wrap(norm, exact.norm_of_heads if self.in_order else layers.norm_of_heads, Share(self.axis, inputs=heads))

    def _adapters(self, layer: LoRALinear, share: Share) -> None:
        if not all(layer.adapter(name).is_plain for name in layer.adapters):
            raise UserError("cluster.tensor cannot split the adapters of DoRA and PiSSA, which look at whole weights")
        if self.in_order:
            vars(layer)[SHARE] = share
            put_beneath(layer, exact.adapted, exact.adapted)
            return
        for name in layer.adapters:
            adapter = layer.adapter(name)
            if share.outputs is not None:
                self._put(adapter, layers.adapter_columns, share)
                self._hold(adapter, "lora_B", Piece(share.outputs, 0))
            elif share.inputs is not None:
                self._put(adapter, layers.adapter_rows, share)
                self._hold(adapter, "lora_A", Piece(share.inputs, 1))
                adapter.dropout = PartDropout(adapter.dropout.p, share.inputs).train(adapter.training)

    def _wrap(self, layer: Any, maker: Maker, share: Share) -> None:
        """Put ``maker`` over the layer and its kernels."""
        vars(layer)[SHARE] = share
        layer.__class__ = maker(type(layer))

    def _put(self, layer: nn.Module, maker: Maker, share: Share) -> None:
        if _plain_class(layer) not in (nn.Linear, Conv1D, nn.Embedding, Adapter):
            raise UserError(f"cluster.tensor cannot split a {_plain_class(layer).__name__}; {FITTING}")
        vars(layer)[SHARE] = replace(share, fast=is_made_by(layer, weight_gradients.fast))
        put_beneath(layer, maker, weight_gradients.fast)

    def _hold_columns(self, layer: Any, cut: Cut) -> None:
        self._hold(layer, "weight", Piece(cut, 1 if isinstance(layer, Conv1D) else 0))
        if layer.bias is not None:
            self._hold(layer, "bias", Piece(cut, 0))

    def _hold(self, layer: nn.Module, name: str, piece: Piece) -> None:
        hold_part(layer, name, piece, self.parts)


def _decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of a decoder; UserError where the model is no decoder."""
    lists = [child for child in backbone(model).children() if isinstance(child, nn.ModuleList) and len(child)]
    if len(lists) != 1:
        raise UserError(f"cluster.tensor found no list of decoder layers in {type(model).__name__}; {FITTING}")
    return list(lists[0])


def _base(layer: Any) -> Any:
    return layer.base if isinstance(layer, LoRALinear) else layer


def _plain_class(layer: nn.Module) -> type:
    """The class of ``layer`` before any kernel was put on."""
    return vars(type(layer)).get(MAKERS, (type(layer),))[0]
