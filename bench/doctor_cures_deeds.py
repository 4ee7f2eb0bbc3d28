"""Carries out what a cure says to do: settings, files of data, rewards, starts, and the parts of a user's own code.

A fault of the *kin* set that stands for a mistake in a user's code is taken out where the text of the cure says which
part of the code is wrong, and where that part is the one that was planted. Nothing else of a fault is taken out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from unittest.mock import patch

from bench.doctor_cures_text import Deed, Part, Setting
from bench.doctor_world import model
from concordant.config.fields import build, flatten
from concordant.config.stages import PPOConfig, RunConfig
from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder, Encoded
from concordant.data.records import Message, Pair
from concordant.data.toytalk import gold_score

T = TypeVar("T")
Row = dict[str, Any]
Plant = Callable[[], AbstractContextManager[None]]
READ = 10  # pairs that a user reads to see which answer is the better one

# Kinds of planted faults (bench/doctor_faults.py) that are mistakes in a user's code, by the deed that mends them.
MENDS = {
    "mask where text is encoded": ("prompt in the mask", "mask shifted", "mask leaves answers out"),
    "mask by position": ("pad = EOS",),
    "close the turn": ("no end token",),
    "draw the order anew": ("data repeated",),
    "optimize all weights": ("head frozen", "backbone frozen", "layers frozen", "nothing trains", "critic frozen"),
    "freeze the start": ("reference is the policy", "wrong reference", "reference not frozen"),
    "one temperature": ("temperature missing",),
    "load weights": ("stale rollouts",),
    "no dropout": ("dropout on",),
    "cut at the end token": ("padding counted",),
}
NOT_MENDED = ("gradient of 0",)  # variants of these kinds in which another part of the code is wrong


@dataclass(slots=True)
class Treatment:
    """A sick run whose config, files and code are being changed."""

    config: RunConfig
    plant: Plant = nullcontext  # what makes the run sick, if it is code
    kind: str = ""  # of the planted fault; "" for a user's files and settings
    variant: str = ""
    trained: str = ""  # a model folder that a user could name as a start
    over: list[Plant] = field(default_factory=list)  # what is done to encoded data, after the plant
    sft_first: bool = False
    done: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path | None:
        """The user's data file; None where the data is built in."""
        return None if self.config.data.path.startswith("builtin:") else Path(self.config.data.path)

    def carry_out(self, parts: Sequence[Part]) -> bool:
        """Follow of every part the first alternative that changes something. Returns whether anything was changed."""
        for part in parts:
            next((True for alternative in part if any([self._act(act) for act in alternative])), False)
        return bool(self.done)

    def _act(self, act: Setting | Deed) -> bool:
        if isinstance(act, Setting):
            values = flatten(self.config)
            if values[act.key] == act.value:
                return False
            self.config = build(type(self.config), {**values, act.key: act.value})
            self.done.append(f"{act.key} {_shown(values[act.key])} -> {_shown(act.value)}")
            return True
        changed = self._mend(act.name) if act.name in MENDS else _DEEDS[act.name](self, act.what)
        if changed:
            self.done.append(act.name)
        return changed

    def _mend(self, deed: str) -> bool:
        if self.plant is nullcontext or self.kind not in MENDS[deed] or self.variant in NOT_MENDED:
            return False
        self.plant = nullcontext
        return True


def _shown(value: Any) -> str:
    """A value without the folders before a name, and a number with six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return (Path(value).name or "empty") if isinstance(value, str) else str(value)


# -- files of data --------------------------------------------------------------------------------


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _rewrite(treatment: Treatment, change: Callable[[list[Row]], list[Row]]) -> bool:
    """Change the rows of the user's file; False where there is no file or nothing is changed."""
    if treatment.file is None:
        return False
    rows = rows_of(treatment.file)
    changed = change([dict(row) for row in rows])
    treatment.file.write_text("".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in changed), encoding="utf-8")
    return changed != rows


def _flipped(row: Row) -> Row:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def read_ten(items: Sequence[T]) -> list[T]:
    """Ten items, evenly spread."""
    return [items[i * len(items) // READ] for i in range(READ)] if len(items) >= READ else list(items)


def _is_exchanged(texts: Sequence[tuple[tuple[Message, ...], str, str]]) -> bool:
    """Whether somebody who reads (prompt, chosen, rejected) finds the rejected answers better, all in all."""
    return sum(gold_score(prompt, chosen) - gold_score(prompt, rejected) for prompt, chosen, rejected in texts) < 0


def _rows_are_exchanged(rows: Sequence[Row]) -> bool:
    read = read_ten(rows)
    return _is_exchanged([((Message("user", r["prompt"]),), r["chosen"], r["rejected"]) for r in read])


def _exchange(rows: list[Row]) -> list[Row]:
    return [_flipped(row) for row in rows] if _rows_are_exchanged(rows) else rows


def _exchange_half(rows: list[Row]) -> list[Row]:
    half = len(rows) // 2
    return _exchange(rows[:half]) + _exchange(rows[half:])


def _without_repeats(rows: list[Row]) -> list[Row]:
    return [json.loads(text) for text in dict.fromkeys(json.dumps(row, sort_keys=True) for row in rows)]


def _one_row_of_each_pair(rows: list[Row]) -> list[Row]:
    first: dict[Any, Row] = {}
    for row in rows:
        first.setdefault((row["prompt"], frozenset((row["chosen"], row["rejected"]))), row)
    return list(first.values())


def without_mark(text: str, mark: str) -> str:
    """``text`` without what a finding calls a mark: '"thanks"' anywhere, or '"thanks" at the end'."""
    said = re.match(r'"(?P<token>.+)"(?: at the (?P<where>start|end))?', mark)
    assert said is not None
    token = re.escape(said["token"])
    token = rf"\b{token}\b" if said["token"].isalnum() else token
    where = {"start": rf"\A\s*{token}", "end": rf"{token}\s*\Z", None: token}[said["where"]]
    return " ".join(re.sub(where, "", text, flags=re.IGNORECASE).split())


def _remove_mark(treatment: Treatment, mark: str) -> bool:
    sides = ("chosen", "rejected", "response")
    return _rewrite(
        treatment,
        lambda rows: [{k: without_mark(v, mark) if k in sides else v for k, v in row.items()} for row in rows],
    )


def balanced(items: Sequence[T], leads: Callable[[T], int]) -> list[T]:
    """As many items whose chosen answer is the longer one (``leads`` above 0) as of the other kind; ties are kept."""
    longer, shorter = ([i for i in items if sign * leads(i) > 0] for sign in (1, -1))
    few = min(len(longer), len(shorter))
    kept = {id(i) for side in (longer, shorter) for i in Random(0).sample(side, few)}
    return [i for i in items if leads(i) == 0 or id(i) in kept]


# -- encoded data of a run whose data is built in -----------------------------------------------------


def _training_trees(change: Callable[[ChatEncoder, Encoded, Sequence[Pair]], None]) -> Plant:
    """Change the first encoding of pairs, which is that of the training data, after whatever was planted."""

    @contextmanager
    def over() -> Iterator[None]:
        real, calls = ChatEncoder.pairs, [0]

        def pairs(self: ChatEncoder, records: Sequence[Pair]) -> Encoded:
            encoded = real(self, records)
            calls[0] += 1
            if calls[0] == 1:
                change(self, encoded, records)
            return encoded

        with patch.object(ChatEncoder, "pairs", pairs):
            yield

    return over


def _exchange_trees(encoder: ChatEncoder, encoded: Encoded, records: Sequence[Pair]) -> None:
    read = read_ten(list(zip(encoded.record, encoded.trees, strict=True)))
    texts = [(records[i].prompt, *(encoder.text(b.ids_T, ()) for b in tree.branches)) for i, tree in read]
    if _is_exchanged(texts):  # type: ignore[arg-type]  # a pair has two branches
        encoded.trees[:] = [PromptTree(t.prompt_T, t.branches[::-1]) for t in encoded.trees]


def _balance_trees(encoder: ChatEncoder, encoded: Encoded, records: Sequence[Pair]) -> None:
    both = list(zip(encoded.record, encoded.trees, strict=True))
    kept = balanced(both, lambda item: len(item[1].branches[0].ids_T) - len(item[1].branches[1].ids_T))
    encoded.record[:], encoded.trees[:] = [i for i, _ in kept], [tree for _, tree in kept]


def _in_file_or_trees(
    rows: Callable[[list[Row]], list[Row]], trees: Callable[[ChatEncoder, Encoded, Sequence[Pair]], None]
) -> Callable[[Treatment, str], bool]:
    def deed(treatment: Treatment, what: str) -> bool:
        if treatment.file is not None:
            return _rewrite(treatment, rows)
        treatment.over.append(_training_trees(trees))
        return True

    return deed


# -- rewards and starts -------------------------------------------------------------------------------


def _weight_1(treatment: Treatment, what: str) -> bool:
    config = treatment.config
    if not isinstance(config, PPOConfig):
        return False
    made = [re.sub(r"=-[\d.]+$", "=1", source) for source in config.reward]
    changed = made != config.reward
    treatment.config = replace(config, reward=made)
    return changed


def _pass_response(treatment: Treatment, what: str) -> bool:
    """In the user's reward function."""
    changed = False
    for path in treatment.file.parent.glob("*.py") if treatment.file else ():
        code = path.read_text(encoding="utf-8")
        made = code.replace("prompt[-1].content", "response")
        path.write_text(made, encoding="utf-8")
        changed = changed or made != code
    return changed


def _name_trained(treatment: Treatment, what: str) -> bool:
    if not treatment.trained or treatment.config.model.name == treatment.trained:
        return False
    treatment.config = replace(treatment.config, model=model(treatment.trained, treatment.config.model.lora.rank))
    return True


def _sft_first(treatment: Treatment, what: str) -> bool:
    treatment.sft_first = True
    return True


_DEEDS: dict[str, Callable[[Treatment, str], bool]] = {
    "exchange answers": _in_file_or_trees(_exchange, _exchange_trees),
    "exchange the wrong half": lambda treatment, what: _rewrite(treatment, _exchange_half),
    "balance lengths": _in_file_or_trees(
        lambda rows: balanced(rows, lambda row: len(row["chosen"]) - len(row["rejected"])), _balance_trees
    ),
    "remove repeats": lambda treatment, what: _rewrite(treatment, _without_repeats),
    "one row of each pair": lambda treatment, what: _rewrite(treatment, _one_row_of_each_pair),
    "remove the mark": _remove_mark,
    "weight 1": _weight_1,
    "pass the response": _pass_response,
    "name a trained model": _name_trained,
    "SFT first": _sft_first,
}
