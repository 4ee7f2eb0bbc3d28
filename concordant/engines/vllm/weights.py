"""The tensors that vLLM's copy of a model takes: each weight once, by its plain Hugging Face name."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


def write_config(model: PreTrainedModel, folder: str) -> None:
    """Write config.json of ``model`` into ``folder``; vLLM needs no other file if the weights are sent."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]  # vLLM chooses its code by this name
    config.save_pretrained(folder)


class Expected:
    """The names and shapes of the weights of the model in ``folder``, read from its configuration alone."""

    def __init__(self, folder: str) -> None:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        # A tied weight has two names in a state dict and one name here. vLLM refuses the second name.
        self.shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self.other_names = model.state_dict().keys() - self.shapes.keys()

    def checked(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The weights among ``tensors``. ValueError if one is missing, unknown or of another shape."""
        missing, unknown = self.shapes.keys() - tensors.keys(), tensors.keys() - self.shapes.keys() - self.other_names
        if missing or unknown:
            listed = ", ".join(sorted(missing)[:3]) or "none"
            raise ValueError(
                f"the published weights are another model's: missing {listed} ({len(missing)} in all), "
                f"unknown {', '.join(sorted(unknown)[:3]) or 'none'} ({len(unknown)} in all)"
            )
        for name, shape in self.shapes.items():
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"the published {name} has shape {tuple(tensors[name].shape)}; expected {shape}")
        return ((name, tensors[name].detach()) for name in self.shapes)


@torch.no_grad()
def pack_tied_heads(model: nn.Module) -> None:
    """Pack the output heads of vLLM's ``model`` for a CPU once more. vLLM calls this function with the worker's model.

    The CPU build multiplies by packed copies of the weights. ``reload_weights`` packs each layer whose weights are
    sent, but a head that is tied to the embedding is sent under the embedding's name, so its copy would stay old.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)
