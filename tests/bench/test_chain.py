"""The chain that README shows, as ``python -m bench.chain`` runs it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from bench.chain import VERBS, first_lines, readme_commands, report


def test_the_commands_are_readmes_and_each_reads_what_an_earlier_one_wrote() -> None:
    commands = readme_commands()
    assert tuple(commands) == VERBS
    written = {"pairs.jsonl"}
    for verb, words in commands.items():
        named = [word.rpartition("=")[2] for word in words[1:] if "/" in word or word.endswith(".jsonl")]
        inputs = [name for name in named if name != words[words.index("--output") + 1]]
        assert inputs and all(name in written or name.removesuffix("/model") in written for name in inputs), verb
        written.add(words[words.index("--output") + 1])


def test_the_first_pairs_of_a_file_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("".join(f'{{"n": {i}}}\n' for i in range(9)))
    assert [json.loads(line)["n"] for line in first_lines(path, 4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(("ppo", "better"), [(1.5, True), (0.5, False)])
def test_a_stage_that_is_not_better_than_its_start_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ppo: float, better: bool
) -> None:
    """The numbers before and after are those of the exported evaluation, the one of the lowest held-out loss."""
    shared = {"learning_rate": 1e-3, "eval/rewards/accuracies": 0.7}
    rows = [
        {"step": 1, "loss": 3.0, **shared},
        *({"step": s, "eval/loss": x, **shared} for s, x in ((2, 0.5), (3, 0.9))),
    ]
    for stage in ("sft", "reward", "dpo", "ppo"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward" / "reward_model.json").write_text('{"log_loss": 0.5, "accuracy": 0.6}')
    policies = {name: {"reward_mean": mean} for name, mean in (("sft", 1.0), ("dpo", 1.2), ("ppo", ppo))}
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text(json.dumps({"policies": policies}))
    assert report(tmp_path) is better
    said = capsys.readouterr().out
    assert "sft: 3 steps, rate 0.001; held-out loss 3.000 -> 0.500 nats a token: better" in said
    assert said.count("NOT BETTER") == (0 if better else 1)
