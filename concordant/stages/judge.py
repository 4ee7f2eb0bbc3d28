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
from concordant.config.specs import is_address, is_reward_function
from concordant.core.errors import UserError
from concordant.data.convert import answers_of, as_dict, prompt_of
from concordant.data.dialogue import Messages
from concordant.data.records import Pair, Prompt, Record
from concordant.data.splits import load_all
from concordant.evaluation.records import Mean
from concordant.feedback import labels, questions
from concordant.feedback.principles import principles_for, read_principles
from concordant.feedback.writers import Answered, Asking, Skip
from concordant.report.wording import with_sentence
from concordant.runs.atomic import write_text
from concordant.runs.logs import json_lines
from concordant.runs.names import PAIR_DATA
from concordant.stages import asking as shared
from concordant.stages import common
from concordant.stages.rewarding import Rewards
from concordant.training.progress import current

SCORES, SUMMARY = "scores.jsonl", "judge.json"
UNREADABLE = "an answer of the judge without a verdict"


@checked
def judge(config: JudgeConfig) -> Path:
    """Label the data and return the output folder.

    The folder gets ``pairs.jsonl``, ``judge.json`` (how far the judge can be trusted), a data card, and with marks
    ``scores.jsonl``. A pair that the judge calls a tie, or judges by the order alone, is left out and counted.
    """
    by_function = is_reward_function(config.judge) and not is_address(config.judge)
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
        shared.finish(folder, work.asking, left_out, made, work.numbers, SUMMARY)
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
        asked = []
        for pair in pairs:
            drawn = principles_for(principles, pair.prompt, 1, self.config.seed) if principles else []
            choose = drawn[0].choose if drawn else questions.CHOOSE
            asked.append(questions.comparison(pair.prompt, pair.chosen, pair.rejected, choose))
            asked.append(questions.comparison(pair.prompt, pair.rejected, pair.chosen, choose))
        answers = self._ask(asked)
        verdicts = [None if isinstance(a, Skip) else questions.read_comparison(a.text) for a in answers]
        compared = []
        for i, pair in enumerate(pairs):
            first, second = verdicts[2 * i : 2 * i + 2]
            if first is None or second is None:
                self.left_out[_reason(answers[2 * i : 2 * i + 2])] += 1
            else:
                compared.append(labels.Compared.of(pair, first, second))
        self._trust(compared)
        for tie in (c for c in compared if not c.strength):
            self.left_out["each order preferred the same place" if tie.flipped else labels.TIE] += 1
        return [labels.labelled(c.pair, c.strength, self.config.margin) for c in compared if c.strength]

    def by_marks(self) -> list[Pair]:
        """Ask for helpful and safe marks of each answer. Pairs are made of answers with different marks."""
        if self.config.principles:
            raise UserError("principles: marks are given without a principle; use ask preference")
        texts = [(record, answer) for record in self.records for answer in answers_of(record)]
        answers = self._ask([questions.marking(prompt_of(record), answer) for record, answer in texts])
        found = [None if isinstance(a, Skip) else questions.read_marks(a.text) for a in answers]
        for answered, mark in zip(answers, found, strict=True):
            if mark is None:
                self.left_out[_reason([answered])] += 1
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
        config = self.config
        writer = shared.open_writer(config.judge, config.endpoint, config.model, config.data, config.max_answer_tokens)
        self.asking = Asking(writer, shared.open_cache(self.folder))
        with current().task("judge", len(asked)) as bar:
            return self.asking(asked, lambda done: bar.update(done, {}))

    def _trust(self, compared: Sequence[labels.Compared]) -> None:
        trust = labels.trust_of(compared)
        told = {
            "first_place": "of the verdicts prefer the answer in the first place (fair: 50 %)",
            "flips": "of the pairs decided in both orders changed with the order",
            "ties": "of the pairs are ties, those that changed with the order among them",
        }
        if all(isinstance(record, Pair) for record in self.records):  # single answers have no labels
            told["agreement"] = "of the labelled pairs have the label that the data gives them"
        found: dict[str, Mean | None] = {name: getattr(trust, name) for name in told}
        self.numbers["trust"] = {name: mean.as_json() if mean else None for name, mean in found.items()}
        for name, mean in found.items():
            if mean is not None:
                self._note(f"{with_sentence(mean)} {told[name]}")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        common.message(f"judge: {text}")


def _by_record(records: Sequence[Record], values: Sequence[Any]) -> list[list[Any]]:
    """``values``, one for each answer, as a list for each record."""
    ends = [0]
    for record in records:
        ends.append(ends[-1] + len(answers_of(record)))
    return [list(values[start:end]) for start, end in pairwise(ends)]


def _reason(answers: Sequence[Answered]) -> str:
    """Why answers of the judge give nothing: the first that was skipped, or an unreadable one."""
    return next((a.reason for a in answers if isinstance(a, Skip)), UNREADABLE)


def _plain(means: dict[str, Mean]) -> dict[str, Any]:
    return {name: mean.as_json() for name, mean in means.items()}
