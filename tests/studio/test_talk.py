"""The page "Chat" and its interface: which models it finds, who may ask, streamed answers and scores."""

from __future__ import annotations

import json
import shutil

import pytest

from concordant.engines.reward_model import RewardModel
from concordant.models.load import save_policy
from concordant.studio.talk import models_of
from concordant.votes.store import Store
from tests.engines.tiny import tiny_policy
from tests.studio.visitor import TOKEN, csrf, studio, visitor, write_run

ASK = {"messages": [{"role": "user", "content": "where does the owl live"}], "max_tokens": 6, "seed": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two policies, a reward model, and a link that leads out of the folder of runs."""
    folder = tmp_path_factory.mktemp("runs")
    for number, name in enumerate(("a", "b")):
        save_policy(tiny_policy(seed=number), write_run(folder / name) / "model")
    RewardModel.from_backbone(tiny_policy()).save(write_run(folder / "rm", config="verb: reward\n") / "model")
    outside = tmp_path_factory.mktemp("outside") / "model"
    shutil.copytree(folder / "a" / "model", outside)
    (write_run(folder / "link") / "model").symlink_to(outside)
    (write_run(folder / "empty")).mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def app(runs):
    return studio(runs)


@pytest.fixture(scope="module")
def owner(app):
    """One client for all tests, because a client of its own has a loop of events of its own."""
    with visitor(app, token=TOKEN) as client:
        yield client


def answer(owner, **changes):
    reply = owner.post("/api/chat", json={"policy": "a", **ASK, **changes})
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def test_policies_and_reward_models_are_found_and_no_link_out(owner, runs):
    assert owner.get("/api/chat/models").json() == {"policies": ["a", "b"], "rewards": ["rm"]}
    assert set(models_of(runs)) == {"a", "b", "rm"}
    assert "Most tokens" in owner.get("/chat").text


def test_an_answer_comes_with_the_probabilities_of_its_tokens(owner):
    lines = answer(owner)
    tokens = [token for line in lines for token in line.get("tokens", [])]
    assert lines[-1] == {"done": True, "failure": ""} and len(tokens) == 6
    assert all(len(t["top_logprobs"]) == 5 and t["logprob"] <= 0 for t in tokens)
    again = answer(owner)
    assert [t for line in again for t in line.get("tokens", [])] == tokens
    other = answer(owner, policy="b")
    assert "".join(x.get("text", "") for x in other) != "".join(x.get("text", "") for x in lines)


def test_a_score_is_the_models_own_and_one_model_has_no_spread(owner, runs):
    messages = [*ASK["messages"], {"role": "assistant", "content": "in a tree"}]
    found = owner.post("/api/chat/score", json={"rewards": ["rm"], "messages": messages}).json()
    expected = RewardModel.from_pretrained(runs / "rm" / "model").score([messages])[0]
    assert found["score"] == pytest.approx(expected, abs=1e-6) and found["disagreement"] == 0


def test_only_the_owner_asks_and_wrong_names_are_told(app, owner):
    guest = visitor(app)
    assert guest.post("/api/chat", json={"policy": "a", **ASK}).status_code == 403
    assert guest.post("/api/chat", json={"policy": "a", **ASK}, headers=csrf(guest)).status_code == 401
    for body in ({"policy": "../a"}, {"policy": "rm"}, {"policy": "link"}, {"policy": "a", "max_tokens": 10**6}):
        reply = owner.post("/api/chat", json={**ASK, **body})
        assert reply.status_code == 422 and reply.json()["detail"]
    long = [{"role": "user", "content": "owl " * 3000}]
    assert "at most" in owner.post("/api/chat", json={"policy": "a", **ASK, "messages": long}).json()["detail"]
    assert owner.post("/api/chat/score", json={"rewards": ["a"], "messages": ASK["messages"]}).status_code == 422


def test_a_vote_on_two_answers_counts_once_and_is_a_vote_like_any_other(app, owner, runs):
    """Sent twice, with the sides exchanged, and with another verdict under the same key: one vote, for one answer."""
    left, right = {"policy": "a", "answer": "in a tree"}, {"policy": "b", "answer": "in a barn"}
    vote = {"key": "k1", "messages": ASK["messages"], "left": left, "right": right, "side": "left"}
    first, again = (owner.post("/api/chat/vote", json=vote).json() for _ in range(2))
    assert first["counts"] and first == again
    exchanged = vote | {"key": "k2", "left": right, "right": left}
    assert owner.post("/api/chat/vote", json=exchanged).json()["other"] == "k1"
    assert owner.post("/api/chat/vote", json=vote | {"side": "tie"}).status_code == 409
    store = Store(str(runs / "votes.sqlite"))
    (pair,), (stored,) = store.read(store.arena("chat"))
    assert (stored.side, stored.rater) == ("left", "owner")
    assert {"first": pair.first_policy, "second": pair.second_policy}[stored.choice] == "a"
    assert owner.post("/api/ask/next", json={"arena": "chat"}).json()["asked"] is None
    eve = store.rater_named("eve")[0]
    assert store.turn(store.arena("chat"), eve).asked is None  # a talk of the owner is shown to nobody else
    assert owner.post("/api/ask/undo", json={"arena": "chat", "key": "k1"}).json()["counts"] is False
    assert owner.post("/api/chat/vote", json=exchanged).json()["counts"]
    assert store.turn(store.arena("chat"), eve).asked is None
    (stored,) = store.read(store.arena("chat"))[1]
    assert (stored.side, stored.swapped) == ("left", pair.second_policy == "b")
    assert store.counts(store.arena("chat"))["open"] == 0
    assert {"first": pair.first_policy, "second": pair.second_policy}[stored.choice] == "b"
    guest = visitor(app)
    assert guest.post("/api/chat/vote", json=vote, headers=csrf(guest)).status_code == 401
    assert owner.post("/api/chat/vote", json=vote | {"key": "k3", "right": left}).status_code == 422
