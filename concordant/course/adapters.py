"""Exercise 1: LoRA's functions."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from concordant.core.seeding import torch_stream
from concordant.course.exercise import Exercise, Mistake, Observed


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj, self.out = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.q_proj(x)) + self.v_proj(x))


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 6)
        self.first, self.second = _Block(), nn.Sequential(_Block())
        stream = torch_stream(0, "course/lora")
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=stream) / 2

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        return self.first(x) + self.second(x)


def _learnt(layer: Any) -> None:
    """Give A and B the weights of a layer that has learnt something."""
    stream = torch_stream(1, "course/lora")
    for weight in (layer.lora_A, layer.lora_B):
        weight.data = torch.randn(weight.shape, generator=stream) / 3


def observe(module: ModuleType) -> Observed:
    stream = torch_stream(2, "course/lora")
    base, x = nn.Linear(6, 4), torch.randn(3, 6, generator=stream)
    for weight in base.parameters():
        weight.data = torch.randn(weight.shape, generator=stream)
    plain = base(x).detach()
    layer = module.LoRALinear(base, r=2, alpha=6.0)
    seen: Observed = {
        "the shapes of A and B": [list(layer.lora_A.shape), list(layer.lora_B.shape)],
        "whether A, B are zero at the start": [bool((layer.lora_A == 0).all()), bool((layer.lora_B == 0).all())],
        "whether the output at the start is that of the base": bool(torch.allclose(layer(x), plain)),
        "what is trainable in the layer": sorted(n for n, p in layer.named_parameters() if p.requires_grad),
    }
    _learnt(layer)
    seen["the output after A and B have learnt"] = layer(x).tolist()
    model, ids = _Model(), torch.tensor([[0, 1, 4]])
    seen["the target modules of q_proj and v_proj"] = module.find_target_modules(model, ["q_proj", "v_proj"])
    seen["the target modules of proj"] = module.find_target_modules(model, ["proj"])
    module.apply_lora_to_model(model, ["q_proj", "v_proj"], r=2, alpha=6.0)
    seen["what is trainable in the model"] = sorted(n for n, p in model.named_parameters() if p.requires_grad)
    for one in model.modules():
        if isinstance(one, module.LoRALinear):
            _learnt(one)
    before = model(ids).detach()
    module.merge_lora_weights(model)
    seen["the output of the model before the merge"] = before.tolist()
    seen["the change of the model's output by the merge"] = (model(ids) - before).tolist()
    seen["the kinds of layers after the merge"] = sorted({type(m).__name__ for m in model.modules()})
    return seen


LORA = Exercise(
    number=1,
    phase="Phase 1: LoRA",
    name="lora",
    title="LoRA's functions",
    hint="x has the shape (…, in). x @ A.T has the shape (…, r), and (x @ A.T) @ B.T has the shape (…, out).",
    observe=observe,
    mistakes=(
        Mistake(
            name="scaling is missing",
            old="(x @ self.lora_A.T @ self.lora_B.T) * self.scaling",
            new="(x @ self.lora_A.T @ self.lora_B.T)",
            says="forward does not multiply the update by alpha / r, so the update changes its size with the rank, and "
            "the merge changes the model.",
        ),
        Mistake(
            name="scaling by r / alpha",
            old="self.scaling = alpha / r",
            new="self.scaling = r / alpha",
            says="The scaling is r / alpha and must be alpha / r.",
        ),
        Mistake(
            name="B is not zero",
            old="self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))",
            new="self.lora_B = nn.Parameter(torch.full((base.out_features, r), 0.01))",
            says="B is not zero at the start, so that training does not start from the base model.",
        ),
        Mistake(
            name="A is zero too",
            old="        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))\n",
            new="        nn.init.zeros_(self.lora_A)\n",
            says="A and B are both zero, so the gradient of each is zero for ever and nothing is learnt.",
        ),
        Mistake(
            name="the base is not frozen",
            old="        self.base.requires_grad_(False)\n",
            new="",
            says="The base's weights are still trainable in the layer. LoRA trains A and B alone.",
        ),
        Mistake(
            name="the model is not frozen",
            old="    model.requires_grad_(False)\n",
            new="",
            says="Layers without an adapter are still trainable after apply_lora_to_model. First freeze the model.",
        ),
        Mistake(
            name="names match anywhere",
            old='path.rpartition(".")[2] in names',
            new="any(name in path for name in names)",
            says='A target is found wherever its name is a part of the path: "proj" must not match "q_proj".',
        ),
        Mistake(
            name="the merge forgets the scaling",
            old="layer.lora_B.data @ layer.lora_A.data * layer.scaling",
            new="layer.lora_B.data @ layer.lora_A.data",
            says="merge_lora_weights adds B A without alpha / r, so the model's output changes by the merge.",
        ),
    ),
)
