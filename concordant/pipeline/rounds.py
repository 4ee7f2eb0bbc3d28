"""A pipeline with rounds: the stages under ``each_round`` are written out once for every round.

rounds: 2
stages:
  sft: {model: builtin:tiny}
each_round:                              # round 1 has round1/collect and round1/dpo, round 2 has round2/collect, …
  collect: {model: "${before.dpo or sft}", judge: gold, earlier: "${before.collect or nothing}"}
  dpo: {model: "${before.dpo or sft}", data: "${collect}"}
  report: {verb: evaluate, policies: ["sft=${sft}", "round{1..k}=${round{1..k}/dpo}"]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from concordant.core.errors import UserError, unknown_name

ROUNDS, EACH_ROUND = "rounds", "each_round"
BEFORE, NOTHING = "before", "nothing"  # words in references
_K = "{k}"  # the number of the round
_UP_TO_K = "{1..k}"  # an item of a list with these characters comes once for every round up to this one
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_FROM_BEFORE = re.compile(rf"{BEFORE}\.([^\s.]+)(\.run)?(?:\s+or\s+(\S+))?\s*")

Option = tuple[str, list[str]]


def unrolled(
    mapping: Mapping[str, Any], source: str, options: Sequence[Option]
) -> tuple[Mapping[str, Any], Sequence[Option]]:
    """The pipeline with the stages of every round among its ``stages``, and the options for these stages.

    Stage NAME of round k is called ``roundk/NAME``. The option ``rounds`` replaces the number of rounds, and
    ``each_round.NAME.KEY`` replaces a key of a stage in every round. A pipeline without rounds stays as it is.
    """
    given = [" ".join(values) for name, values in options if name == ROUNDS]
    bodies = mapping.get(EACH_ROUND)
    if bodies is None:
        if given or ROUNDS in mapping:
            raise UserError(f'{source}: "{ROUNDS}" says how often the stages of "{EACH_ROUND}" run; there are none')
        return mapping, options
    if not isinstance(bodies, Mapping) or not bodies:
        raise UserError(f'{source}: "{EACH_ROUND}" must map at least one name to its keys')
    once = mapping.get("stages") or {}
    if not isinstance(once, Mapping):
        raise UserError(f'{source}: "stages" must map names to their keys')
    names = [str(name) for name in bodies]
    if twice := [name for name in names if name in once]:
        raise UserError(f'{source}: "stages" and "{EACH_ROUND}" both have a stage {twice[0]}; give it another name')
    if taken := {BEFORE, NOTHING}.intersection([*names, *once]):
        raise UserError(f"{source}: no stage of a pipeline with rounds can have the name {min(taken)}")
    count = _count(given[-1] if given else mapping.get(ROUNDS), source)
    rounds = [_Round(k, names, source) for k in range(1, count + 1)]
    stages = {**once} | {r.named(str(name)): r.body(str(name), body) for r in rounds for name, body in bodies.items()}
    rest = {key: value for key, value in mapping.items() if key not in (ROUNDS, EACH_ROUND)}
    return rest | {"stages": stages}, _options(options, rounds)


def _count(given: Any, source: str) -> int:
    text = str(given)
    if isinstance(given, bool) or not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise UserError(f"{source}: {ROUNDS}: expected a whole number from 1 on; given {given!r}")
    return int(text)


def _options(options: Sequence[Option], rounds: Sequence[_Round]) -> list[Option]:
    found: list[Option] = []
    for key, values in options:
        if key.partition(".")[0] != EACH_ROUND:
            found += [(key, values)] if key != ROUNDS else []
            continue
        name, dot, rest = key.removeprefix(f"{EACH_ROUND}.").partition(".")
        if name not in rounds[0].names:
            raise unknown_name(f"stage of {EACH_ROUND}", name, rounds[0].names)
        found += [(f"stages.{r.named(name)}{dot}{rest}", values) for r in rounds]
    return found


@dataclass(frozen=True, slots=True)
class _Round:
    number: int
    names: Sequence[str]  # of the stages of each round
    source: str

    def named(self, name: str) -> str:
        return f"round{self.number}/{name}"

    def body(self, name: str, body: Any) -> Any:
        """The keys of a stage in this round. A stage that collects pairs writes the number of the round beside them."""
        found = self._value(body, f"{self.source} ({EACH_ROUND}, stage {name})")
        if name == "collect" or (isinstance(found, Mapping) and found.get("verb") == "collect"):
            return {"round": self.number, **(found or {})} if isinstance(found, Mapping | None) else found
        return found

    def _value(self, value: Any, where: str) -> Any:
        if isinstance(value, Mapping):
            return {key: self._value(inner, where) for key, inner in value.items()}
        if isinstance(value, list):
            items = [item for inner in value for item in self._repeated(inner)]
            return [item for item in (self._value(item, where) for item in items) if item != ""]
        if not isinstance(value, str):
            return value
        if value == _K:
            return self.number  # a number and no text, for keys such as seed
        return self._text(value.replace(_K, str(self.number)), where)

    def _repeated(self, item: Any) -> list[Any]:
        if not (isinstance(item, str) and _UP_TO_K in item):
            return [item]
        return [item.replace(_UP_TO_K, str(k)) for k in range(1, self.number + 1)]

    def _text(self, text: str, where: str) -> str:
        """``text`` with its references as those of a pipeline without rounds; "" where one refers to nothing."""
        found = [self._reference(match[1], where) for match in _REFERENCE.finditer(text)]
        if "" in found:
            return ""
        left = iter(found)
        return _REFERENCE.sub(lambda match: next(left), text)

    def _reference(self, inside: str, where: str) -> str:
        before = _FROM_BEFORE.fullmatch(inside)
        if before is None:
            name, dot, part = inside.partition(".")
            return "${" + (self.named(name) if name in self.names else name) + dot + part + "}"
        name, run, first = before[1], before[2] or "", before[3]
        if name not in self.names:
            raise UserError(f"{where}: {unknown_name(f'stage of {EACH_ROUND}', name, self.names)}")
        if first is None:
            raise UserError(
                f'{where}: "${{{inside}}}": say what the first round takes, which has none before it: '
                f'"${{before.{name}{run} or STAGE}}" or "${{before.{name}{run} or {NOTHING}}}"'
            )
        if self.number > 1:
            return f"${{round{self.number - 1}/{name}{run}}}"
        return "" if first == NOTHING else f"${{{first}}}"
