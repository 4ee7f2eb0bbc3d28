"""The client against a server that fails, stalls, closes the connection and answers nonsense."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from email.utils import formatdate

import pytest

from concordant.config.judging import EndpointConfig
from concordant.core.errors import UserError
from concordant.data.records import Message
from concordant.feedback.endpoint import DOWN, DOWN_AFTER, Endpoint
from concordant.feedback.writers import OUT_OF_BUDGET, Reply, Skip
from tests.feedback.server import Judge, chat, drip, hang_up, stall, status


def question(text):
    return (Message("user", text),)


def ask(judge, *texts, waits=None, **settings):
    """The answers in the order of the questions, and the endpoint."""
    config = EndpointConfig(**{"model": "m", "parallel": 1, "timeout": 5.0, "retries": 3, **settings})
    sleep = waits.append if waits is not None else (lambda seconds: None)
    endpoint = Endpoint(judge.url, config, 16, sleep=sleep)
    return [answer for _, answer in sorted(endpoint.write([question(text) for text in texts]))], endpoint


@pytest.fixture
def judge():
    made = Judge(lambda asked: f"reply to {asked}")
    with made:
        yield made


def test_every_question_gets_its_own_answer_though_many_are_asked_at_once(judge):
    texts = [f"question {i}" for i in range(40)]
    answers, endpoint = ask(judge, *texts, parallel=8)
    assert answers == [Reply(f"reply to {text}", 7, 3) for text in texts]
    assert (endpoint.calls, endpoint.tokens) == (40, 400)
    assert judge.bodies[0] | {"messages": []} == {"model": "m", "temperature": 0.0, "max_tokens": 16, "messages": []}


def test_a_passing_failure_is_tried_again_with_waits_that_double(judge):
    judge.deeds = [status(500, "oh"), hang_up, status(503)]
    waits = []
    (answer,), endpoint = ask(judge, "q", waits=waits, wait=0.5)
    assert answer == Reply("reply to q", 7, 3) and endpoint.calls == 4
    assert waits == [0.5, 1.0, 2.0]


def test_retry_after_is_obeyed_up_to_the_longest_wait(judge):
    soon = formatdate(time.time() + 30, usegmt=True)
    judge.deeds = [status(429, Retry_After=7), status(429, Retry_After=3600), status(429, Retry_After=soon)]
    waits = []
    ask(judge, "q", waits=waits, longest_wait=60.0)
    assert waits[:2] == [7.0, 60.0] and 25 < waits[2] <= 30


def test_a_server_that_stalls_or_drips_costs_no_more_than_the_time_limit(judge):
    judge.deeds = [stall(1.0), drip(1.5)]
    started = time.monotonic()
    (one, two), _ = ask(judge, "a", "b", timeout=0.2, retries=0)
    assert time.monotonic() - started < 1.2
    assert isinstance(one, Skip) and one.reason == two.reason == "the server was too slow"


@pytest.mark.parametrize(
    "body",
    ["", "<html>", "[]", '{"choices": []}', '{"choices": [{"message": {"content": 3}}]}', b"\xff\xfe", "[" * 9999],
)
def test_nonsense_is_a_counted_skip_and_never_a_traceback(judge, body):
    judge.deeds = [status(200, body)]
    (bad, good), _ = ask(judge, "a", "b", retries=0)
    assert isinstance(bad, Skip) and bad.reason == "the server's answer is no chat completion"
    assert good == Reply("reply to b", 7, 3)


def test_an_answer_without_words_or_without_counts_is_an_answer(judge):
    judge.deeds = [status(200, '{"choices": [{"message": {"content": null}}], "usage": {"prompt_tokens": "x"}}')]
    assert ask(judge, "a")[0] == [Reply("", 0, 0)]


def test_a_question_that_the_server_refuses_is_skipped_and_not_tried_again(judge):
    judge.deeds = [status(400, '{"error": {"message": "too long"}}')]
    (bad, good), endpoint = ask(judge, "a", "b")
    assert bad == Skip("the server refuses the question", "400 Bad Request: too long")
    assert isinstance(good, Reply) and endpoint.calls == 2


def test_settings_that_a_newer_model_does_not_know_are_spelt_otherwise(judge):
    judge.deeds = [
        status(400, '{"error": {"message": "use max_completion_tokens"}}'),
        status(400, '{"error": {"message": "temperature is not supported"}}'),
    ]
    (one, two), _ = ask(judge, "a", "b")
    assert isinstance(one, Reply) and isinstance(two, Reply)
    assert judge.bodies[-1].keys() == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize("code", [401, 403, 404, 302])
def test_what_no_retry_cures_is_an_error_that_names_the_server(judge, code):
    judge.deeds = [status(code, "nothing here", Location=f"{judge.url}/elsewhere")]
    with pytest.raises(UserError, match=f"chat/completions answered {code}"):
        ask(judge, "a")
    assert judge.asked["GET"] == 0  # a redirect would carry the key to another place


def test_a_server_that_is_down_ends_the_questions_soon():
    judge = Judge(str)
    judge.server.server_close()  # nobody listens there now
    answers, endpoint = ask(judge, *map(str, range(50)), retries=1)
    assert endpoint.stopped == DOWN and endpoint.calls == 2 * DOWN_AFTER
    assert {a.reason for a in answers} == {"no connection to the server", DOWN}


def test_a_bad_question_now_and_then_does_not_count_as_a_server_that_is_down(judge):
    judge.deeds = [status(500), None, status(500), None, status(500), None, status(500), None]
    answers, endpoint = ask(judge, *map(str, range(8)), retries=0)
    assert endpoint.stopped == "" and sum(isinstance(a, Reply) for a in answers) == 4


def test_the_budget_of_calls_counts_retries(judge):
    judge.deeds = [status(500)]
    answers, endpoint = ask(judge, "a", "b", "c", max_calls=3)
    assert [type(a) for a in answers] == [Reply, Reply, Skip]
    assert endpoint.calls == 3 and answers[2].reason == endpoint.stopped == OUT_OF_BUDGET


def test_the_budget_of_tokens_ends_after_the_answer_that_uses_it_up(judge):
    answers, endpoint = ask(judge, "a", "b", "c", max_tokens=20)
    assert [type(a) for a in answers] == [Reply, Reply, Skip] and endpoint.tokens == 20


def test_the_key_is_sent_and_shown_nowhere(judge, monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-secret")
    judge.deeds = [None, status(401, "wrong key sk-secret")]
    with pytest.raises(UserError) as caught:
        ask(judge, "a", "b", key_variable="A_KEY")
    assert judge.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(caught.value) and "(key)" in str(caught.value)


def test_no_key_is_sent_that_was_not_named(judge, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    ask(judge, "a")
    assert "Authorization" not in judge.headers[0]


def test_a_key_that_is_missing_or_would_travel_in_the_open_is_refused(monkeypatch):
    with pytest.raises(UserError, match="NO_SUCH_KEY: this environment variable is not set"):
        Endpoint("https://example.org/v1", EndpointConfig(model="m", key_variable="NO_SUCH_KEY"), 16)
    monkeypatch.setenv("A_KEY", "sk-secret")
    with pytest.raises(UserError, match="over https or to this machine alone"):
        Endpoint("http://example.org/v1", EndpointConfig(model="m", key_variable="A_KEY"), 16)


def test_terminal_escapes_in_a_servers_message_are_visible_characters(judge):
    judge.deeds = [status(404, "\x1b[31mred")]
    with pytest.raises(UserError) as caught:
        ask(judge, "a")
    assert "\x1b" not in str(caught.value)


def test_the_client_loads_no_torch():
    code = (
        "import sys, concordant.feedback.endpoint, concordant.feedback.questions, concordant.feedback.constitution;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "False\n", done.stderr


def test_the_identity_has_no_key_and_no_address(judge):
    _, endpoint = ask(judge, "a")
    assert json.loads(endpoint.identity) == ["endpoint", "m", 0.0, 16]
    assert chat("x") and judge.url not in endpoint.identity
