"""The test device keeps CUDA's rules: where tensors are made, what may be mixed, and what makes the processor wait."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from concordant.core.transfer import to_device
from tests.rehearsal import GPU, GpuTensor, Waits, counting, rehearsal


def on_gpu(x: Any) -> bool:
    return isinstance(x, GpuTensor) and x.device == GPU and x.is_cuda


def waits_of(work: Callable[[], Any]) -> list[str]:
    with counting(Waits()) as waits:
        work()
    return [what for (_, what), count in waits.lines.items() for _ in range(count)]


FACTORIES: dict[str, Callable[[], Tensor]] = {
    "zeros": lambda: torch.zeros(2, device="cuda"),
    "empty": lambda: torch.empty(2, device=GPU),
    "full": lambda: torch.full((2,), 3.0, device="cuda:0"),
    "arange": lambda: torch.arange(3, device="cuda"),
    "rand": lambda: torch.rand(2, device="cuda"),
    "randn": lambda: torch.randn(2, device="cuda", requires_grad=True),
    "randint": lambda: torch.randint(5, (2,), device="cuda"),
    "zeros_like": lambda: torch.zeros_like(torch.ones(2), device="cuda"),
    "like a tensor of the GPU": lambda: torch.ones_like(torch.zeros(2, device="cuda")),
    "new_zeros": lambda: torch.zeros(2, device="cuda").new_zeros(3),
    "new_full": lambda: torch.zeros(2, device="cuda").new_full((3,), 1.0),
    "a generator of the GPU": lambda: torch.rand(
        2, device="cuda", generator=torch.Generator("cuda").manual_seed(1)
    ),
    "a slice": lambda: torch.zeros(4, device="cuda")[1:],
    "to a tensor": lambda: to_device(torch.ones(2), "cuda").to(torch.float64),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_makes_a_tensor_of_the_gpu_without_a_wait(name: str) -> None:
    with rehearsal() as waits:
        made = FACTORIES[name]()
    assert on_gpu(made) and waits.total == 0
    assert made.requires_grad == (name == "randn")


def test_from_the_cpu_and_back() -> None:
    with rehearsal() as waits:
        x = torch.ones(3).to("cuda")
        assert on_gpu(x) and on_gpu(x.to("cuda")) and on_gpu(torch.zeros(1).to(x)) and x.to(x.device) is x
        assert on_gpu(torch.tensor([1, 2], device="cuda")) and on_gpu(torch.ones(1).cuda())
        assert waits.total == 4, "two copies with .to, one from a list, one with .cuda()"
        back = x.cpu()
        assert type(back) is Tensor and back.device.type == "cpu" and waits.total == 5
        x.add_(1)
        assert back.tolist() == [1, 1, 1] and waits.total == 5, "a copy, and no second name of the same numbers"
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            x.numpy()
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            np.asarray(x)
        with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'cuda'"):
            torch.rand(2, generator=torch.Generator("cuda"), device="cpu")
    assert torch.zeros(1).device.type == "cpu" and not torch.cuda.is_available()


MIXTURES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": lambda here, there: here + there,
    "add, turned round": lambda here, there: there + here,
    "a number of the GPU": lambda here, there: here * there.sum(),
    "in place": lambda here, there: there.mul_(here),
    "matmul": lambda here, there: here @ there,
    "cat": lambda here, there: torch.cat([here, there]),
    "stack": lambda here, there: torch.stack([there, here]),
    "where": lambda here, there: torch.where(there > 0, here, there),
    "embedding": lambda here, there: F.embedding(here.long(), there[None]),
    "gather": lambda here, there: there.gather(0, here.long()),
    "assignment by index": lambda here, there: there.__setitem__(torch.zeros(3, dtype=torch.int64), here),
    "a module": lambda here, there: nn.Linear(3, 2)(there),
    "an optimizer": lambda here, there: torch._foreach_add_([here, there], 1.0),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_refused_as_on_cuda(name: str) -> None:
    with (
        rehearsal(),
        pytest.raises(RuntimeError, match="Expected all tensors to be on the same device.*cuda:0 and"),
    ):
        MIXTURES[name](torch.ones(3), torch.ones(3, device="cuda"))


def test_what_cuda_lets_pass() -> None:
    with rehearsal() as waits:
        x = torch.arange(6.0, device="cuda")
        assert on_gpu(x * torch.tensor(2.0)) and on_gpu(x + 1), "a number of the CPU"
        assert waits.total == 0
        assert on_gpu(x[torch.tensor([1, 2])]) and waits.total == 1, "an index of the CPU is copied first"
        x[1:3] = torch.ones(2)
        assert waits.total == 2, "an assignment to a slice is a copy"
        x[torch.zeros(1, dtype=torch.int64, device="cuda")] = 3.0
        assert waits.total == 2
        with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device"):
            torch.ones(3)[torch.zeros(1, dtype=torch.int64, device="cuda")]
    assert x.inner.tolist() == [3, 1, 1, 3, 4, 5]


READS: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "item": (lambda x: x[0].item(), 1),
    "float": (lambda x: float(x[0]), 1),
    "int": (lambda x: int(x.sum()), 1),
    "bool": (lambda x: bool((x > 0).all()), 1),
    "if": (lambda x: 1 if x.sum() > 0 else 0, 1),
    "tolist": (lambda x: x.tolist(), 1),
    "cpu": (lambda x: x.cpu(), 1),
    "to cpu": (lambda x: x.to("cpu", non_blocking=True), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "where": (lambda x: torch.where(x > 1), 1),
    "a boolean index": (lambda x: x[x > 1], 1),
    "an assignment of numbers by a boolean index": (lambda x: x.__setitem__(x > 1, x[:2] + 1), 1),
    "an assignment of one number": (lambda x: x.__setitem__(x > 1, 0.0), 0),
    "masked_select": (lambda x: x.masked_select(x > 1), 1),
    "masked_fill": (lambda x: x.masked_fill(x > 1, 0.0), 0),
    "unique": (lambda x: x.unique(), 1),
    "bincount": (lambda x: x.long().bincount(), 1),
    "repeat_interleave": (lambda x: x.repeat_interleave(x.long()), 1),
    "repeat_interleave of known size": (lambda x: x.repeat_interleave(x.long(), output_size=6), 0),
    "equal": (lambda x: torch.equal(x, x + 0), 1),
    "allclose": (lambda x: torch.allclose(x, x), 1),
    "new_tensor": (lambda x: x.new_tensor(1.0), 1),
    "a copy in": (lambda x: x.copy_(torch.ones(4)), 1),
    "a copy in that nobody waits for": (lambda x: x.copy_(torch.ones(4), non_blocking=True), 0),
    "a copy out": (lambda x: torch.empty(4).copy_(x), 1),
    "from page-locked memory": (lambda x: x + to_device(torch.ones(4), x.device), 0),
    "arithmetic": (lambda x: (x.softmax(0).cumsum(0) @ x).exp(), 0),
    "sorting": (lambda x: x.topk(2).values + x.sort().values[:2], 0),
}


@pytest.mark.parametrize("name", READS)
def test_a_wait_is_counted_where_the_processor_needs_numbers(name: str) -> None:
    read, expected = READS[name]
    with rehearsal():
        x = torch.arange(4.0, device="cuda")
        assert len(waits_of(lambda: read(x))) == expected


def test_a_wait_names_the_line_of_the_package() -> None:
    from concordant.core.masked import whiten

    with rehearsal() as waits:
        whiten(torch.arange(4.0, device="cuda"))
    ((place, what),) = waits.lines
    assert place.startswith("concordant/core/masked.py:") and what == "item()"
    assert place in waits.table() and waits.table().startswith("     1  in all")


_SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 1, "tie_word_embeddings": True,
}  # fmt: skip
MODELS: dict[str, Callable[[], Any]] = {
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)),
    "Qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SIZES, head_dim=8)),
    "GPT-2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=1)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_as_on_the_cpu(name: str) -> None:
    """With dropout, tied weights, autograd, clipping and AdamW."""
    model = MODELS[name]()
    twin = copy.deepcopy(model)

    def trained(model: Any, ids: Tensor) -> list[float]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        losses = []
        for seed in range(3):
            torch.manual_seed(seed)
            loss = F.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), ids.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return torch.stack(losses).tolist()

    ids = torch.arange(20).view(2, 10)
    wanted = trained(twin, ids)
    with rehearsal():
        model.to("cuda")
        assert model.device == GPU and model.lm_head.weight is model.get_input_embeddings().weight
        moved = to_device(ids, model.device)
        with counting(Waits()) as waits:
            given = trained(model, moved)
        assert all(on_gpu(p) for p in copy.deepcopy(model).parameters())
    assert given == pytest.approx(wanted, rel=1e-6)
    assert waits.total == 1, waits.table()


def test_activation_checkpointing_and_autocast() -> None:
    layer = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    x = torch.randn(3, 4)
    gradients = []
    for device in ("cpu", "cuda"):
        with rehearsal():
            moved = copy.deepcopy(layer).to(device)
            torch.manual_seed(0)
            with torch.autocast(device, dtype=torch.bfloat16):
                assert torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
                out = checkpoint(moved, x.to(device), use_reentrant=False)
                assert out.dtype == torch.bfloat16 and out.device.type == device
            out.sum().backward()
            gradients.append([p.grad.cpu() for p in moved.parameters()])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*gradients, strict=True))


def test_a_gradient_crosses_the_devices() -> None:
    x = torch.ones(3, requires_grad=True)
    with rehearsal():
        moved = (x.to("cuda") * torch.arange(3.0, device="cuda")).cpu() * 2
        moved.sum().backward()
    assert type(x.grad) is Tensor and x.grad.tolist() == [0, 2, 4]
