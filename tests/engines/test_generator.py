"""The sampler: the same tokens and log-probs as plain transformers, whatever shares the batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from concordant.config.sampling import SamplingConfig
from concordant.core.errors import UserError
from concordant.core.seeding import torch_stream
from concordant.engines import decoding
from concordant.engines.protocol import Completion
from concordant.engines.torch_generator import TorchGenerator
from concordant.kernels.ragged_attention import cut
from concordant.models.load import checkpoint_activations

VOCABULARY = 97
END = (2, 5, 11, 17)
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,  # large, so that a wrong mask or position changes what is sampled
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = SIZES | {"intermediate_size": 64, "num_key_value_heads": 2}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GATED)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SIZES, n_positions=64)),
    "mistral, sliding": lambda: MistralForCausalLM(MistralConfig(**GATED, sliding_window=7)),
    "gemma3, one layer of two sliding": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**GATED, head_dim=8, sliding_window=7, layer_types=["sliding_attention", "full_attention"])
    ),
    "gemma2, eager": lambda: Gemma2ForCausalLM(Gemma2Config(**GATED, head_dim=8, sliding_window=7)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(**SIZES)),
    "mamba": lambda: MambaForCausalLM(MambaConfig(**SIZES, state_size=4)),
}
WITH_SLOTS = {name: name not in ("bloom", "mamba") for name in MODELS}


def build(name: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MODELS[name]().eval()


def random_prompts(*lengths: int) -> list[Tensor]:
    stream = torch_stream(1, "prompts")
    return [torch.randint(0, VOCABULARY, (n,), generator=stream) for n in lengths]


def plain_logprobs(model: PreTrainedModel, prompt: Tensor, response: Tensor, temperature: float) -> Tensor:
    """What a full forward pass without a cache says of the response's tokens."""
    with torch.no_grad():
        logits = model(input_ids=torch.cat([prompt, response])[None], use_cache=False).logits[0]
    whole = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)
    return whole.gather(1, response[:, None])[:, 0]


def same(a: list[list[Completion]], b: list[list[Completion]]) -> bool:
    pairs = [(x, y) for xs, ys in zip(a, b, strict=True) for x, y in zip(xs, ys, strict=True)]
    return all(torch.equal(x.ids_T, y.ids_T) and x.finish_reason == y.finish_reason for x, y in pairs)


# -- against plain transformers ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_transformers_generate(name: str) -> None:
    model = build(name)
    prompts = random_prompts(9, 3, 1, 14, 9, 6)
    generator = TorchGenerator(model, END)
    ours = generator.generate(prompts, SamplingConfig(temperature=0, max_new_tokens=12, slots=3), seed=0)
    assert generator.uses_slots == WITH_SLOTS[name]
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        mask = torch.ones_like(prompt)[None]
        peer = cast(Any, model).generate(
            prompt[None],
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=list(END),
            pad_token_id=0,
        )
        assert completion.ids_T.tolist() == peer[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_logprobs_are_those_of_a_plain_forward_at_the_same_temperature(name: str, temperature: float) -> None:
    model = build(name)
    prompts = random_prompts(5, 12, 1, 12)
    sampling = SamplingConfig(n=2, temperature=temperature, max_new_tokens=16, slots=3)
    for prompt, completions in zip(prompts, TorchGenerator(model, END).generate(prompts, sampling, 0), strict=True):
        for c in completions:
            torch.testing.assert_close(
                c.logprob_T, plain_logprobs(model, prompt, c.ids_T, temperature), atol=1e-4, rtol=0
            )


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3, one layer of two sliding"])
def test_rows_attended_in_runs_of_like_length_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = build(name), random_prompts(*range(40, 3, -2), *range(1, 6))
    sampling = SamplingConfig(max_new_tokens=10, slots=20)
    runs = []
    step = decoding.SlotDecoder.step

    def watched(self: decoding.SlotDecoder, last: list[int]) -> Tensor:
        runs.append([(r.first, r.last) for r in self.runs])
        return step(self, last)

    monkeypatch.setattr(decoding.SlotDecoder, "step", watched)
    out = TorchGenerator(model, END).generate(prompts, sampling, 0)
    assert max(map(len, runs)) > 1
    for prompt, (c,) in zip(prompts, out, strict=True):
        torch.testing.assert_close(c.logprob_T, plain_logprobs(model, prompt, c.ids_T, 1.0), atol=1e-4, rtol=0)
    assert model.config._attn_implementation == "sdpa"


def test_runs_are_cut_where_reading_on_costs_more_than_a_call() -> None:
    """Four rows of 10 read to column 100 are 360 cells for nothing, to column 70 they are 240."""
    assert [(r.first, r.last, r.span) for r in cut([100] * 4 + [10] * 4)] == [(0, 4, 100), (4, 8, 10)]
    assert [(r.first, r.last, r.span) for r in cut([70] * 4 + [10] * 4)] == [(0, 8, 70)]
    assert [(r.first, r.last, r.span) for r in cut([10, 9, 8, 7, 30])] == [(0, 5, 30)]
    assert [(r.first, r.last, r.span) for r in cut([5] * 5, allowed=0)] == [(0, 5, 5)]
    assert cut([]) == []


def test_greedy_logprobs_are_at_temperature_one() -> None:
    model, prompts = build("llama"), random_prompts(6)
    ((c,),) = TorchGenerator(model, END).generate(prompts, SamplingConfig(temperature=0, max_new_tokens=8), 0)
    torch.testing.assert_close(c.logprob_T, plain_logprobs(model, prompts[0], c.ids_T, 1.0), atol=1e-4, rtol=0)


def test_a_model_whose_cache_is_off_by_a_little_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    assert decoding.slots_are_exact(model)
    masks = decoding.SlotDecoder._masks

    def stale_key_in_sight(self: decoding.SlotDecoder, position_R: Tensor) -> Tensor | dict[str, Tensor]:
        return masks(self, position_R + 1)

    monkeypatch.setattr(decoding.SlotDecoder, "_masks", stale_key_in_sight)
    assert not decoding.slots_are_exact(model)


def test_bfloat16_autocast_stays_close() -> None:
    model, prompts = build("llama"), random_prompts(5, 12)
    generator = TorchGenerator(model, END, precision=torch.bfloat16)
    for prompt, (c,) in zip(prompts, generator.generate(prompts, SamplingConfig(max_new_tokens=8), 0), strict=True):
        assert c.logprob_T.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            expected = plain_logprobs(model, prompt, c.ids_T, 1.0)
        torch.testing.assert_close(c.logprob_T, expected.float(), atol=0.3, rtol=0.05)


# -- what a sample depends on -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_tokens_depend_on_the_seed_and_not_on_slots_or_order(name: str) -> None:
    generator = TorchGenerator(build(name), END)
    prompts = random_prompts(7, 3, 7, 11, 1, 4)
    few = generator.generate(prompts, SamplingConfig(n=3, max_new_tokens=15, slots=2), seed=4)
    many = generator.generate(prompts, SamplingConfig(n=3, max_new_tokens=15, slots=64), seed=4)
    other = generator.generate(prompts, SamplingConfig(n=3, max_new_tokens=15, slots=64), seed=5)
    turned = generator.generate(prompts[::-1], SamplingConfig(n=3, max_new_tokens=15, slots=5), seed=4)
    alone = generator.generate(prompts[1:2], SamplingConfig(n=1, max_new_tokens=15), seed=4)
    assert same(few, many)
    assert same(few, turned[::-1])
    assert same([few[1][:1]], alone)
    assert not same(few, other)


def test_equal_prompts_and_the_samples_of_one_prompt_differ() -> None:
    (prompt,) = random_prompts(6)
    out = TorchGenerator(build("llama"), ()).generate([prompt, prompt], SamplingConfig(n=2, max_new_tokens=12), 0)
    assert len({tuple(c.ids_T.tolist()) for row in out for c in row}) == 4


def test_a_longer_limit_continues_the_same_response() -> None:
    generator, prompts = TorchGenerator(build("llama"), ()), random_prompts(6)
    ((short,),) = generator.generate(prompts, SamplingConfig(max_new_tokens=5), 0)
    ((long,),) = generator.generate(prompts, SamplingConfig(max_new_tokens=12), 0)
    assert long.ids_T[:5].tolist() == short.ids_T.tolist()


def test_global_random_state_and_training_flags_are_left_alone() -> None:
    model = build("llama").train()
    model.lm_head.eval()
    checkpoint_activations(model)  # with a gradient it would switch the cache off
    before = torch.random.get_rng_state()
    prompts = random_prompts(4)
    TorchGenerator(model, END).generate(prompts, SamplingConfig(max_new_tokens=3), 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training and model.model.layers[0].training and not model.lm_head.training
    model(input_ids=prompts[0][None]).logits.sum().backward()  # nothing of the sampler's is left in the graph


# -- how a response ends ----------------------------------------------------------------------------


def test_a_response_ends_with_its_first_end_token_or_at_the_limit() -> None:
    prompts = random_prompts(*[4] * 40)
    out = TorchGenerator(build("llama"), END).generate(prompts, SamplingConfig(max_new_tokens=20, slots=8), 0)
    reasons = [c.finish_reason for (c,) in out]
    assert {"stop", "length"} == set(reasons)
    for (c,) in out:
        ends = [token in END for token in c.ids_T.tolist()]
        assert not any(ends[:-1])
        assert ends[-1] == (c.finish_reason == "stop")  # never forced on a truncated sample
        assert len(c.ids_T) == 20 or c.finish_reason == "stop"
        assert len(c.logprob_T) == len(c.ids_T)


def test_no_prompts_give_no_completions() -> None:
    assert TorchGenerator(build("llama"), END).generate([], SamplingConfig(), 0) == []


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_one_new_token(name: str) -> None:
    out = TorchGenerator(build(name), END).generate(random_prompts(5, 1, 3), SamplingConfig(n=2, max_new_tokens=1), 0)
    assert [[len(c.ids_T) for c in row] for row in out] == [[1, 1]] * 3


def test_streamed_tokens_are_those_returned() -> None:
    heard: dict[tuple[int, int], list[int]] = {}
    out = TorchGenerator(build("llama"), END).generate(
        random_prompts(5, 2, 8),
        SamplingConfig(n=2, max_new_tokens=9, slots=2),
        0,
        on_token=lambda prompt, sample, token: heard.setdefault((prompt, sample), []).append(token),
    )
    assert heard == {(i, k): c.ids_T.tolist() for i, row in enumerate(out) for k, c in enumerate(row)}


def test_a_prompt_is_computed_once_for_all_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    admit = decoding.SlotDecoder.admit

    def counted(self: decoding.SlotDecoder, prompts: list[Tensor], copies: list[int]) -> None:
        rows.append((len(prompts), list(copies)))
        admit(self, prompts, copies)

    generator = TorchGenerator(build("llama"), ())
    assert generator.uses_slots
    monkeypatch.setattr(decoding.SlotDecoder, "admit", counted)
    generator.generate(random_prompts(5, 8), SamplingConfig(n=4, max_new_tokens=3, slots=8), 0)
    assert rows == [(2, [4, 4])]


# -- weights ----------------------------------------------------------------------------------------


def test_completions_carry_the_version_of_the_weights_that_sampled_them() -> None:
    model, prompts = build("llama"), random_prompts(6)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.2 * torch.sin(torch.arange(p.numel(), dtype=torch.float32)).view_as(p))
    generator = TorchGenerator(model, (), version=3)
    sampling = SamplingConfig(max_new_tokens=12)
    ((old,),) = generator.generate(prompts, sampling, 0)
    generator.load_weights(other, 4)
    ((new,),) = generator.generate(prompts, sampling, 0)
    assert (old.version, new.version) == (3, 4)
    torch.testing.assert_close(new.logprob_T, plain_logprobs(other, prompts[0], new.ids_T, 1.0), atol=1e-4, rtol=0)
    assert not torch.equal(old.ids_T, new.ids_T)


def test_a_shared_model_samples_from_the_weights_as_they_are_now() -> None:
    model, prompts = build("llama"), random_prompts(6)
    generator = TorchGenerator(model, ())
    generator.generate(prompts, SamplingConfig(max_new_tokens=2), 0)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    generator.load_weights(model, 1)
    ((c,),) = generator.generate(prompts, SamplingConfig(max_new_tokens=6), 0)
    torch.testing.assert_close(c.logprob_T, plain_logprobs(model, prompts[0], c.ids_T, 1.0), atol=1e-4, rtol=0)


# -- what a user can get wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (SamplingConfig(n=0), "sampling.n is 0; expected a whole number of at least 1"),
        (SamplingConfig(slots=0), "sampling.slots is 0"),
        (SamplingConfig(max_new_tokens=0), "sampling.max_new_tokens is 0"),
        (SamplingConfig(top_k=-1), "sampling.top_k is -1; expected a whole number of at least 0"),
        (SamplingConfig(temperature=-0.1), "sampling.temperature is -0.1"),
        (SamplingConfig(temperature=math.nan), "sampling.temperature is nan"),
        (SamplingConfig(top_p=0.0), "sampling.top_p is 0.0"),
        (SamplingConfig(top_p=1.1), "sampling.top_p is 1.1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(sampling: SamplingConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TorchGenerator(build("llama"), END).generate(random_prompts(3), sampling, 0)


def test_prompts_that_cannot_be_continued_are_refused_by_number() -> None:
    generator = TorchGenerator(build("gpt2"), END)
    with pytest.raises(UserError, match="prompt 1 is empty"):
        generator.generate([*random_prompts(3), torch.empty(0, dtype=torch.int64)], SamplingConfig(max_new_tokens=5), 0)
    with pytest.raises(UserError, match="prompt 0 has 60 tokens.* = 5 .*64 positions"):
        generator.generate(random_prompts(60), SamplingConfig(max_new_tokens=5), 0)
    generator.generate(random_prompts(60), SamplingConfig(max_new_tokens=4), 0)
