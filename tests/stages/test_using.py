"""Scoring, best-of-n and generating with what was trained."""

import json
from pathlib import Path

import pytest

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import (
    BestOfNConfig,
    GenerateConfig,
    ScoreConfig,
)
from concordant.core.errors import UserError
from concordant.data import toytalk
from concordant.data.records import Message, Pair
from concordant.engines.reward_model import RewardModel
from tests.stages.small import (
    SAMPLING,
    plain,
    short_toytalk,  # noqa: F401 (a fixture)
    )  # fmt: skip


@pytest.fixture
def pairs_file(tmp_path):
    pairs = toytalk.heldout_pairs("demo", 0)[:6]
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"{i} {p.prompt[-1].content}", "chosen": p.chosen, "rejected": p.rejected}
        for i, p in enumerate(pairs)
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return file


def test_score_writes_a_line_a_record_in_the_order_of_the_data(reward, pairs_file, tmp_path, capsys):
    model = ModelConfig(**plain(reward / "model"))
    out = concordant.score(
        ScoreConfig(data=DataConfig(path=str(pairs_file)), model=model, output=str(tmp_path / "s.jsonl"))
    )
    rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
    given = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    assert [r["prompt"][0]["content"] for r in rows] == [g["prompt"] for g in given]
    plain_model = RewardModel.from_pretrained(reward / "model")
    for row, pair in zip(rows, given, strict=True):
        for side in ("chosen", "rejected"):
            dialogue = [Message("user", pair["prompt"]), Message("assistant", pair[side])]
            assert row[side] == pytest.approx(plain_model.score([dialogue])[0], abs=1e-4)
    rated = tmp_path / "rated.jsonl"
    rated.write_text(
        "".join(json.dumps({"prompt": f"{i}?", "completion": "yes", "label": True}) + "\n" for i in range(3))
    )
    capsys.readouterr()
    assert concordant.score(ScoreConfig(data=DataConfig(path=str(rated)), model=model)) is None
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(printed) == 3 and all(isinstance(r["score"], float) for r in printed)


def test_best_of_n_writes_data_that_other_stages_read(runs, sft, reward, tmp_path):
    folder = concordant.best_of_n(
        BestOfNConfig(
            output=str(runs / "best"), data=DataConfig(path="builtin:toytalk", max_samples=20),
            model=ModelConfig(**plain(sft / "model")), reward=[str(reward / "model")],
            sampling=SamplingConfig(n=3, max_new_tokens=8),
        )
    )  # fmt: skip
    samples, best, pairs = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("samples", "sft", "pairs")
    )
    for sample, row in zip(samples, best, strict=True):
        answers = {a["response"]: a["reward"] for a in sample["answers"]}
        assert len(sample["answers"]) == 3 and answers[row["response"]] == max(answers.values())
    from concordant.data.records import Demonstration
    from concordant.data.splits import load_records

    usable = sum(bool(r["response"].strip()) for r in best)
    read = load_records(DataConfig(path=str(folder / "sft.jsonl")), Demonstration, 0)
    assert len(read.train) + len(read.test) == usable
    read = load_records(DataConfig(path=str(folder / "pairs.jsonl")), Pair, 0)
    assert len(read.train) + len(read.test) + read.dropped.total() == len(pairs) > 0


def test_generate_answers_the_prompts_in_order(sft, pairs_file, tmp_path, capsys):
    model = ModelConfig(**plain(sft / "model"))
    config = GenerateConfig(
        model=model, data=DataConfig(path=str(pairs_file)), output=str(tmp_path / "g.jsonl"), sampling=SAMPLING
    )
    rows = [json.loads(line) for line in Path(concordant.generate(config)).read_text().splitlines()]
    given = [json.loads(line)["prompt"] for line in pairs_file.read_text().splitlines()]
    assert [r["prompt"][0]["content"] for r in rows] == given
    assert all(set(r) == {"prompt", "response", "ended"} for r in rows)
    first = Path(config.output).read_text()
    concordant.generate(config)
    assert Path(config.output).read_text() == first
    concordant.generate(GenerateConfig(model=model, prompt="hello", sampling=SAMPLING))
    assert "<|" not in capsys.readouterr().out
    with pytest.raises(UserError, match="give either --prompt TEXT or --data FILE"):
        concordant.generate(GenerateConfig(model=model))
