"""What OpenAI's own client gets from a real server: answers, streams, log-probs, seeds, errors, many at once."""

from __future__ import annotations

import asyncio
import math
import time

import openai
import pytest

from concordant.config.sampling import SamplingConfig
from concordant.data.records import Message
from concordant.engines import roles
from concordant.models.lora import active_adapter
from tests.serve.conftest import KEYS

QUESTION = [{"role": "user", "content": "where does the owl live"}]


def ask(client, model="base", **settings):
    return client.chat.completions.create(**{"model": model, "messages": QUESTION, "max_tokens": 10, **settings})


def sampled(served, adapter, seed, n=1, tokens=10):
    """The ids of the answers that the generator of this process gives, with the adapter of this name."""
    opened = served[2]
    encoder, policy = opened.encoder, opened.policy
    generator = roles.generator(policy, encoder.end_ids, opened.config.model)
    prompts = encoder.prompts([[Message("user", QUESTION[0]["content"])]])
    with active_adapter(policy.model, adapter):
        (group,) = generator.generate(prompts, SamplingConfig(n=n, max_new_tokens=tokens), seed).result()
    return [encoder.text(c.ids_T) for c in group]


def test_the_models_are_the_base_and_its_adapters(client):
    assert [m.id for m in client.models.list()] == ["base", "one", "two"]
    assert client.models.retrieve("one").owned_by == "concordant"


@pytest.mark.parametrize("model", ["base", "one", "two"])
def test_an_answer_with_a_seed_is_that_of_concordant_generate(client, served, model):
    adapter = served[2].adapters[model]
    answer = ask(client, model, seed=3, n=2)
    assert [c.message.content for c in answer.choices] == sampled(served, adapter, 3, n=2)
    assert answer.usage.completion_tokens == 20 and answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20


def test_a_stream_has_the_text_of_the_whole_answer(client):
    whole = ask(client, "one", seed=4, n=2)
    chunks = list(ask(client, "one", seed=4, n=2, stream=True, stream_options={"include_usage": True}))
    for i in range(2):
        parts = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == i]
        assert "".join(p.delta.content or "" for p in parts) == whole.choices[i].message.content
        assert [p.finish_reason for p in parts if p.finish_reason] == ["length"]
    assert chunks[-1].usage == whole.usage and {c.id for c in chunks} == {chunks[0].id}


def test_without_a_seed_two_answers_differ(client):
    assert len({ask(client).choices[0].message.content for _ in range(3)}) > 1


def test_temperature_0_takes_the_most_likely_token_and_logprobs_say_so(client):
    shown = ask(client, temperature=0, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(shown) == 10
    for token in shown:
        assert token.token == token.top_logprobs[0].token and token.logprob == token.top_logprobs[0].logprob
        values = [t.logprob for t in token.top_logprobs]
        assert values == sorted(values, reverse=True) and sum(map(math.exp, values)) <= 1 + 1e-6


def test_logprobs_do_not_depend_on_the_temperature_and_come_in_streams(client):
    hot = ask(client, seed=1, temperature=9, logprobs=True, extra_body={"top_k": 1}).choices[0].logprobs.content
    greedy = ask(client, temperature=0, logprobs=True).choices[0].logprobs.content
    assert [t.token for t in hot] == [t.token for t in greedy]
    assert [t.logprob for t in hot] == pytest.approx([t.logprob for t in greedy], abs=1e-4)
    chunks = ask(client, temperature=0, logprobs=True, stream=True)
    streamed = [t.logprob for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == pytest.approx([t.logprob for t in greedy], abs=1e-4)


def test_a_stop_string_ends_the_answer_before_it(client):
    text = ask(client, seed=3).choices[0].message.content
    letter = next(x for x in text[2:] if x.isascii() and x.isalnum())
    answer = ask(client, seed=3, stop=[letter]).choices[0]
    assert answer.message.content == text.partition(letter)[0].strip() and answer.finish_reason == "stop"
    stream = ask(client, seed=3, stop=letter, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream) == answer.message.content


def test_plain_texts_are_continued_and_equal_prompts_get_different_answers(client):
    done = client.completions.create(model="base", prompt=["the owl", "the owl"], seed=1, max_tokens=6, logprobs=2)
    first, second = done.choices
    assert first.text != second.text and done.usage.completion_tokens == 12
    assert len(first.logprobs.tokens) == len(first.logprobs.token_logprobs) == 6
    assert first.logprobs.text_offset[0] == 0
    again = client.completions.create(model="base", prompt="the owl", seed=1, max_tokens=6)
    assert again.choices[0].text == first.text
    ids = client.completions.create(model="base", prompt=[5, 6, 7], seed=1, max_tokens=6)
    assert ids.usage.prompt_tokens == 3


def test_settings_of_neighbours_stay_their_own(served):
    """64 clients at once, with other models, temperatures and seeds, get what each of them gets alone."""

    def settings(i):
        shape = [{"temperature": 0}, {"top_k": 5}, {"temperature": 0.7, "top_p": 0.9}, {"min_p": 0.05}]
        options = shape[i % 4]
        own = {k: v for k, v in options.items() if k in ("temperature", "top_p")}
        rest = {k: v for k, v in options.items() if k not in own}
        return {"model": ["base", "one", "two"][i % 3], "seed": i, "max_tokens": 6 + i % 5, **own, "extra_body": rest}

    async def alone_and_together():
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{served[1]}/v1", api_key=KEYS[1], max_retries=0)
        async with client:

            async def one(i):
                stream = await client.chat.completions.create(messages=QUESTION, stream=True, **settings(i))
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            together = await asyncio.gather(*(one(i) for i in range(64)))
            return together, [await one(i) for i in range(0, 64, 5)]

    together, alone = asyncio.run(alone_and_together())
    assert together[::5] == alone
    assert len(set(together)) > 20


def wait_until_idle(served):
    server = served[0].state.server
    until = time.monotonic() + 5
    while server.loop.batch.live or server.loop.queue.waiting:
        assert time.monotonic() < until, "a slot is still taken"
        time.sleep(0.01)


def test_a_client_that_goes_away_frees_its_slot(client, served):
    wait_until_idle(served)
    loop = served[0].state.server.loop
    before = loop.tokens
    stream = ask(client, max_tokens=100, n=2, stream=True, extra_body={"min_tokens": 100})
    next(iter(stream))
    next(iter(stream))
    stream.close()
    wait_until_idle(served)
    assert loop.tokens - before < 2 * 100, "the answers were sampled to their end for nobody"
    assert ask(client).choices[0].finish_reason == "length"


def test_more_than_may_wait_is_refused_and_the_others_are_answered(served):
    async def many():
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{served[1]}/v1", api_key=KEYS[0], max_retries=0)
        async with client:

            async def one():
                try:
                    done = await client.chat.completions.create(
                        model="base", messages=QUESTION, n=64, max_tokens=30, extra_body={"min_tokens": 30}
                    )
                    return len(done.choices)
                except openai.RateLimitError as full:
                    return full.code

            return await asyncio.gather(*(one() for _ in range(5)))

    found = asyncio.run(many())
    assert "rate_limit_exceeded" in found and 64 in found and set(found) == {64, "rate_limit_exceeded"}


def test_scores_have_the_members_and_their_disagreement(client):
    body = {"input": ["four", [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ab"}]]}
    rows = client.post("/score", body=body, cast_to=object)["data"]
    assert [(r["score"], r["members"], r["disagreement"]) for r in rows] == [
        (6.0, [4.0, 8.0], 2.0),
        (3.0, [2.0, 4.0], 1.0),
    ]


@pytest.mark.parametrize(
    ("settings", "status", "code", "says"),
    [
        ({"model": "on"}, 404, "model_not_found", 'Did you mean "one"'),
        ({"messages": []}, 400, None, "messages"),
        ({"messages": [{"role": "user", "content": "owl " * 200}]}, 400, "context_length_exceeded", "at most 128"),
        ({"temperature": -1}, 400, None, "temperature"),
        ({"top_p": 0}, 400, None, "top_p"),
        ({"n": 1000}, 400, None, "n"),
        ({"n": 100}, 400, None, "at most 80 answers"),
        ({"stop": ["", "a"]}, 400, None, "stop"),
        ({"frequency_penalty": 1}, 400, "unsupported_parameter", "frequency_penalty"),
        ({"top_logprobs": 3}, 400, None, "logprobs true"),
        ({"extra_body": {"temprature": 1}}, 400, "unknown_parameter", 'Did you mean "temperature"'),
    ],
)
def test_wrong_requests_say_what_is_wrong(client, settings, status, code, says):
    with pytest.raises(openai.APIStatusError) as error:
        ask(client, **settings)
    assert (error.value.status_code, error.value.code) == (status, code)
    assert says in error.value.message and error.value.type == "invalid_request_error"


def test_settings_that_ask_for_nothing_are_taken(client):
    ask(
        client,
        frequency_penalty=0,
        presence_penalty=0.0,
        user="somebody",
        logit_bias={},
        response_format={"type": "text"},
    )
