"""``concordant judge``: a server, a model or a function labels pairs, or gives answers marks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from concordant.algorithms.reward_sources import wanted_columns
from concordant.algorithms.rewards import Answer
from concordant.config.checks import checked
from concordant.config.judging import JudgeConfig
from concordant.config.specs import is_reward_function
from concordant.core.errors import UserError
from concordant.data.convert import answers_of, as_dict, prompt_of
from concordant.data.dialogue import Messages
from concordant.data.records import Pair, Prompt, Record
from concordant.data.splits import load_all
from concordant.evaluation.records import Mean
from concordant.feedback import labels, questions
from concordant.feedback.comparing import both_orders, compared, reason_of, trust_in, why_none
from concordant.feedback.principles import read_principles
from concordant.feedback.writers import Answered, Asking, Skip
from concordant.report.wording import with_sentence
from concordant.runs.atomic import write_text
from concordant.runs.logs import json_lines
from concordant.runs.names import JUDGE_JSON, PAIR_DATA
from concordant.stages import asking as shared
from concordant.stages import common
from concordant.stages.rewarding import Rewards

SCORES = "scores.jsonl"


@checked
def judge(config: JudgeConfig) -> Path:
    """Label the data and return the output folder.

    The folder gets ``pairs.jsonl``, ``judge.json`` (how far the judge can be trusted), a data card, and with marks
    ``scores.jsonl``. A pair that the judge calls a tie, or judges by the order alone, is left out and counted.
    """
    by_function = is_reward_function(config.judge)
    with shared.output_folder(config.output, config.data.path) as folder:
        loaded = load_all(config.data.whole(), 0, wanted=wanted_columns([config.judge] if by_function else []))
        records = [record for record in (*loaded.train, *loaded.test) if answers_of(record)]
        left_out = Counter(loaded.dropped)
        if without := len(loaded.train) + len(loaded.test) - len(records):
            left_out["prompts without an answer"] = without
        if not records:
            raise UserError(f"{config.data.path}: no answer to judge; expected pairs, dialogues or rated answers")
        work = _Work(config, folder, records, left_out)
        marks = config.ask == "scores" or (config.ask == "auto" and not all(isinstance(r, Pair) for r in records))
        if by_function:
            pairs = work.by_function(loaded.wanted_names)
        else:
            pairs = work.by_marks() if marks else work.by_comparison()
        write_text(folder / PAIR_DATA, json_lines(labels.rows_of(pairs)))
        shared.write_card(folder, pairs, config.data, loaded.rows_read, left_out, work.notes)
        made = len(pairs) or work.numbers.get("marked", 0)
        shared.finish(folder, work.asking, left_out, made, work.numbers, JUDGE_JSON)
        common.message(f"{len(pairs):,} labelled pairs in {folder / PAIR_DATA}")
    return Path(config.output)


class _Work:
    """One command: the records, what is left out of them, and the numbers and notes about the judge."""

    def __init__(self, config: JudgeConfig, folder: Path, records: Sequence[Record], left_out: Counter[str]) -> None:
        self.config, self.folder, self.records, self.left_out = config, folder, records, left_out
        self.numbers: dict[str, Any] = {"judge": config.endpoint.model or config.judge}
        self.notes: list[str] = [f"labelled by {config.judge} {config.endpoint.model}".rstrip()]
        self.asking: Asking | None = None

    def by_comparison(self) -> list[Pair]:
        """Ask which answer is better, in both orders."""
        principles = read_principles(self.config.principles) if self.config.principles else []
        pairs = labels.neighbours(self.records, self.left_out)
        found = compared(pairs, self._ask(both_orders(pairs, principles, self.config.seed)))
        self.left_out.update(filter(None, map(why_none, found)))
        # Single answers have no labels.
        self.numbers["trust"], told = trust_in(found, all(isinstance(record, Pair) for record in self.records))
        for text in told:
            self._note(text)
        margin = self.config.margin
        return [labels.labelled(c.pair, c.strength, margin) for c in found if not isinstance(c, str) and c.strength]

    def by_marks(self) -> list[Pair]:
        """Ask for helpful and safe marks of each answer. Pairs are made of answers with different marks."""
        if self.config.principles:
            raise UserError("principles: marks are given without a principle; use ask preference")
        texts = [(record, answer) for record in self.records for answer in answers_of(record)]
        answers = self._ask([questions.marking(prompt_of(record), answer) for record, answer in texts])
        found = [None if isinstance(a, Skip) else questions.read_marks(a.text) for a in answers]
        for answered, mark in zip(answers, found, strict=True):
            if mark is None:
                self.left_out[reason_of([answered])] += 1
        rows = [
            {"prompt": as_dict(prompt_of(r)), "response": a, "helpful": m.helpful, "safe": m.safe}
            for (r, a), m in zip(texts, found, strict=True)
            if m is not None
        ]
        write_text(self.folder / SCORES, json_lines(rows))
        marks = _by_record(self.records, found)
        means = labels.mean_marks(self.records, marks)
        self.numbers |= {"marked": len(rows), "marks": {k: _plain(v) for k, v in means.items()}}
        for name, row in means.items():
            told = ", ".join(f"{kind} {with_sentence(mean)}" for kind, mean in row.items())
            self._note(f"{name}: {told}, of 1 to 5")
        return self._of_numbers([[None if m is None else m.mean for m in row] for row in marks])

    def by_function(self, columns: Sequence[str]) -> list[Pair]:
        """The numbers of a Python function, as those of a reward."""
        rewards = Rewards([self.config.judge], self.config.model)
        rewards.check([Prompt(prompt_of(r), r.extra) for r in self.records], columns)
        answers = [Answer(prompt_of(r), a, True, r.extra, r.tools) for r in self.records for a in answers_of(r)]
        with common.watched("judge"):
            scores = rewards.reward(answers).result()
        (given,) = scores.given.values()
        rewards.report_missing()
        return self._of_numbers(_by_record(self.records, list(given)))

    def _of_numbers(self, numbers: Sequence[Sequence[float | None]]) -> list[Pair]:
        return labels.best_and_worst(self.records, numbers, self.config.margin, self.left_out)

    def _ask(self, asked: Sequence[Messages]) -> list[Answered]:
        self.asking = shared.open_judge(self.config, self.config.model, self.folder)
        return shared.ask(self.asking, asked, "judge")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        common.message(f"judge: {text}")


def _by_record(records: Sequence[Record], values: Sequence[Any]) -> list[list[Any]]:
    """``values``, one for each answer, as a list for each record."""
    ends = [0]
    for record in records:
        ends.append(ends[-1] + len(answers_of(record)))
    return [list(values[start:end]) for start, end in pairwise(ends)]


def _plain(means: dict[str, Mean]) -> dict[str, Any]:
    return {name: mean.as_json() for name, mean in means.items()}
