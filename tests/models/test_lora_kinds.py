"""DoRA, PiSSA and combined adapters: numbers by hand, and PEFT's own numbers, both ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.models.load import load_policy
from concordant.models.lora import (
    active_adapter,
    apply_lora_to_model,
    copy_adapter,
    get_lora_parameters,
    lora_layers,
    merge_lora_weights,
    merged_state_dict,
    set_active_adapter,
)
from concordant.models.lora_combine import add_weighted_adapter
from concordant.models.lora_layer import LoRALinear, by_row
from concordant.models.peft_files import load_adapter, save_adapter
from tests.engines.conformance.test_learner import pairs
from tests.engines.tiny import tiny_policy
from tests.models.test_peft_files import adapted, both, edit, gpt2, llama, logits, peft_adapter, wake

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # our settings, and PEFT's
    "dora": ({"dora": True}, {"use_dora": True}),
    "dora rslora": ({"dora": True, "rank_stabilised": True}, {"use_dora": True, "use_rslora": True}),
    "pissa": ({"start": "pissa"}, {"init_lora_weights": "pissa"}),
    "pissa rslora": (
        {"start": "pissa", "rank_stabilised": True},
        {"init_lora_weights": "pissa", "use_rslora": True},
    ),
}
each = pytest.mark.parametrize("kind", KINDS)


def woken(make: Callable[[], PreTrainedModel], **settings: Any) -> PreTrainedModel:
    """A model whose adapter was changed a little, as by training."""
    model = make()
    apply_lora_to_model(model, **{"r": 4, "alpha": 8.0, **settings})
    stream = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in get_lora_parameters(model):
            p.add_(0.1 * torch.randn(p.shape, generator=stream))
    return model


def test_dora_by_hand():
    """W = (3, 4) has length 5. With B A = (0, 8), the row (3, 12) / √153 gets the length 10."""
    base = nn.Linear(2, 1)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[3.0, 4.0]]))
        base.bias.fill_(1.0)
    layer = LoRALinear(base, r=1, alpha=1.0, dora=True)
    adapter, x = layer.adapter("default"), torch.tensor([[1.0, 1.0]])
    assert adapter.lora_magnitude is not None and adapter.lora_magnitude.tolist() == [5.0]
    assert layer(x).item() == pytest.approx(8.0), "the start changes nothing"
    with torch.no_grad():
        adapter.lora_A.copy_(torch.tensor([[0.0, 8.0]]))
        adapter.lora_B.fill_(1.0)
        adapter.lora_magnitude.fill_(10.0)
    assert layer(x).item() == pytest.approx(1 + 10 * 15 / 153**0.5)
    torch.testing.assert_close(layer.merged_weight("default"), 10 * torch.tensor([[3.0, 12.0]]) / 153**0.5)
    layer(x).sum().backward()
    assert adapter.lora_magnitude.grad is not None
    assert adapter.lora_magnitude.grad.item() == pytest.approx(15 / 153**0.5)


def test_pissa_by_hand():
    """Of a weight with the singular values 9, 4 and 1 a rank of 2 takes 9 and 4."""
    base = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        base.weight.copy_(torch.diag(torch.tensor([4.0, 9.0, 1.0])))
    layer = LoRALinear(base, r=2, alpha=4.0, start="pissa")
    torch.testing.assert_close(layer.base.weight, torch.diag(torch.tensor([0.0, 0.0, 1.0])), atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.merged_weight("default"), torch.diag(torch.tensor([4.0, 9.0, 1.0])))
    adapter = layer.adapter("default")
    root = (9.0 / adapter.scaling) ** 0.5
    assert adapter.lora_A[0].abs().tolist() == pytest.approx([0, root, 0], abs=1e-6)
    with pytest.raises(UserError, match="there is another adapter already"):
        layer.add_adapter("more", 2, 4.0, start="pissa")
    with pytest.raises(UserError, match="LoRA rank 4: a layer of 3 inputs and 3 outputs has 3 singular values"):
        LoRALinear(nn.Linear(3, 3), r=4, start="pissa")


@each
@both
def test_peft_computes_what_we_compute(make: Callable[[], PreTrainedModel], kind: str, tmp_path: Path) -> None:
    """With the adapter on the base of its folder, which PiSSA's file is made for too; merging changes nothing."""
    peft = pytest.importorskip("peft")
    ours = woken(make, **KINDS[kind][0])
    save_adapter(ours, tmp_path, "the-base")
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path).eval()
    assert (logits(ours) - logits(make())).abs().max() > 1e-2
    torch.testing.assert_close(logits(theirs), logits(ours), atol=1e-5, rtol=1e-5)
    again = make()
    load_adapter(again, tmp_path)
    torch.testing.assert_close(logits(again), logits(ours), atol=1e-5, rtol=1e-5)
    plain = make()
    plain.load_state_dict(merged_state_dict(ours, "default"))
    torch.testing.assert_close(logits(plain), logits(ours), atol=1e-5, rtol=1e-5)
    before = logits(ours)
    merge_lora_weights(ours)
    torch.testing.assert_close(logits(ours), before, atol=1e-5, rtol=1e-5)


@each
@both
def test_we_compute_what_peft_computes(make: Callable[[], PreTrainedModel], kind: str, tmp_path: Path) -> None:
    expected = peft_adapter(make(), tmp_path, **KINDS[kind][1])
    model = make()
    load_adapter(model, tmp_path)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["dora", "pissa"])
def test_gradients_are_pefts(name: str) -> None:
    """Also through DoRA, whose lengths have no gradient."""
    peft = pytest.importorskip("peft")
    ours, theirs = llama(), peft.get_peft_model(llama(), peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], **KINDS[name][1]
    ))  # fmt: skip
    apply_lora_to_model(ours, ["q_proj", "down_proj"], r=4, alpha=8.0, **KINDS[name][0])
    layers = {path.removeprefix("base_model.model."): m for path, m in theirs.named_modules() if hasattr(m, "lora_A")}
    for path, layer in lora_layers(ours).items():
        mine, other = layer.adapter("default"), layers[path]
        with torch.no_grad():
            wake([mine.lora_A, mine.lora_B])
            other.lora_A["default"].weight.copy_(mine.lora_A)
            other.lora_B["default"].weight.copy_(mine.lora_B)
    ids = torch.tensor([[5, 9, 2, 44, 17]])
    for model in (ours, theirs):
        model.train()
        model(ids).logits.square().sum().backward()
    for path, layer in lora_layers(ours).items():
        mine, other = layer.adapter("default"), layers[path]
        torch.testing.assert_close(mine.lora_A.grad, other.lora_A["default"].weight.grad, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(mine.lora_B.grad, other.lora_B["default"].weight.grad, rtol=1e-4, atol=1e-3)
        if mine.lora_magnitude is not None:
            length = other.lora_magnitude_vector["default"].weight
            torch.testing.assert_close(mine.lora_magnitude.grad, length.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["dora", "pissa"])
def test_a_run_keeps_its_start_as_the_reference_and_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    from concordant.algorithms.sft import SFTObjective
    from concordant.core.objective import Outputs

    def learner() -> LocalLearner:
        policy = tiny_policy()
        apply_lora_to_model(policy.model, r=4, **KINDS[name][0])
        return LocalLearner(PolicyNetwork(policy), TrainConfig())

    def step(one: LocalLearner) -> float:
        loss = one.forward_backward(pairs(), SFTObjective()).result()["loss"]
        one.step(1e-2).result()
        return loss

    one, two = learner(), learner()
    plain = LocalLearner(PolicyNetwork(tiny_policy()), TrainConfig())
    wanted = plain.forward(pairs(), Outputs(logprob=True)).result().logprob_N
    torch.testing.assert_close(one.reference().forward(pairs(), Outputs(logprob=True)).result().logprob_N, wanted)
    losses = [step(one) for _ in range(4)]
    assert losses[-1] < losses[0]
    torch.testing.assert_close(one.reference().forward(pairs(), Outputs(logprob=True)).result().logprob_N, wanted)
    one.save(tmp_path)
    two.load(tmp_path)
    assert step(one) == step(two)
    assert all(torch.equal(p, two.trained[key]) for key, p in one.trained.items())


def test_a_file_of_dora_without_its_lengths_is_refused(tmp_path: Path) -> None:
    save_adapter(adapted(llama), tmp_path, "the-base")
    edit(tmp_path, use_dora=True)
    with pytest.raises(UserError, match="expected a lora_magnitude_vector for every row of"):
        load_adapter(llama(), tmp_path)


# -- several adapters -------------------------------------------------------------------------------


def with_two(make: Callable[[], PreTrainedModel], ranks: tuple[int, int] = (4, 4)) -> PreTrainedModel:
    """Two adapters with a scaling of 1, the second on some of the layers."""
    model = make()
    names = (None, ["q_proj", "c_attn"][make is gpt2 : (make is gpt2) + 1])
    for name, rank, targets in zip(("one", "two"), ranks, names, strict=True):
        apply_lora_to_model(model, targets, r=rank, alpha=float(rank), name=name)
        wake(get_lora_parameters(model, name), seed=rank + len(name) + (name == "two"))
    return model


@both
def test_several_active_adapters_add_up_as_in_peft(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    ours = with_two(make, (4, 3))
    for name in ("one", "two"):
        save_adapter(ours, tmp_path / name, "the-base", name=name)
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path / "one", adapter_name="one")
    theirs.load_adapter(tmp_path / "two", adapter_name="two")
    theirs.base_model.set_adapter(["one", "two"])
    set_active_adapter(ours, ["one", "two"])
    torch.testing.assert_close(logits(ours), logits(theirs.eval()), atol=1e-5, rtol=1e-5)
    plain = make()
    plain.load_state_dict(merged_state_dict(ours, ("one", "two")))
    torch.testing.assert_close(logits(plain), logits(ours), atol=1e-5, rtol=1e-5)
    with active_adapter(ours, "one"):
        alone = logits(ours)
    set_active_adapter(ours, "one")
    assert torch.equal(alone, logits(ours)) and not torch.allclose(alone, logits(plain), atol=1e-2)


@pytest.mark.parametrize(("combination", "ranks"), [("cat", (4, 3)), ("linear", (4, 4)), ("svd", (4, 3))])
def test_weighted_merges_are_pefts(combination: str, ranks: tuple[int, int], tmp_path: Path) -> None:
    """With a scaling of 1: PEFT's svd counts another scaling twice."""
    peft = pytest.importorskip("peft")
    ours = with_two(llama, ranks)
    for name in ("one", "two"):
        save_adapter(ours, tmp_path / name, "the-base", name=name)
    theirs = peft.PeftModel.from_pretrained(llama(), tmp_path / "one", adapter_name="one")
    theirs.load_adapter(tmp_path / "two", adapter_name="two")
    theirs.base_model.add_weighted_adapter(["one", "two"], [0.7, -0.4], "mix", combination_type=combination)
    theirs.base_model.set_adapter("mix")
    add_weighted_adapter(ours, ["one", "two"], [0.7, -0.4], "mix", combination)
    set_active_adapter(ours, "mix")
    torch.testing.assert_close(logits(ours), logits(theirs.eval()), atol=1e-5, rtol=1e-4)


def test_cat_is_the_exact_weighted_sum_at_every_scaling() -> None:
    model = woken(llama, name="one")
    copy_adapter(model, "one", "two")
    wake(get_lora_parameters(model, "two"), seed=9)
    add_weighted_adapter(model, ["one", "two"], [0.5, 2.0], "mix")
    for layer in lora_layers(model).values():
        wanted = 0.5 * layer.adapter("one").update_OI() + 2.0 * layer.adapter("two").update_OI()
        torch.testing.assert_close(layer.adapter("mix").update_OI(), wanted, atol=1e-5, rtol=1e-5)
        assert not any(p.requires_grad for p in layer.adapter("mix").parameters())


@pytest.mark.parametrize("dora", [False, True])
def test_rows_with_adapters_of_their_own_get_what_each_adapter_gives_alone(dora: bool) -> None:
    """As a server computes requests of several clients in one call. A row without an adapter gets the base."""
    layer = LoRALinear(nn.Linear(6, 5), r=2, alpha=2.0, name="one", dora=dora)
    layer.add_adapter("two", 3, 3.0, dora=dora)
    with torch.no_grad():
        for p in layer.adapters.parameters():
            p.normal_(0, 1, generator=torch.Generator().manual_seed(p.numel()))
    x, alone = torch.randn(4, 6), {}
    for name in ("one", "two", None):
        layer.active = name
        alone[name] = layer(x)
    with by_row({"two": torch.tensor([1]), "one": torch.tensor([3, 2])}):
        found = layer(x)
    wanted = torch.stack([alone[None][0], alone["two"][1], alone["one"][2], alone["one"][3]])
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["one", "two"], [1.0], "mix"), "2 adapters and 1 weights: expected a finite weight for each adapter"),
        ((["one", "tow"], [1.0, 1.0], "mix"), 'adapter "tow".* Did you mean "two"'),
        ((["one", "two"], [1.0, 1.0], "one"), 'already has an adapter "one"'),
        ((["one", "two"], [1.0, 1.0], "mix", "ties"), 'combination "ties"'),
        ((["one", "two"], [1.0, 1.0], "mix", "linear"), "adapters of different ranks cannot be added"),
    ],
)
def test_what_cannot_be_combined_is_refused(arguments: Any, said: str) -> None:
    model = with_two(llama, (4, 3))
    with pytest.raises(UserError, match=said):
        add_weighted_adapter(model, *arguments)


def test_dora_is_active_alone_and_never_weighted() -> None:
    model = woken(llama, dora=True, name="one")
    apply_lora_to_model(model, r=4, name="two")
    with pytest.raises(UserError, match='"one" is a DoRA adapter, which scales the whole weight'):
        set_active_adapter(model, ["two", "one"])
    with pytest.raises(UserError, match='"one" is no plain LoRA adapter'):
        add_weighted_adapter(model, ["one", "two"], [1.0, 1.0], "mix")


def test_a_config_makes_these_adapters(tmp_path: Path) -> None:
    from concordant.config.model import LoraConfig, ModelConfig
    from concordant.models.load import save_policy

    save_policy(tiny_policy(), tmp_path)
    lora = LoraConfig(rank=4, alpha=8.0, rslora=True, dora=True, start="pissa")
    model = load_policy(ModelConfig(str(tmp_path), device="cpu", lora=lora)).model
    adapter = next(iter(lora_layers(model).values())).adapter("default")
    assert adapter.scaling == 4.0 and adapter.lora_magnitude is not None and adapter.start_A is not None
