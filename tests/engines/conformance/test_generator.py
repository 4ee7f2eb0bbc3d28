"""The sampler: the same tokens and log-probs as plain transformers, whatever shares the batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
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

from concordant.algorithms.sft import SFTObjective
from concordant.config.sampling import SamplingConfig
from concordant.core.errors import UserError
from concordant.core.objective import Outputs
from concordant.core.seeding import torch_stream
from concordant.core.trees import Branch, PromptTree
from concordant.engines.protocol import Adapters, Completion, Generator
from concordant.models.load import Policy, checkpoint_activations
from tests.engines.conformance.factory import EngineFactory
from tests.engines.tiny import tiny_policy

VOCABULARY = 97
END = (2, 5, 11, 17)
MODELS = (
    "llama",
    "llama, tied",
    "gpt2",
    "mistral, sliding",
    "gemma3, one layer of two sliding",
    "gemma2, eager",
    "bloom",
    "mamba",
)


def of_head_size(head: int) -> dict[str, Callable[[], PreTrainedModel]]:
    """The models, with four attention heads of ``head`` numbers each."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 4 * head,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.3 * (8 / head) ** 0.5,  # large, so that a wrong mask changes what is sampled
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    gated = sizes | {"intermediate_size": 64, "num_key_value_heads": 2}
    one_sliding = {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}
    return {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**gated)),
        "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**gated, tie_word_embeddings=True)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**sizes, n_positions=64)),
        "mistral, sliding": lambda: MistralForCausalLM(MistralConfig(**gated, sliding_window=7)),
        "gemma3, one layer of two sliding": lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(**gated, head_dim=head, **one_sliding)
        ),
        "gemma2, eager": lambda: Gemma2ForCausalLM(Gemma2Config(**gated, head_dim=head, sliding_window=7)),
        "bloom": lambda: BloomForCausalLM(BloomConfig(**sizes)),
        "mamba": lambda: MambaForCausalLM(MambaConfig(**sizes, state_size=4)),
    }


def build(name: str, head: int = 8) -> PreTrainedModel:
    """A model with random weights, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return of_head_size(head)[name]().eval()


def model_for(engine: EngineFactory, name: str) -> PreTrainedModel:
    """The model in a size that the engine runs. The test is skipped if the engine has no such model."""
    skip_if_lacking(engine, name)
    return build(name, engine.head_size)


def tiny_for(engine: EngineFactory, lora_rank: int = 0) -> Policy:
    return tiny_policy(lora_rank=lora_rank, hidden_size=2 * max(16, engine.head_size))


def skip_if_lacking(engine: EngineFactory, what: str) -> None:
    if what in engine.lacks:
        pytest.skip(engine.lacks[what])


def sampled(generator: Generator, *arguments: Any, **settings: Any) -> list[list[Completion]]:
    return generator.generate(*arguments, **settings).result()


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
def test_greedy_tokens_are_those_of_transformers_generate(engine: EngineFactory, name: str) -> None:
    model = model_for(engine, name)
    prompts = random_prompts(9, 3, 1, 14, 9, 6)
    generator = engine.generator(model, END)
    ours = sampled(generator, prompts, SamplingConfig(temperature=0, max_new_tokens=12, slots=3), seed=0)
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
def test_logprobs_are_those_of_a_plain_forward_at_the_same_temperature(
    engine: EngineFactory, name: str, temperature: float
) -> None:
    model = model_for(engine, name)
    prompts = random_prompts(5, 12, 1, 12)
    sampling = SamplingConfig(n=2, temperature=temperature, max_new_tokens=16, slots=3)
    for prompt, completions in zip(prompts, sampled(engine.generator(model, END), prompts, sampling, 0), strict=True):
        for c in completions:
            expected, atol = plain_logprobs(model, prompt, c.ids_T, temperature), engine.rounds_more.get(name, 1e-4)
            torch.testing.assert_close(c.logprob_T, expected, atol=atol, rtol=0)


def test_greedy_logprobs_are_at_temperature_one(engine: EngineFactory) -> None:
    model, prompts = model_for(engine, "llama"), random_prompts(6)
    ((c,),) = sampled(engine.generator(model, END), prompts, SamplingConfig(temperature=0, max_new_tokens=8), 0)
    torch.testing.assert_close(c.logprob_T, plain_logprobs(model, prompts[0], c.ids_T, 1.0), atol=1e-4, rtol=0)


def test_bfloat16_autocast_stays_close(engine: EngineFactory) -> None:
    model, prompts = model_for(engine, "llama"), random_prompts(5, 12)
    generator = engine.generator(model, END, precision=torch.bfloat16)
    for prompt, (c,) in zip(prompts, sampled(generator, prompts, SamplingConfig(max_new_tokens=8), 0), strict=True):
        assert c.logprob_T.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            expected = plain_logprobs(model, prompt, c.ids_T, 1.0)
        torch.testing.assert_close(c.logprob_T, expected.float(), atol=0.3, rtol=0.05)


# -- what a sample depends on -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_tokens_depend_on_the_seed_and_not_on_slots_or_order(engine: EngineFactory, name: str) -> None:
    generator = engine.generator(model_for(engine, name), END)
    prompts = random_prompts(7, 3, 7, 11, 1, 4)
    few = sampled(generator, prompts, SamplingConfig(n=3, max_new_tokens=15, slots=2), seed=4)
    many = sampled(generator, prompts, SamplingConfig(n=3, max_new_tokens=15, slots=64), seed=4)
    other = sampled(generator, prompts, SamplingConfig(n=3, max_new_tokens=15, slots=64), seed=5)
    turned = sampled(generator, prompts[::-1], SamplingConfig(n=3, max_new_tokens=15, slots=5), seed=4)
    alone = sampled(generator, prompts[1:2], SamplingConfig(n=1, max_new_tokens=15), seed=4)
    assert same(few, many)
    assert same(few, turned[::-1])
    assert same([few[1][:1]], alone)
    assert not same(few, other)


def test_equal_prompts_and_the_samples_of_one_prompt_differ(engine: EngineFactory) -> None:
    (prompt,) = random_prompts(6)
    out = (
        engine.generator(model_for(engine, "llama"), ())
        .generate([prompt, prompt], SamplingConfig(n=2, max_new_tokens=12), 0)
        .result()
    )
    assert len({tuple(c.ids_T.tolist()) for row in out for c in row}) == 4


def test_a_longer_limit_continues_the_same_response(engine: EngineFactory) -> None:
    generator, prompts = engine.generator(model_for(engine, "llama"), ()), random_prompts(6)
    ((short,),) = sampled(generator, prompts, SamplingConfig(max_new_tokens=5), 0)
    ((long,),) = sampled(generator, prompts, SamplingConfig(max_new_tokens=12), 0)
    assert long.ids_T[:5].tolist() == short.ids_T.tolist()


def test_global_random_state_and_training_flags_are_left_alone(engine: EngineFactory) -> None:
    model = model_for(engine, "llama").train()
    model.lm_head.eval()
    checkpoint_activations(model)  # with a gradient it would switch the cache off
    before = torch.random.get_rng_state()
    prompts = random_prompts(4)
    sampled(engine.generator(model, END), prompts, SamplingConfig(max_new_tokens=3), 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training and model.model.layers[0].training and not model.lm_head.training
    model(input_ids=prompts[0][None]).logits.sum().backward()  # nothing of the sampler's is left in the graph


# -- how a response ends ----------------------------------------------------------------------------


def test_a_response_ends_with_its_first_end_token_or_at_the_limit(engine: EngineFactory) -> None:
    prompts = random_prompts(*[4] * 40)
    out = sampled(
        engine.generator(model_for(engine, "llama"), END), prompts, SamplingConfig(max_new_tokens=20, slots=8), 0
    )
    reasons = [c.finish_reason for (c,) in out]
    assert {"stop", "length"} == set(reasons)
    for (c,) in out:
        ends = [token in END for token in c.ids_T.tolist()]
        assert not any(ends[:-1])
        assert ends[-1] == (c.finish_reason == "stop")  # never forced on a truncated sample
        assert len(c.ids_T) == 20 or c.finish_reason == "stop"
        assert len(c.logprob_T) == len(c.ids_T)


def test_no_prompts_give_no_completions(engine: EngineFactory) -> None:
    assert sampled(engine.generator(model_for(engine, "llama"), END), [], SamplingConfig(), 0) == []


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_one_new_token(engine: EngineFactory, name: str) -> None:
    out = (
        engine.generator(model_for(engine, name), END)
        .generate(random_prompts(5, 1, 3), SamplingConfig(n=2, max_new_tokens=1), 0)
        .result()
    )
    assert [[len(c.ids_T) for c in row] for row in out] == [[1, 1]] * 3


def test_streamed_tokens_are_those_returned(engine: EngineFactory) -> None:
    heard: dict[tuple[int, int], list[int]] = {}
    out = (
        engine.generator(model_for(engine, "llama"), END)
        .generate(
            random_prompts(5, 2, 8),
            SamplingConfig(n=2, max_new_tokens=9, slots=2),
            0,
            on_token=lambda prompt, sample, token: heard.setdefault((prompt, sample), []).append(token),
        )
        .result()
    )
    assert heard == {(i, k): c.ids_T.tolist() for i, row in enumerate(out) for k, c in enumerate(row)}


# -- weights ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """Weights as they arrive from another process."""

    version: int
    tensors: dict[str, Tensor]
    adapters: Adapters = "merged"


def moved(model: PreTrainedModel) -> PreTrainedModel:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.2 * torch.sin(torch.arange(p.numel(), dtype=torch.float32)).view_as(p))
    return other


@pytest.mark.parametrize("name", ["llama", "llama, tied", "gpt2"])
def test_completions_carry_the_version_of_the_weights_that_sampled_them(engine: EngineFactory, name: str) -> None:
    """A head that is tied to the embedding is published under one of its two names, and must follow the update."""
    model, prompts = model_for(engine, name), random_prompts(6)
    other = moved(model)
    generator = engine.generator(model, ())
    sampling = SamplingConfig(max_new_tokens=12)
    ((old,),) = sampled(generator, prompts, sampling, 0)
    generator.load_weights(Sent(4, dict(other.state_dict())))
    ((new,),) = sampled(generator, prompts, sampling, 0)
    assert (old.version, new.version) == (0, 4)
    torch.testing.assert_close(new.logprob_T, plain_logprobs(other, prompts[0], new.ids_T, 1.0), atol=1e-4, rtol=0)
    assert not torch.equal(old.ids_T, new.ids_T)


@pytest.mark.parametrize("adapters", ["merged", "apart"])
def test_a_generator_takes_what_a_learner_publishes(engine: EngineFactory, adapters: Adapters) -> None:
    """Onto a model of its own: a plain one takes merged weights, one with an adapter takes the adapter alone."""
    skip_if_lacking(engine, adapters)
    learner = engine.policy(tiny_for(engine, lora_rank=4))
    trees = [PromptTree(torch.arange(10, 15), (Branch.response([20, 30, 40]),))]
    learner.forward_backward(trees, SFTObjective()).result()
    learner.step(0.1).result()
    own = tiny_for(engine, lora_rank=4 if adapters == "apart" else 0).model
    generator = engine.generator(own, ())
    generator.load_weights(learner.publish(adapters))
    prompt = torch.arange(10, 15)
    ((c,),) = sampled(generator, [prompt], SamplingConfig(max_new_tokens=8), 0)
    said = learner.forward([PromptTree(prompt, (Branch.response(c.ids_T),))], Outputs(logprob=True)).result().logprob_N
    assert said is not None and c.version == 1
    torch.testing.assert_close(c.logprob_T, said, atol=1e-4, rtol=0)


def test_weights_that_do_not_fit_are_refused(engine: EngineFactory) -> None:
    learner = engine.policy(tiny_for(engine, lora_rank=4))
    if "apart" not in engine.lacks:
        with pytest.raises(ValueError, match="published weights are merged"):
            own = engine.generator(tiny_for(engine, lora_rank=4).model, ())
            own.load_weights(Sent(1, dict(learner.publish().tensors)))
    with pytest.raises(ValueError, match="no active adapter"):
        apart = Sent(1, dict(learner.publish("apart").tensors), "apart")
        engine.generator(tiny_for(engine).model, ()).load_weights(apart)


# -- what a user can get wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "sampling.n is 0; expected a whole number of at least 1"),
        ({"slots": 0}, "sampling.slots is 0"),
        ({"max_new_tokens": 0}, "sampling.max_new_tokens is 0"),
        ({"top_k": -1}, "sampling.top_k is -1; expected a whole number of at least 0"),
        ({"temperature": -0.1}, "sampling.temperature is -0.1"),
        ({"temperature": math.nan}, "sampling.temperature is nan"),
        ({"top_p": 0.0}, "sampling.top_p is 0.0"),
        ({"top_p": 1.1}, "sampling.top_p is 1.1"),
        ({"min_p": -0.1}, "sampling.min_p is -0.1"),
        ({"min_p": math.nan}, "sampling.min_p is nan"),
        ({"repetition_penalty": 0.0}, "sampling.repetition_penalty is 0.0; expected a number above 0"),
        ({"repetition_penalty": math.inf}, "sampling.repetition_penalty is inf"),
        ({"min_new_tokens": -1}, "sampling.min_new_tokens is -1; expected a whole number of at least 0"),
        ({"stop_strings": ["a", ""]}, "sampling.stop_strings has an empty text"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(
    engine: EngineFactory, changes: dict[str, Any], message: str
) -> None:
    """An engine is also used with settings that were changed after they were made."""
    sampling = SamplingConfig()
    for key, value in changes.items():
        setattr(sampling, key, value)
    with pytest.raises(UserError, match=message):
        sampled(engine.generator(model_for(engine, "llama"), END), random_prompts(3), sampling, 0)


def test_prompts_that_cannot_be_continued_are_refused_by_number(engine: EngineFactory) -> None:
    generator = engine.generator(model_for(engine, "gpt2"), END)
    with pytest.raises(UserError, match="prompt 1 is empty"):
        sampled(generator, [*random_prompts(3), torch.empty(0, dtype=torch.int64)], SamplingConfig(max_new_tokens=5), 0)
    with pytest.raises(UserError, match="prompt 0 has 64 tokens.*64 positions"):
        sampled(generator, random_prompts(64), SamplingConfig(max_new_tokens=1), 0)


def test_a_response_ends_with_the_models_positions(engine: EngineFactory) -> None:
    """Its tokens are the first of those that more positions would have given; a shorter prompt's are not touched."""
    generator = engine.generator(model_for(engine, "gpt2"), [])
    prompts = random_prompts(60, 20)
    (long,), (short,) = sampled(generator, prompts, SamplingConfig(max_new_tokens=30), 0)
    assert len(long.ids_T) == 4 and long.finish_reason == "length" and len(short.ids_T) == 30
    (first,), _ = sampled(generator, prompts, SamplingConfig(max_new_tokens=4), 0)
    assert torch.equal(first.ids_T, long.ids_T)
