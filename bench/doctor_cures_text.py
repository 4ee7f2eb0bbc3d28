"""Reads the text of a cure as a user does: which settings it names with which values, and what it says to do by hand.

A cure has parts, which are all followed ("do this; do that"). A part has alternatives ("this, or that"), of which the
first one that changes something is followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Any]  # the settings of a run by dotted key

# What a cure says to do by hand, by the words that say so. bench/doctor_cures_deeds.py does it.
DEEDS = {
    # of a user's own code
    "mask where text is encoded": r"make the mask where the text is encoded",
    "mask by position": r"mask by position",
    "close the turn": r"chat template that closes",
    "draw the order anew": r"draw each epoch's order",
    "optimize all weights": r"give it all of them",
    "freeze the start": r"freeze a copy|freeze the start|the policy as it starts is the reference",
    "one temperature": r"one sampling\.temperature for both|give the learner sampling\.temperature",
    "load weights": r"load the learner's weights into the generator",
    "no dropout": r"every dropout of the model",
    "cut at the end token": r"cut responses at their first end token",
    "loss from the weights": r"cuts the loss from the weights",
    "finite loss": r"make the loss finite",
    "pass the response": r"pass the response, not the prompt",
    "compare with the answer": r"pass the known answer to the comparison",
    "stop at a length": r"let the reward stop growing at a length",
    "lower the penalty": r"lower the penalty until|lower its penalty of length",
    "empty is worst": r"give an empty answer the lowest reward",
    "count once": r"count what is said again once",
    "keep the order": r"give the scores back in the order",
    # of data
    "exchange answers": r"swap the columns of the wrong one|exchange the columns chosen and rejected|"
    r"swap the two columns",
    "exchange the wrong half": r"exchange chosen and rejected in the wrong one",
    "balance lengths": r"balance lengths in the data",
    "label anew": r"have the pairs labelled anew",
    "leave out equal pairs": r"leave out the pairs whose answers are equal",
    "remove tags": r"take the tags out of the answers",
    "remove the prompt": r"take the prompt away from the beginning of the answers",
    "remove the answer": r"take the answers out of the prompts",
    "turns as messages": r"give the dialogue as messages",
    "remove the end mark": r"take the mark out of the answers",
    "remove template marks": r"take the template's marks out",
    "divide the margins": r"divide the margins by (?P<what>[\d.]+\d)",
    "leave out placeholders": r"leave out the rows without an answer",
    "leave out cut rows": r"leave out the rows that were cut",
    "remove repeats": r"remove the repeats|remove rows that the file holds many times",
    "one row of each pair": r"keep one row of each pair",
    "remove the mark": r'remove (?P<what>".+?"(?: at the (?:start|end))?) from the answers',
    # of rewards and starts
    "weight 1": r"give the reward the weight 1",
    "weight -1": r"turn the sign round",
    "weights of the rewards": r"divide each reward by its deviation:(?P<what>(?: --reward \S+=[\d.e+-]+)+)",
    "name a trained model": r"name a trained model",
    "SFT first": r"train one on such answers|train it on such answers|train sft on answers|"
    r"train the start on the (?:chosen|rejected) ones",
}
_FACTORS = {"twofold": 2.0, "threefold": 3.0, "fivefold": 5.0, "tenfold": 10.0, "twice": 2.0, "three times": 3.0}
_FACTORS |= {"five times": 5.0, "ten times": 10.0}
_WITHOUT_NUMBER = 2.0  # what a user takes where the text says "raise" or "lower" and no more
_WORDS = "true|false|adaptive|fixed|start|none|ipo|fp32"
_VALUE = re.compile(
    rf"`?\s*(?:to\s+|=\s*)?(?:(?P<number>-?\d[\d.,]*(?:e-?\d+)?)|(?P<word>{_WORDS})\b|(?P<empty>empty\b)"
    r"|(?P<fold>twofold|threefold|fivefold|tenfold)|(?P<times>twice|three times|five times|ten times)\s+"
    r"(?:as high|(?P<of>[\w.]+))|above\s+(?P<above>\d[\d.]*))"
)
_VERB = re.compile(r"\b(set|raise|lower|leave|compare with)\b", re.IGNORECASE)
_PARTS = re.compile(r"; |\. (?=[A-Z])|, and (?=[a-z]+ )")
_ALTERNATIVES = re.compile(r",? or (?=[a-z-])")
_ZERO_MEANS = {"critic_learning_rate": "train.learning_rate"}  # keys whose 0 stands for another key's value


@dataclass(frozen=True, slots=True)
class Setting:
    """A key and the value that the cure gives to it."""

    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class Deed:
    """Something to do by hand, by its name in ``DEEDS``; ``what`` is what the text says to do it with."""

    name: str
    what: str = ""


Alternative = tuple[Setting | Deed, ...]
Part = tuple[Alternative, ...]


def read_cure(cure: str, values: Values) -> tuple[Part, ...]:
    """The parts of ``cure`` that a user of a run with these settings can carry out; () if there is none."""
    parts = []
    for text in _PARTS.split(cure):
        verb, part = "", []
        for alternative in _ALTERNATIVES.split(text):
            settings, verb = _settings(alternative, values, verb)
            if acts := (*_deeds(alternative), *settings):
                part.append(acts)
        if part:
            parts.append(tuple(part))
    return tuple(parts)


def _deeds(text: str) -> list[Deed]:
    found = ((name, re.search(words, text, re.IGNORECASE)) for name, words in DEEDS.items())
    return [Deed(name, match.groupdict().get("what") or "") for name, match in found if match]


def _settings(text: str, values: Values, verb: str) -> tuple[list[Setting], str]:
    """The settings that the text names, and its last verb; ``verb`` is that of the alternative before."""
    found = []
    keys = "|".join(sorted(map(re.escape, values), key=len, reverse=True))
    for match in re.finditer(rf"(?P<dashes>--|`)?(?<![\w.])(?P<key>{keys})(?![\w.]*\w)", text):
        before = list(_VERB.finditer(text[: match.start()]))
        here = before[-1].group().lower() if before else verb
        stands_behind = bool(before) and not text[before[-1].end() : match.start()].strip(" `-")
        key, value = match["key"], _VALUE.match(text, match.end())
        if not value and not ("." in key or stands_behind):  # "loss" and "clip" are words too
            continue
        made = _value(key, values, value, here)
        if made is not None:
            found.append(Setting(key, made))
        verb = here
    return found, verb


def _value(key: str, values: Values, said: re.Match[str] | None, verb: str) -> Any:
    now = values[key] or values.get(_ZERO_MEANS.get(key, key), values[key])
    if said is None:
        return _times(now, _WITHOUT_NUMBER, verb) if verb in ("raise", "lower") else None
    if said["number"]:
        number = said["number"].rstrip(".,").replace(",", "")
        return type(values[key])(float(number)) if isinstance(values[key], (int, float)) else None
    if said["word"]:
        return said["word"] == "true" if isinstance(values[key], bool) else said["word"]
    if said["empty"]:
        return type(values[key])()
    if said["above"]:
        return type(now)(_WITHOUT_NUMBER * float(said["above"]))
    if said["of"]:
        return _times(values.get(said["of"]), _FACTORS[said["times"]], "raise")
    return _times(now, _FACTORS[said["fold"] or said["times"]], verb)


def _times(now: Any, factor: float, verb: str) -> Any:
    """The present value times ``factor``, or divided by it; None for what is no number."""
    if isinstance(now, bool) or not isinstance(now, (int, float)):
        return None
    made = now / factor if verb == "lower" else now * factor
    return max(1, round(made)) if isinstance(now, int) else float(f"{made:.6g}")
