"""``concordant votes`` from the command line: pairs in, raters, an order, votes out, and what is refused."""

from __future__ import annotations

import json

import pytest

from concordant.cli import main
from concordant.votes.rows import hash_of
from concordant.votes.store import Store
from tests.votes.simulated import vote_until_done

ROWS = [{"id": f"p{i}", "prompt": f"Where is {i}?", "a": f"here {i}", "b": f"there {i}"} for i in range(4)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return main(["votes", *map(str, words)])

    return call


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_from_pairs_to_an_export(run, tmp_path, capsys):
    data = write(tmp_path / "to_label.jsonl", ROWS)
    for _ in range(2):  # the second time all pairs are there
        assert run("import", "--data", data, "--policies", "x", "y", "--output", "asked.jsonl") == 0
    assert len((tmp_path / "asked.jsonl").read_text().splitlines()) == 4
    capsys.readouterr()
    assert run("rater", "--rater", "ann") == 0
    token = capsys.readouterr().out.strip()
    scores = [{"id": f"p{i}", "score_a": [0, 0], "score_b": [i, -i]} for i in range(4)]
    assert run("rank", "--order", "disputed", "--scores", write(tmp_path / "scores.jsonl", scores)) == 0
    store = Store("runs/votes.sqlite")
    (ann, _) = store.tokens()[hash_of(token)]
    assert vote_until_done(store, store.arena("main"), ann) == ["p3", "p2", "p1", "p0"]  # the most disputed first
    capsys.readouterr()
    assert run("status", "--json", "true") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["votes"] == 4 and found["agreement"]["fleiss"]["value"] is None
    assert run("status") == 0 and "no pair has two votes" in capsys.readouterr().out
    assert run("export", "--output", "pairs.jsonl") == 0
    row = json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])
    assert {row["chosen_policy"], row["rejected_policy"]} == {"x", "y"} and row["votes_chosen"] == 1
    assert run("export", "--form", "votes", "--output", "votes.jsonl") == 0
    assert run("retire", "--rater", "ann") == 0 and hash_of(token) not in store.tokens()


def test_answers_of_policies_and_of_one_policy_make_pairs(run, tmp_path, capsys):
    rows = [{"prompt": "Where?", "response": text} for text in ("here", "here ", "there", "nowhere")]
    one, two = write(tmp_path / "one.jsonl", rows), write(tmp_path / "two.jsonl", rows[2:])
    assert run("import", "--answers", f"x={one}", f"y={two}", "--output", "both.jsonl") == 0
    assert run("import", "--arena", "own", "--answers", f"x={one}", "--output", "own.jsonl") == 0
    told = [json.loads((tmp_path / name).read_text()) for name in ("both.jsonl", "own.jsonl")]
    assert [(row["a"], row["b"], row["policy_a"], row["policy_b"]) for row in told] == [
        ("here", "there", "x", "y"), ("here", "there", "x", "x"),
    ]  # fmt: skip


def test_gold_pairs_come_among_others_and_rate_the_rater(run, tmp_path, capsys):
    known = [{"prompt": f"Gold {i}?", "chosen": "right", "rejected": "wrong"} for i in range(3)]
    assert run("import", "--data", write(tmp_path / "to_label.jsonl", ROWS), "--gold_share", "0.5") == 0
    assert run("import", "--data", write(tmp_path / "gold.jsonl", known), "--gold", "true", "--gold_share", "0.5") == 0
    store = Store("runs/votes.sqlite")
    ann = store.rater_named("ann")[0]
    asked = vote_until_done(store, store.arena("main"), ann)
    assert {f"p{i}" for i in range(4)} < set(asked)
    capsys.readouterr()
    run("status", "--json", "true")
    (rater,) = json.loads(capsys.readouterr().out)["raters"]
    assert rater["gold"]["count"] == len(asked) - 4 > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status"], "makes one"),
        (["rater"], "--rater NAME"),
        (["export"], "--output pairs.jsonl"),
        (["import"], "--data FILE"),
        (["status", "--margin", "1"], "would do nothing"),
        (["rank", "--order", "close"], "--scores FILE"),
        (["stats"], "status"),
    ],
)
def test_what_is_refused(run, capsys, words, said):
    assert run(*words) == 2 and said in capsys.readouterr().err


def test_toytalks_pairs_can_be_voted_on(run):
    assert run("import", "--data", "builtin:toytalk", "--data.max_samples", "5") == 0
    assert len(Store("runs/votes.sqlite").read(Store("runs/votes.sqlite").arena("main"))[0]) >= 4
