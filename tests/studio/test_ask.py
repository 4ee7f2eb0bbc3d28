"""The pages "Ask" and "Votes" without a browser: who may vote, one vote whatever is sent, and what is started."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from concordant.config.yaml_io import load_yaml
from concordant.models.load import save_policy
from concordant.pipeline.plan import check, read_plan
from concordant.studio.clicks import outcome
from concordant.votes.database import Away
from concordant.votes.store import Store
from tests.engines.tiny import tiny_policy
from tests.studio.visitor import TOKEN, csrf, studio, visitor, write_run
from tests.votes.simulated import arena_with


@pytest.fixture
def app(tmp_path):
    arena_with(str(tmp_path / "votes.sqlite"), pairs=3, raters=0, policies=("secret-one", "secret-two"))
    return studio(tmp_path)


@pytest.fixture
def owner(app):
    return visitor(app, token=TOKEN)


def rater_of(app, owner, name="ann"):
    """A browser that has opened the rater's link."""
    link = owner.post("/api/votes/raters", json={"name": name}).json()["link"]
    browser = visitor(app)
    assert browser.get(link, headers={"accept": "text/html"}).status_code == 200
    browser.headers.update(csrf(browser))
    return browser


def asked(browser):
    reply = browser.post("/api/ask/next", json={"arena": "main"})
    assert reply.status_code == 200, reply.text
    return reply.json()


def vote(browser, key, pair, side="left", **more):
    return browser.post("/api/ask/vote", json={"arena": "main", "key": key, "pair": pair, "side": side, **more})


def test_a_rater_votes_once_however_often_the_request_comes_and_can_undo(app, owner):
    ann = rater_of(app, owner)
    first = asked(ann)
    assert first["last"] == "" and asked(ann) == first
    replies = [vote(ann, "k1", first["asked"]["pair"], strength=3, reason="kind") for _ in range(3)]
    assert {r.status_code for r in replies} == {200} and replies[0].json() == replies[2].json()
    assert vote(ann, "k2", first["asked"]["pair"], "right").json() == {
        "key": "k2", "pair": first["asked"]["pair"], "counts": False, "other": "k1"
    }  # fmt: skip
    assert vote(ann, "k1", first["asked"]["pair"], "right").status_code == 409
    second = asked(ann)
    assert second["last"] == "k1" and second["asked"]["done"] == 1
    assert ann.post("/api/ask/undo", json={"arena": "main", "key": "k1"}).json()["counts"] is False
    again = asked(ann)
    assert again["asked"] == first["asked"]  # the pair whose vote was undone, in the same order
    assert owner.get("/api/votes/summary", params={"arena": "main"}).json()["counts"]["undone"] == 1


def test_nothing_that_a_rater_gets_says_where_an_answer_comes_from(app, owner):
    ann = rater_of(app, owner)
    said = json.dumps(asked(ann)) + ann.get("/api/ask/arenas").text + ann.get("/ask").text
    assert "secret" not in said and "policy" not in json.dumps(asked(ann))
    for path in ("/votes", "/api/votes/summary?arena=main", "/api/runs", "/chat"):
        assert ann.get(path).status_code == 403
    assert "/votes" not in ann.get("/ask").text


def test_who_may_vote_and_who_may_make_raters(app, owner):
    reader = visitor(app)
    headers = csrf(reader)
    assert reader.get("/api/ask/arenas").status_code == 401
    assert reader.post("/api/ask/next", json={"arena": "main"}, headers=headers).status_code == 401
    assert reader.post("/api/votes/raters", json={"name": "eve"}, headers=headers).status_code == 401
    ann = rater_of(app, owner)
    assert ann.get("/api/ask/arenas").json()["rater"] == "ann"
    owner.post("/api/votes/raters/retire", json={"name": "ann"})
    assert ann.get("/api/ask/arenas").status_code == 401
    assert owner.get("/api/ask/arenas").json()["rater"] == "owner"  # who votes too


def test_a_vote_while_the_database_is_away_comes_again_and_counts_once(app, owner, monkeypatch):
    ann = rater_of(app, owner)
    pair = asked(ann)["asked"]["pair"]
    store = app.state.votes.store()

    def away(*_):
        raise Away("gone")

    with monkeypatch.context() as gone:
        gone.setattr(store, "cast", away)
        reply = vote(ann, "k", pair)
        assert reply.status_code == 503 and "Nothing is lost" in reply.json()["detail"]
    assert vote(ann, "k", pair).json()["counts"] and vote(ann, "k", pair).json()["counts"]
    assert owner.get("/api/votes/arenas").json()[0]["votes"] == 1


def test_a_database_that_hangs_keeps_no_other_page_waiting(app, monkeypatch):
    """All requests of this client are answered by one loop, so a look-up that held the loop would hold all of them."""
    monkeypatch.setattr("concordant.studio.raters._PATIENCE", 0.5)
    raters, goes_on = app.state.votes.raters, threading.Event()
    raters._read = lambda: {} if goes_on.wait(3) else {}
    with visitor(app) as client, ThreadPoolExecutor(1) as pool:
        guest = pool.submit(client.get, "/api/ask/arenas", headers={"authorization": "Bearer somebody"})
        while raters._reading is None:
            time.sleep(0.001)
        assert client.get("/api/runs").status_code == 200 and not guest.done()
        assert guest.result().status_code == 503
        goes_on.set()


def test_a_link_that_another_process_made_or_retired_is_known_soon(app, tmp_path, monkeypatch):
    other = Store(str(tmp_path / "votes.sqlite"))
    token = other.add_rater("ann")
    head = {"authorization": f"Bearer {token}"}
    assert visitor(app).get("/api/ask/arenas", headers=head).json()["rater"] == "ann"
    other.retire("ann")
    monkeypatch.setattr("concordant.studio.raters._MISSED", 0.0)
    assert visitor(app).get("/api/ask/arenas", headers=head).status_code == 200  # remembered for some seconds
    monkeypatch.setattr("concordant.studio.raters._REMEMBERED", 0.0)
    assert visitor(app).get("/api/ask/arenas", headers=head).status_code == 401
    head = {"authorization": f"Bearer {other.add_rater('bob')}"}
    assert visitor(app).get("/api/ask/arenas", headers=head).json()["rater"] == "bob"


def test_pages_of_votes_make_no_empty_database(tmp_path):
    owner = visitor(studio(tmp_path), token=TOKEN)
    assert owner.get("/api/votes/arenas").json() == [] == owner.get("/api/ask/arenas").json()["arenas"]
    assert owner.get("/api/votes/summary", params={"arena": "main"}).status_code == 404
    assert owner.post("/api/ask/next", json={"arena": "main"}).status_code == 404
    assert not (tmp_path / "votes.sqlite").exists()


@pytest.fixture
def with_policy(app, tmp_path):
    config = "verb: sft\ndata: {path: 'builtin:toytalk', max_prompt_tokens: 128, max_response_tokens: 64}\n"
    save_policy(tiny_policy(), write_run(tmp_path / "sft", config=config) / "model")
    row = {"id": "c1", "prompt": "Where?", "a": "here", "b": "there"}
    (write_run(tmp_path / "asked", config="verb: collect\n") / "to_label.jsonl").write_text(json.dumps(row) + "\n")
    started = []
    app.state.launcher.start = lambda name, words: started.append((name, words)) or 7
    return started


@pytest.mark.parametrize("method", ["dpo", "ppo"])
def test_votes_become_an_ordinary_pipeline(owner, with_policy, tmp_path, method):
    body = {"arena": "main", "start": "sft", "method": method, "run": "votes-1", "policy_steps": 5}
    reply = owner.post("/api/votes/policy", json=body)
    assert reply.status_code == 200, reply.text
    ((name, words),) = with_policy
    stages = read_plan(load_yaml(words[1]), "file")
    check(stages, tmp_path / "again")
    verbs = [stage.verb for stage in stages]
    assert (name, verbs[:3], verbs[-1]) == ("votes-1", ["votes", "reward", method], "votes")
    enters = stages[-1].config(tmp_path / "votes-1")
    assert enters.answers[1] == f"votes-1/{method}={tmp_path}/votes-1/answers1/answers.jsonl"
    assert {stage.values.get("model.precision", "auto") for stage in stages} == {"auto"}
    for wrong in ({"start": "nobody"}, {"arena": "nothing"}, {"run": "../out"}, {"method": "sft"}):
        assert owner.post("/api/votes/policy", json=body | wrong).status_code == 422


def test_an_arena_of_policies_and_one_of_collected_pairs(owner, with_policy):
    said = {"arena": "new", "policies": ["sft"], "instructions": "Be strict.", "run": "arena-1"}
    assert owner.post("/api/votes/arenas", json=said).json()["run"] == "arena-1"
    stages = read_plan(load_yaml(with_policy[0][1][1]), "file")
    assert [stage.verb for stage in stages] == ["generate", "votes"] and stages[0].values["sampling.n"] == 2
    assert owner.post("/api/votes/arenas", json={"arena": "other", "collected": "asked"}).json()["added"] == 1
    assert [a["arena"] for a in owner.get("/api/votes/arenas").json()] == ["main", "other"]
    for wrong in ({"policies": [], "collected": ""}, {"policies": ["sft"], "collected": "asked"}, {"collected": "sft"}):
        assert owner.post("/api/votes/arenas", json=said | wrong).status_code == 422


def test_the_outcome_is_that_of_the_report(tmp_path):
    assert outcome(tmp_path) is None
    (tmp_path / "report").mkdir()
    (tmp_path / "pipeline.yaml").write_text("stages: {}\n")
    scores = {"reward_mean": 1.0, "gold_mean": 0.5, "gold_mean_low": 0.4, "length_mean": 9.0}
    found = {"policies": {"start": scores, "new": scores}, "prompts": 7, "over_optimisation": {"new": {"gold": 1}}}
    (tmp_path / "report" / "report.json").write_text(json.dumps(found))
    told = outcome(tmp_path)
    assert told["policies"]["new"]["gold_mean_low"] == 0.4 and told["policies"]["new"]["kl"] is None
    assert told["prompts"] == 7 and told["over_optimisation"] == {"gold": 1}
