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
from typing import Any, TypeVar
from unittest.mock import patch

from bench.doctor_cures_rows import (
    Row,
    as_messages,
    balanced,
    exchange,
    exchange_half,
    is_exchanged,
    label_anew,
    margins_divided,
    of_answers,
    one_row_of_each_pair,
    read_ten,
    rows_without_template,
    without_answer,
    without_cut,
    without_mark,
    without_placeholders,
    without_prompt,
    without_repeats,
    without_tags,
)
from bench.doctor_cures_text import Deed, Part, Setting
from bench.doctor_world import model
from concordant.config.fields import build, flatten
from concordant.config.stages import PPOConfig, RunConfig
from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder, Encoded
from concordant.data.records import Pair

T = TypeVar("T")
Plant = Callable[[], AbstractContextManager[None]]

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
    "loss from the weights": ("nothing trains",),
    "finite loss": ("NaN",),
}
# Variants of these kinds in which the loss is wrong, and not what the optimizer holds.
OF_THE_LOSS = ("gradient of 0",)


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
        is_of_loss = self.kind != "nothing trains" or (self.variant in OF_THE_LOSS) == (deed == "loss from the weights")
        if self.plant is nullcontext or self.kind not in MENDS[deed] or not is_of_loss:
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


def _remove_mark(treatment: Treatment, mark: str) -> bool:
    return _rewrite(treatment, of_answers(lambda text: without_mark(text, mark)))


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
    if is_exchanged(texts):  # type: ignore[arg-type]  # a pair has two branches
        encoded.trees[:] = [PromptTree(t.prompt_T, t.branches[::-1]) for t in encoded.trees]


def _label_trees_anew(encoder: ChatEncoder, encoded: Encoded, records: Sequence[Pair]) -> None:
    for place, (i, tree) in enumerate(zip(encoded.record, encoded.trees, strict=True)):
        chosen, rejected = (encoder.text(b.ids_T, ()) for b in tree.branches)
        if is_exchanged([(records[i].prompt, chosen, rejected)]):
            encoded.trees[place] = PromptTree(tree.prompt_T, tree.branches[::-1])


def _leave_out_equal_trees(encoder: ChatEncoder, encoded: Encoded, records: Sequence[Pair]) -> None:
    both = zip(encoded.record, encoded.trees, strict=True)
    kept = [(i, t) for i, t in both if t.branches[0].ids_T.tolist() != t.branches[1].ids_T.tolist()]
    encoded.record[:], encoded.trees[:] = [i for i, _ in kept], [tree for _, tree in kept]


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


def _reweighed(change: Callable[[str, str], str]) -> Callable[[Treatment, str], bool]:
    """Give each source of the reward the weight that ``change(source, what the text says)`` gives."""

    def deed(treatment: Treatment, what: str) -> bool:
        config = treatment.config
        if not isinstance(config, PPOConfig):
            return False
        made = [change(source, what) for source in config.reward]
        changed = made != config.reward
        treatment.config = replace(config, reward=made)
        return changed

    return deed


def _named_weight(source: str, what: str) -> str:
    """The source with the weight that the text gives to its axis."""
    plain = source.partition("=")[0]
    said = re.search(rf"--reward (?:\S*\b)?{re.escape(plain.rpartition(':')[2])}=(\S+)", what)
    return f"{plain}={said[1]}" if said else source


def _turned_round(source: str) -> str:
    plain, _, weight = source.partition("=")
    return f"{plain}={-float(weight or 1):g}"


def _in_function(old: str, new: str) -> Callable[[Treatment, str], bool]:
    """Write ``new`` for ``old`` in the user's reward function."""

    def deed(treatment: Treatment, what: str) -> bool:
        changed = False
        for path in treatment.file.parent.glob("*.py") if treatment.file else ():
            code = path.read_text(encoding="utf-8")
            made = code.replace(old, new)
            path.write_text(made, encoding="utf-8")
            changed = changed or made != code
        return changed

    return deed


def _name_trained(treatment: Treatment, what: str) -> bool:
    if not treatment.trained or treatment.config.model.name == treatment.trained:
        return False
    treatment.config = replace(treatment.config, model=model(treatment.trained, treatment.config.model.lora.rank))
    return True


def _sft_first(treatment: Treatment, what: str) -> bool:
    treatment.sft_first = True
    return True


_DEEDS: dict[str, Callable[[Treatment, str], bool]] = {
    "exchange answers": _in_file_or_trees(exchange, _exchange_trees),
    "exchange the wrong half": lambda treatment, what: _rewrite(treatment, exchange_half),
    "balance lengths": _in_file_or_trees(
        lambda rows: balanced(rows, lambda row: len(row["chosen"]) - len(row["rejected"])), _balance_trees
    ),
    "label anew": _in_file_or_trees(label_anew, _label_trees_anew),
    "leave out equal pairs": _in_file_or_trees(
        lambda rows: [row for row in rows if row["chosen"] != row["rejected"]], _leave_out_equal_trees
    ),
    "remove the prompt": lambda treatment, what: _rewrite(treatment, without_prompt),
    "remove the answer": lambda treatment, what: _rewrite(treatment, without_answer),
    "turns as messages": lambda treatment, what: _rewrite(treatment, as_messages),
    "remove the end mark": lambda treatment, what: _rewrite(
        treatment, of_answers(lambda text: re.sub(r"(?:\s*</s>|\s*<\|[^|]*\|>)+\s*$", "", text))
    ),
    "remove template marks": lambda treatment, what: _rewrite(treatment, rows_without_template),
    "leave out placeholders": lambda treatment, what: _rewrite(treatment, without_placeholders),
    "leave out cut rows": lambda treatment, what: _rewrite(treatment, without_cut),
    "divide the margins": lambda treatment, what: _rewrite(treatment, lambda rows: margins_divided(rows, float(what))),
    "remove tags": lambda treatment, what: _rewrite(treatment, of_answers(without_tags)),
    "remove repeats": lambda treatment, what: _rewrite(treatment, without_repeats),
    "one row of each pair": lambda treatment, what: _rewrite(treatment, one_row_of_each_pair),
    "remove the mark": _remove_mark,
    "weight 1": _reweighed(lambda source, what: re.sub(r"=-[\d.]+$", "=1", source)),
    "weight -1": _reweighed(lambda source, what: _turned_round(source)),
    "weights of the rewards": _reweighed(_named_weight),
    "pass the response": _in_function("prompt[-1].content", "response"),
    "compare with the answer": _in_function(
        "(prompt, response):\n    return overlap(response, prompt[-1].content)",
        "(prompt, response, answer):\n    return overlap(response, answer)",
    ),
    "stop at a length": _in_function("len(response)", "min(len(response), 60)"),
    "lower the penalty": _in_function("- 0.1 * max", "- 0.01 * max"),
    "empty is worst": _in_function(
        "float(answer in response or", "float(answer in response or bool(response.strip()) and"
    ),
    "count once": _in_function(
        "response.count('very') + response.count('nice')", "('very' in response) + ('nice' in response)"
    ),
    "keep the order": _in_function(
        "sorted(zip(responses, answer, strict=True), key=lambda row: len(row[0]))",
        "zip(responses, answer, strict=True)",
    ),
    "name a trained model": _name_trained,
    "SFT first": _sft_first,
}
