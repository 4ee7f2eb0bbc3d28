"""Environments: what a policy speaks with in an answer of several turns, such as a tool or a game.

An environment is made anew for every answer. The policy speaks first. The environment replies to each of its turns,
until it has nothing to reply. ``conversations.py`` puts the replies into the answer, where they are never learnt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, get_args

from concordant.algorithms.calculator import Calculator
from concordant.algorithms.guess import Guess
from concordant.algorithms.reward_functions import as_number, shown_error
from concordant.algorithms.reward_sources import imported
from concordant.config.environment import EnvironmentConfig
from concordant.core.errors import UserError, nearest, unknown_name
from concordant.core.process import process_put_back
from concordant.core.time_limit import at_most
from concordant.core.visible import visible
from concordant.data.carried import Wanted, has, names_in, value
from concordant.data.records import Message, Prompt, Role

T = TypeVar("T")


class Environment(Protocol):
    """One answer's partner.

    It may have two more members. ``role`` is the role of replies that are plain text, "tool" if it is left out.
    ``score()`` is asked once when the answer has ended, and gives a number, or None for no score; the reward
    ``rule:environment`` is this number.
    """

    def reply(self, said: str) -> str | Message | None:
        """What the environment replies to the policy's last turn; None: the answer is finished."""
        ...


ENVIRONMENTS: dict[str, Callable[..., Environment]] = {"calculator": Calculator, "guess": Guess}
_OWN = frozenset({"prompt", "seed"})  # parameters that are no columns of the data


class EnvironmentFault(Exception):
    """What went wrong in an environment, in words."""


@dataclass
class Environments:
    """Makes the environments of a run: ``config.name`` is one of ENVIRONMENTS or ``module:function``.

    The function, or class, is called with those of ``prompt``, ``seed`` and the columns of the data that it names.
    """

    config: EnvironmentConfig
    make: Callable[..., Environment] = field(init=False)

    def __post_init__(self) -> None:
        name = self.config.name
        if ":" in name:
            self.make = imported(name, "environment")
        elif name in ENVIRONMENTS:
            self.make = ENVIRONMENTS[name]
        else:
            raise unknown_name("environment", name, [*ENVIRONMENTS, "module:function"])
        try:
            self._parameters: Mapping[str, inspect.Parameter] = inspect.signature(self.make).parameters
        except (TypeError, ValueError):  # some compiled classes have no signature
            self._parameters = {}

    @property
    def wanted(self) -> Wanted:
        """The columns of the data that the environment is made with."""
        return Wanted(frozenset(self._columns()), any(p.kind is p.VAR_KEYWORD for p in self._parameters.values()))

    def check(self, prompts: Sequence[Prompt], found: Collection[str] = ()) -> None:
        """Raises UserError where no prompt has a column that the environment needs."""
        for name, parameter in self._columns().items():
            if prompts and parameter.default is parameter.empty and not any(has(p.extra, name) for p in prompts):
                known = sorted(found or names_in(p.extra for p in prompts))
                raise UserError(
                    f"environment {self.config.name} needs the column {name}, which no prompt has."
                    f"{nearest(name, known)} Found columns: {visible(', '.join(known)) or 'none'}"
                )

    def start(self, prompt: Prompt, seed: int) -> Environment:
        """An environment for one answer. Raises EnvironmentFault."""
        given: dict[str, Any] = {"prompt": prompt.messages, "seed": seed}
        given = {name: given[name] for name in _OWN if name in self._parameters}
        for name, parameter in self._columns().items():
            if has(prompt.extra, name) or parameter.default is parameter.empty:
                given[name] = value(prompt.extra, name)
        if self.wanted.every:
            given = {**prompt.extra, **given}
        made = self._called("is made", lambda: self.make(**given))
        if not callable(getattr(made, "reply", None)):
            raise EnvironmentFault(f"made {type(made).__name__}, which has no method reply")
        return made

    def reply(self, environment: Environment, said: str) -> Message | None:
        """The environment's reply to the policy's turn ``said``. Raises EnvironmentFault."""
        found = self._called("replies", lambda: environment.reply(said))
        if isinstance(found, str):
            found = Message(getattr(environment, "role", "tool"), found)
        if found is None:
            return None
        if not isinstance(found, Message) or not isinstance(found.content, str):
            raise EnvironmentFault(f"replied {type(found).__name__}; expected text, a Message or None")
        if found.role not in get_args(Role) or found.role == "assistant":
            raise EnvironmentFault(f"replied as {found.role!r}; expected the role tool, user or system")
        return found

    def score(self, environment: Environment) -> float | None:
        """The environment's own score of the answer, None if it gives none. Raises EnvironmentFault."""
        score = getattr(environment, "score", None)
        found = None if score is None else self._called("gives a score", score)
        number = as_number(found)
        if found is not None and number is None:
            raise EnvironmentFault(f"gave the score {found!r:.80}; expected a finite number or None")
        return number

    def _columns(self) -> dict[str, inspect.Parameter]:
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return {n: p for n, p in self._parameters.items() if n not in _OWN and p.kind not in kinds}

    def _called(self, what: str, call: Callable[[], T]) -> T:
        seconds = self.config.timeout
        complaint = f"takes more than environment.timeout={seconds:g} s when it {what}"
        try:
            with process_put_back(), at_most(seconds, complaint) if seconds else nullcontext():
                return call()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: an environment never ends the command
            raise EnvironmentFault(shown_error(error)) from error
