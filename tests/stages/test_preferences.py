"""``concordant dpo`` with rated answers, soft labels and losses without a reference."""

import json
from dataclasses import replace

import pytest

from concordant import dpo
from concordant.config.cluster import ClusterConfig
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.stages import DPOConfig
from concordant.core.errors import UserError
from concordant.data.records import Pair
from concordant.engines import roles
from concordant.stages import preferences
from tests.stages.small import in_a_process, metrics_of, train

WORDS = ["owl", "fox", "bee", "hen", "cat", "dog"]


def config(path, **changes):
    usual = {"data": DataConfig(str(path), test_fraction=0.34), "train": train(batch_size=4, evaluate_every=2)}
    model = ModelConfig("builtin:tiny", device="cpu", kernels="plain")
    return DPOConfig(output=str(path.parent / "run"), model=model, evaluation_slots=8, **(usual | changes))


def written(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def ratings(good=lambda i: i % 3 != 0):
    """Two answers to each prompt, of which the first is mostly good."""
    return [
        {"prompt": f"Where is the {word}?", "completion": f"The {word} is {place}.", "label": good(2 * i + j)}
        for i, word in enumerate(WORDS)
        for j, place in enumerate(("home", "gone"))
    ]


def pairs(**columns):
    return [
        {"prompt": f"Where is the {word}?", "chosen": f"The {word} is home.", "rejected": "No."}
        | {name: value(i) for name, value in columns.items()}
        for i, word in enumerate(WORDS)
    ]


def test_kto_learns_from_unpaired_data(tmp_path, capsys):
    run = dpo(config(written(tmp_path / "rated.jsonl", ratings()), loss="kto", beta=0.5))
    first, last = metrics_of(run)
    assert first["kto"] == pytest.approx(0.5, abs=1e-4) and first["rewards/anchor"] == pytest.approx(0, abs=1e-4)
    assert first["count/chosen"] + first["count/rejected"] == 8, "four prompts with two answers each"
    assert last["rewards/margins"] != 0 and "eval/kto" in last and "eval/kl" in last
    findings = [
        row["rule"] for row in map(json.loads, (run / "events.jsonl").read_text().splitlines()) if "rule" in row
    ]
    assert "reference_not_start" not in findings
    assert "over 4 prompts" in capsys.readouterr().err


def test_two_workers_learn_by_kto_what_one_learns(tmp_path):
    """The anchor of a step is a mean over its whole batch, whoever computes which part of the batch."""
    path = written(tmp_path / "rated.jsonl", ratings())

    def made(workers):
        cluster, twice = ClusterConfig(workers=workers, shards=2), train(batch_size=4, evaluate_every=0)
        return replace(config(path, loss="kto", cluster=cluster, train=twice), output=str(tmp_path / f"by-{workers}"))

    two, one = (
        [{name: value for name, value in row.items() if "second" not in name} for row in metrics_of(run)]
        for run in (in_a_process(dpo, made(2)), dpo(made(1)))
    )
    assert two == one and one[1]["rewards/anchor"] != 0


def test_a_loss_without_a_reference_loads_and_computes_none(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a reference was made")

    monkeypatch.setattr(roles, "reference", refuse)
    path = written(tmp_path / "pairs.jsonl", pairs())
    first, last = metrics_of(dpo(config(path, loss="simpo", beta=2.0, margin=1.0)))
    assert first["rewards/chosen"] < 0 and "eval/simpo" in last and "eval/length" in last and "eval/kl" not in last
    with pytest.raises(AssertionError, match="a reference was made"):
        dpo(config(path, loss="simpo", plus=["hinge=0.5"], resume="force"))


def test_answers_of_one_label_teach_nothing(tmp_path):
    path = written(tmp_path / "good.jsonl", ratings(lambda i: True))
    with pytest.raises(UserError, match="all 8 answers to train on are rated good; kto learns from good and bad ones"):
        dpo(config(path, loss="kto"))


def test_ratings_for_a_loss_of_pairs_are_refused_with_the_losses_that_read_them(tmp_path):
    path = written(tmp_path / "rated.jsonl", ratings())
    said = r"no preference pairs to train on. Rows read: 12 as unpaired; dropped: .*(.|\n)*`concordant dpo --loss kto`"
    with pytest.raises(UserError, match=said):
        dpo(config(path))


def test_ties_are_counted_and_left_out_but_for_soft_labels(tmp_path, capsys):
    path = written(tmp_path / "votes.jsonl", pairs(votes_chosen=lambda i: i % 2, votes_rejected=lambda i: 0))
    folder = type("Folder", (), {"inputs": type("Inputs", (), {"add_data": lambda *_: None})()})()
    loaded = preferences.read_pairs(config(path), folder)
    assert all(pair.probability == pytest.approx(2 / 3) for pair in (*loaded.train, *loaded.test))
    assert "left out" in (said := capsys.readouterr().err) and "--strength label learns from ties" in said
    assert len(preferences.read_pairs(config(path, strength="label"), folder).train) == 4
    tied = written(tmp_path / "ties.jsonl", pairs(probability=lambda i: 0.5))
    with pytest.raises(UserError, match="every pair is a tie; give --strength label"):
        preferences.read_pairs(config(tied), folder)
    with pytest.raises(UserError, match="strength margin: no pair has votes, probability or margin"):
        preferences.read_pairs(config(written(tmp_path / "plain.jsonl", pairs()), strength="margin"), folder)


def test_strength_becomes_labels_or_leads(tmp_path):
    sure, unsure, plain = (
        Pair((), "a", "b", probability=p, margin=m) for p, m in ((0.9, None), (0.5, 0.25), (None, None))
    )
    side = preferences.Side([], [sure, unsure, plain])
    path = tmp_path / "x.jsonl"
    soft = preferences._labels(config(path, strength="label", label_smoothing=0.2), side.records)
    assert soft.tolist() == pytest.approx([0.1, 0.5, 0.2]), "a pair without a label has the usual smoothing"
    leads = preferences._leads(config(path, strength="margin"), side.records)
    assert leads.tolist() == pytest.approx([2.19722, 0.25, 0.0], abs=1e-5)
    assert preferences._labels(config(path, label_smoothing=0.2), side.records) == 0.2
