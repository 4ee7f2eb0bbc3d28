"""Options of sampling: the distribution of transformers' ``generate``, and answers that end where they should."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.config.sampling import SamplingConfig
from concordant.engines.protocol import Completion
from tests.engines.conformance.factory import EngineFactory
from tests.engines.conformance.test_generator import (
    END,
    model_for,
    random_prompts,
    same,
    sampled,
    skip_if_lacking,
    tiny_for,
)
from tests.engines.tiny import tiny_policy

TOKENIZER = tiny_policy().tokenizer  # its first ids are letters, so a model of a smaller vocabulary speaks them too
OPTIONS: dict[str, dict[str, Any]] = {
    "min_p": {"min_p": 0.2},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "reward of repetition": {"repetition_penalty": 0.6},
    "min_new_tokens": {"min_new_tokens": 6},
    "all": {"repetition_penalty": 1.3, "min_new_tokens": 4, "top_k": 40, "top_p": 0.9, "min_p": 0.1},
}


def skip_without(engine: EngineFactory, options: dict[str, Any]) -> None:
    if {"min_p", "top_p"} <= options.keys():
        skip_if_lacking(engine, "min_p after top_p")


def peer(model: PreTrainedModel, ids: Tensor, **settings: Any) -> Any:
    """What transformers generates behind ``ids``, with the scores that its processors made."""
    return cast(Any, model).generate(
        ids[None],
        attention_mask=torch.ones_like(ids)[None],
        eos_token_id=list(END),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )


# -- the distribution -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"), [*(("llama", options) for options in OPTIONS.values()), ("bloom", OPTIONS["all"])]
)
def test_logprobs_are_those_of_transformers_processors(
    engine: EngineFactory, name: str, options: dict[str, Any]
) -> None:
    """All processors at once, at a temperature, also tells their order: another order gives other numbers."""
    skip_without(engine, options)
    model, prompts = model_for(engine, name), random_prompts(7, 3, 12)
    sampling = SamplingConfig(temperature=0.7, max_new_tokens=7, slots=2, **options)
    shortest = options.get("min_new_tokens", 0)
    others = {"top_k": 0} | {key: value for key, value in options.items() if key != "min_new_tokens"}
    for prompt, (c,) in zip(prompts, sampled(engine.generator(model, END), prompts, sampling, 3), strict=True):
        for at, token in enumerate(c.ids_T):
            left = {"min_new_tokens": shortest - at} if at < shortest else {}
            ids, length = torch.cat([prompt, c.ids_T[:at]]), max(1, shortest - at)
            made = peer(model, ids, do_sample=True, temperature=0.7, max_new_tokens=length, **others, **left)
            expected = made.scores[0][0].log_softmax(-1)[token]
            torch.testing.assert_close(c.logprob_T[at], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "options", [{"repetition_penalty": 1.7}, {"min_new_tokens": 9}, {"repetition_penalty": 1.2, "min_new_tokens": 5}]
)
def test_greedy_tokens_are_those_of_transformers_generate(engine: EngineFactory, options: dict[str, Any]) -> None:
    model, prompts = model_for(engine, "llama"), random_prompts(9, 3, 1, 14, 6)
    sampling = SamplingConfig(temperature=0, max_new_tokens=12, slots=2, **options)
    plain = sampled(engine.generator(model, END), prompts, SamplingConfig(temperature=0, max_new_tokens=12), 0)
    ours = sampled(engine.generator(model, END), prompts, sampling, 0)
    for prompt, (c,) in zip(prompts, ours, strict=True):
        made = peer(model, prompt, do_sample=False, max_new_tokens=12, **options)
        assert c.ids_T.tolist() == made.sequences[0, len(prompt) :].tolist()
        scores = torch.stack(made.scores)[:, 0].log_softmax(-1)
        torch.testing.assert_close(c.logprob_T, scores.gather(1, c.ids_T[:, None])[:, 0], atol=1e-4, rtol=0)
    assert not same(plain, ours)


def test_the_penalty_counts_the_prompt_and_a_token_once(engine: EngineFactory) -> None:
    """A prompt that says its tokens three times over is penalised as one that says them once."""
    model = model_for(engine, "llama")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.model.embed_tokens.weight.fill_(1.0)
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight.fill_(2 / model.config.hidden_size)  # every token has the logit 2
    generator = engine.generator(model, ())
    sampling = SamplingConfig(repetition_penalty=2.0, max_new_tokens=1, n=4)
    for prompt in (torch.tensor([7, 8]), torch.tensor([7, 8, 7, 8, 7, 8])):
        for c in sampled(generator, [prompt], sampling, 0)[0]:
            seen, other = torch.tensor(1.0).exp(), torch.tensor(2.0).exp()
            taken = seen if int(c.ids_T[0]) in (7, 8) else other
            torch.testing.assert_close(c.logprob_T[0], (taken / (2 * seen + 95 * other)).log(), atol=1e-5, rtol=0)


def test_no_end_token_comes_early_and_one_may_come_then(engine: EngineFactory) -> None:
    prompts = random_prompts(*[4] * 30)
    out = sampled(
        engine.generator(model_for(engine, "llama"), END),
        prompts,
        SamplingConfig(min_new_tokens=5, max_new_tokens=9),
        0,
    )
    lengths = [len(c.ids_T) for (c,) in out]
    assert min(lengths) == 6, "five tokens, and then the end token"
    for (c,) in out:
        assert not set(c.ids_T[:5].tolist()) & set(END)
    (never,) = sampled(
        engine.generator(model_for(engine, "llama"), END),
        prompts[:1],
        SamplingConfig(min_new_tokens=9, max_new_tokens=9, n=20),
        0,
    )
    assert {(len(c.ids_T), c.finish_reason) for c in never} == {(9, "length")}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_tokens_do_not_depend_on_slots_or_order(engine: EngineFactory, name: str, options: dict[str, Any]) -> None:
    skip_without(engine, options)
    generator, prompts = engine.generator(model_for(engine, name), END), random_prompts(7, 3, 7, 11, 1, 4)

    def with_slots(slots: int, prompts: list[Tensor]) -> list[list[Completion]]:
        return sampled(generator, prompts, SamplingConfig(n=2, max_new_tokens=9, slots=slots, **options), seed=4)

    assert same(with_slots(2, prompts), with_slots(64, prompts))
    assert same(with_slots(2, prompts), with_slots(5, prompts[::-1])[::-1])


def test_options_that_are_off_change_no_bit(engine: EngineFactory) -> None:
    """A penalty of 1 and a least probability of 0, said aloud; a stop string that nobody says."""
    generator = engine.generator(model_for(engine, "llama"), END, tokenizer=TOKENIZER)
    prompts = random_prompts(5, 9)
    plain = sampled(generator, prompts, SamplingConfig(n=3, max_new_tokens=9), 0)
    for options in ({"min_p": 0.0, "repetition_penalty": 1.0, "min_new_tokens": 0}, {"stop_strings": ["not said"]}):
        other = sampled(generator, prompts, SamplingConfig(n=3, max_new_tokens=9, **cast(Any, options)), 0)
        assert same(plain, other)
        for a, b in zip(plain, other, strict=True):
            assert all(torch.equal(x.logprob_T, y.logprob_T) for x, y in zip(a, b, strict=True))


# -- stop strings -----------------------------------------------------------------------------------


def first_with(ids: list[int], strings: list[str]) -> int | None:
    """The number of tokens after which the decoded answer contains one of the strings first."""
    texts = (TOKENIZER.decode(ids[: n + 1]) for n in range(len(ids)))
    return next((n + 1 for n, text in enumerate(texts) if any(s in text for s in strings)), None)


def pieces(answers: list[list[Completion]]) -> list[str]:
    """Strings of one to four letters from the middles of some answers."""
    texts = [TOKENIZER.decode(c.ids_T.tolist()) for (c, *_) in answers]
    return [text[4 + n : 5 + 2 * n] for n, text in enumerate(texts[:4]) if len(text) > 12]


@pytest.mark.parametrize("name", ["tiny", "bloom", "mamba"])
@pytest.mark.parametrize("slots", [2, 64])
def test_an_answer_ends_with_the_first_token_after_which_it_contains_a_stop_string(
    engine: EngineFactory, name: str, slots: int
) -> None:
    """The tokens before are those that are sampled without stop strings, whatever the other rows do."""
    model = tiny_for(engine).model.eval() if name == "tiny" else model_for(engine, name)
    generator = engine.generator(model, END, tokenizer=TOKENIZER)
    prompts = random_prompts(4, 9, 4, 6, 1)
    whole = sampled(generator, prompts, SamplingConfig(n=3, max_new_tokens=24, slots=slots), 1)
    for strings in (pieces(whole), pieces(whole)[-1:], ["never said anywhere"]):
        sampling = SamplingConfig(n=3, max_new_tokens=24, slots=slots, stop_strings=strings)
        reasons = set()
        for before, now in zip(whole, sampled(generator, prompts, sampling, 1), strict=True):
            for long, short in zip(before, now, strict=True):
                kept = first_with(long.ids_T.tolist(), strings)
                assert short.ids_T.tolist() == long.ids_T[:kept].tolist(), "whole tokens stay"
                ended = kept is not None and not (kept == len(long.ids_T) and long.finish_reason == "stop")
                assert short.finish_reason == ("stop_string" if ended else long.finish_reason)
                assert short.ended == (short.finish_reason != "length")
                torch.testing.assert_close(short.logprob_T, long.logprob_T[:kept], atol=1e-4, rtol=0)
                reasons.add(short.finish_reason)
        assert ("stop_string" in reasons) == (strings != ["never said anywhere"])


def test_greedy_answers_end_where_those_of_transformers_do(engine: EngineFactory) -> None:
    """Strings that begin and end inside tokens, that span tokens, and of letters that take several tokens."""
    model = tiny_for(engine).model.eval()
    generator = engine.generator(model, END, tokenizer=TOKENIZER)
    prompts = random_prompts(5, 11)
    whole = sampled(generator, prompts, SamplingConfig(temperature=0, max_new_tokens=16), 0)
    texts = [TOKENIZER.decode(c.ids_T.tolist()) for (c,) in whole]
    strings = sorted({text[at : at + n] for text in texts for at in (2, 5, 8) for n in (1, 4)} - {""})
    strings = [s for s in strings if "\ufffd" not in s]
    assert len(strings) > 4
    ended = 0
    for string in strings:
        sampling = SamplingConfig(temperature=0, max_new_tokens=16, stop_strings=[string, "no such text"])
        for prompt, (c,) in zip(prompts, sampled(generator, prompts, sampling, 0), strict=True):
            made = peer(
                model, prompt, do_sample=False, max_new_tokens=16, stop_strings=[string], tokenizer=TOKENIZER
            ).sequences[0, len(prompt) :]
            assert c.ids_T.tolist() == made.tolist(), repr(string)
            ended += c.finish_reason == "stop_string"
    assert ended > 4


def test_a_stop_string_may_come_before_the_shortest_length_as_in_transformers(engine: EngineFactory) -> None:
    generator, prompts = engine.generator(model_for(engine, "llama"), END, tokenizer=TOKENIZER), random_prompts(4)
    letters = [TOKENIZER.decode([i]) for i in range(97)]
    sampling = SamplingConfig(min_new_tokens=5, max_new_tokens=9, stop_strings=[x for x in letters if x])
    ((c,),) = sampled(generator, prompts, sampling, 0)
    assert (len(c.ids_T), c.finish_reason) == (1, "stop_string")


def test_an_end_token_is_the_reason_where_it_completes_a_stop_string_too(engine: EngineFactory) -> None:
    model, prompts = model_for(engine, "llama"), random_prompts(4)
    generator = engine.generator(model, range(97), tokenizer=TOKENIZER)
    sampling = SamplingConfig(stop_strings=[TOKENIZER.decode([i]) for i in range(97)], n=3)
    (answers,) = sampled(generator, prompts, sampling, 0)
    assert {c.finish_reason for c in answers} == {"stop"}


def test_streamed_tokens_are_those_returned_with_stop_strings(engine: EngineFactory) -> None:
    heard: dict[tuple[int, int], list[int]] = {}
    generator = engine.generator(model_for(engine, "llama"), END, tokenizer=TOKENIZER)
    prompts = random_prompts(5, 2, 8)
    strings = pieces(sampled(generator, prompts, SamplingConfig(max_new_tokens=20), 0))
    out = sampled(
        generator,
        prompts,
        SamplingConfig(n=2, max_new_tokens=20, slots=2, stop_strings=strings),
        0,
        lambda prompt, sample, token: heard.setdefault((prompt, sample), []).append(token),
    )
    assert heard == {(i, k): c.ids_T.tolist() for i, row in enumerate(out) for k, c in enumerate(row)}


def test_stop_strings_without_a_tokenizer_are_refused(engine: EngineFactory) -> None:
    with pytest.raises(ValueError, match="make the generator with a tokenizer"):
        sampled(
            engine.generator(model_for(engine, "llama"), END), random_prompts(3), SamplingConfig(stop_strings=["a"]), 0
        )
