"""Log-probs through trees against each architecture's own forward on plain rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.core.errors import UserError
from concordant.core.trees import Layout, PromptTree, lay_out
from concordant.models.head import Head, find_head, lm_logits
from concordant.models.layout import check_layout, is_causal
from concordant.models.traits import ModelTraits, prepare_model
from concordant.models.tree_attention import hidden_states
from tests.models import zoo


def through_layout(model: PreTrainedModel, trees: list[PromptTree], traits: ModelTraits) -> Tensor:
    """Log-probs of all response tokens in the caller's order, nats, (N,)."""
    batch = lay_out(trees, traits.layout)
    hidden_NH = hidden_states(model, batch, traits.layout).flatten(0, 1)[batch.source_N]
    logprob_N = lm_logits(model, hidden_NH, traits.head).log_softmax(-1).gather(1, batch.target_N[:, None])[:, 0]
    return torch.zeros_like(logprob_N).index_copy(0, batch.token_N, logprob_N)


def through_plain_rows(model: PreTrainedModel, trees: list[PromptTree]) -> Tensor:
    parts = []
    for tree in trees:
        for branch in tree.branches:
            row = torch.cat([tree.prompt_T, branch.ids_T])
            logprob_TV = model(input_ids=row[None]).logits[0].log_softmax(-1)
            start = len(tree.prompt_T)
            parts += [logprob_TV[start + i - 1, token] for i, token in enumerate(branch.ids_T)]
    return torch.stack(parts)


@pytest.mark.parametrize("name", zoo.ALL)
def test_logprobs_are_those_of_plain_rows(name: str) -> None:
    model = zoo.make(name)
    traits = prepare_model(model)
    assert traits.layout is (Layout.TREE if name in zoo.TREE else Layout.FLAT)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            through_layout(model, zoo.trees(), traits), through_plain_rows(model, zoo.trees()), atol=1e-4, rtol=0
        )


def test_gradients_are_those_of_plain_rows() -> None:
    model = zoo.make("Gemma 3").eval()
    weight = model.get_input_embeddings().weight
    traits = prepare_model(model)
    (given,) = torch.autograd.grad(through_layout(model, zoo.trees(), traits).sum(), weight)
    (wanted,) = torch.autograd.grad(through_plain_rows(model, zoo.trees()).sum(), weight)
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "head"),
    [("Cohere", Head(scale=0.25)), ("Granite", Head(scale=0.25)), ("Gemma 2", Head(softcap=3.0)), ("Llama", Head())],
)
def test_what_follows_the_output_embedding_is_found(name: str, head: Head) -> None:
    assert find_head(zoo.make(name)) == head


def test_a_head_that_nobody_foresaw_runs_the_models_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.make("Llama").eval()
    plain = type(model).forward

    def odd(self: PreTrainedModel, **inputs: object) -> object:
        out = plain(self, **inputs)
        out.logits = out.logits**3 + 1.0
        return out

    monkeypatch.setattr(type(model), "forward", odd)
    traits = prepare_model(model)
    assert traits == ModelTraits(Layout.TREE, Head(own_code=True))
    with torch.no_grad():
        given, wanted = through_layout(model, zoo.trees(), traits), through_plain_rows(model, zoo.trees())
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=0)


def test_a_model_that_looks_ahead_is_no_policy() -> None:
    model = zoo.make("Llama")
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    assert not is_causal(model)
    with pytest.raises(UserError, match="lets a token see later tokens"):
        prepare_model(model)


def test_a_model_whose_positions_do_not_matter_is_not_believed() -> None:
    """Attention that adds nothing agrees with any mask; it proves nothing, and training may wake it."""
    model = zoo.make("Llama")
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    assert check_layout(model) is Layout.FLAT


def test_the_check_leaves_no_trace() -> None:
    model = zoo.make("Gemma 2").train()
    model.model.layers[1].eval()
    flags = [m.training for m in model.modules()]
    weights = {name: w.clone() for name, w in model.state_dict().items()}
    settings, state = model.config.to_dict(), torch.get_rng_state()
    prepare_model(model)
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())
    assert model.config.to_dict() == settings
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("asleep", ["positions", "attention"])
def test_a_model_that_one_of_the_two_wrongs_does_not_disturb_is_not_believed(asleep: str) -> None:
    """A wrong mask and wrong positions must both show; where one does not, nothing is known of it."""
    model = zoo.make("GPT-2")
    with torch.no_grad():
        if asleep == "positions":
            model.transformer.wpe.weight.zero_()
        else:
            for layer in model.transformer.h:
                layer.attn.c_proj.weight.zero_()
    assert check_layout(model) is Layout.FLAT
    assert check_layout(zoo.make("GPT-2")) is Layout.TREE


def test_a_cap_is_found_though_an_untrained_models_logits_are_too_small_to_show_it() -> None:
    model = zoo.make("Gemma 2", final_logit_softcapping=30.0, initializer_range=1e-3)
    assert float(model(input_ids=zoo.tokens(9, 0)[None]).logits.detach().abs().max()) < 0.1
    assert find_head(model) == Head(softcap=30.0)
