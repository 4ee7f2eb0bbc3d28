"""The traits of a causal language model, measured once when the model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from concordant.core.errors import UserError
from concordant.core.trees import Layout
from concordant.models.head import Head, find_head
from concordant.models.layout import check_layout, is_causal


@dataclass(frozen=True, slots=True)
class ModelTraits:
    layout: Layout
    head: Head = Head()


def prepare_model(model: PreTrainedModel) -> ModelTraits:
    """Measure the layout and the head of a causal LM. The global random state is not used."""
    if not is_causal(model):
        raise UserError(f"{type(model).__name__} lets a token see later tokens: expected a causal language model")
    return ModelTraits(check_layout(model), find_head(model))
