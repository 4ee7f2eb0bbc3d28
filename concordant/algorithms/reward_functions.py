"""Python functions as rewards: how a function is called, what it may return, and what follows from its errors.

People write functions of four signatures. The names of the parameters say which signature a function has.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
import types
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from concordant.algorithms.process_rewards import read_steps
from concordant.algorithms.rewards import Answer
from concordant.config.names import RewardOnError
from concordant.core.alive import sign_of_life
from concordant.core.errors import UserError, nearest
from concordant.core.process import process_put_back
from concordant.core.time_limit import at_most
from concordant.core.visible import visible
from concordant.data.carried import Wanted, flat, has, names_in, value
from concordant.data.records import Prompt
from concordant.engines.protocol import Done

TRIES = 3  # calls of a function under "retry"
OF_ANSWER = frozenset({"ended", "episode"})  # parameters that the answer gives, and no column of the data
LONGEST_SHOWN = 80  # characters of an answer, a number or an error in a message


@dataclass(frozen=True, slots=True)
class Handling:
    """What is done about a function that fails or hangs."""

    on_error: RewardOnError = "fail"
    timeout: float = 0.0  # seconds a call may take; 0: no limit


DEFAULT_HANDLING = Handling()


@dataclass(frozen=True, slots=True)
class Signature:
    """One of the four known forms of a reward function."""

    text: str
    marks: frozenset[str]  # a function that has all these parameters has this signature
    own: frozenset[str]  # parameters that are never columns of the data
    takes_lists: bool  # all answers in one call
    any_column: bool = True  # ``**kwargs`` gets all columns


ONE = Signature(
    "f(prompt, response, **columns)", frozenset({"prompt", "response"}), frozenset({"prompt", "response"}), False
)
MANY = Signature(
    "f(prompts, responses, **columns)", frozenset({"prompts", "responses"}), frozenset({"prompts", "responses"}), True
)
TRL = Signature(
    "f(completions, prompts, **columns)", frozenset({"completions"}), frozenset({"prompts", "completions"}), True
)
VERL = Signature(
    "f(data_source, solution_str, ground_truth, extra_info=None)",
    frozenset({"solution_str"}),
    frozenset({"solution_str"}),
    False,
    any_column=False,
)
SIGNATURES = (ONE, MANY, TRL, VERL)


@dataclass(frozen=True, slots=True)
class _Problem:
    text: str
    cause: BaseException | None = None


@dataclass
class FunctionReward:
    """A Python function of one of the known signatures. The columns that it names are passed."""

    function: Callable[..., Any]
    name: str
    handling: Handling = DEFAULT_HANDLING
    errors: int = field(default=0, init=False)  # since the start
    abstained: int = field(default=0, init=False)  # answers without a score since the start
    _sure: set[str] = field(default_factory=set, init=False)  # named columns that the data has

    def __post_init__(self) -> None:
        try:
            self.parameters: Mapping[str, inspect.Parameter] = inspect.signature(self.function).parameters
        except (TypeError, ValueError):  # some compiled functions have no signature
            self.parameters = {}
        known = next((s for s in SIGNATURES if s.marks <= self.parameters.keys()), None)
        if known is None:
            expected = ", ".join(s.text for s in SIGNATURES)
            found = ", ".join(map(str, self.parameters.values()))
            raise UserError(f"reward {self.name} has the parameters ({found}); expected one of {expected}")
        self.signature = known

    @property
    def wanted(self) -> Wanted:
        """The columns of the data that the function is called with."""
        names = frozenset(self._named()) - OF_ANSWER
        return Wanted(names, self._takes_all)

    def check(self, prompts: Sequence[Prompt], found: Collection[str] = ()) -> list[str]:
        """Raises UserError where no prompt has a column that the function needs.

        Returns a sentence for each column that some prompts lack; for them the function gets None. ``found`` are the
        names of all columns, where the prompts keep only those that are wanted.
        """
        notes = []
        for name, parameter in self._named().items():
            lacking = [p for p in prompts if name not in OF_ANSWER and not has(p.extra, name)]
            if prompts and len(lacking) == len(prompts):
                if parameter.default is parameter.empty:
                    raise self._no_column(name, found or names_in(p.extra for p in prompts))
                continue
            self._sure.add(name)
            if lacking and parameter.default is parameter.empty:
                where = f", e.g. {lacking[0].where}" if lacking[0].where else ""
                notes.append(
                    f"reward {self.name}: {len(lacking):,} of {len(prompts):,} prompts have no {name} and give it None"
                    f"{where}"
                )
        return notes

    def __call__(self, answers: Sequence[Answer]) -> Done[list[float | None]]:
        extras = [columns_of(a) for a in answers]
        self._sure |= {name for name in self._named() if any(has(extra, name) for extra in extras)}
        parts = [answers] if self.signature.takes_lists and answers else [[a] for a in answers]
        scores: list[float | None | _Problem] = [_Problem("")] * len(answers)
        missing = list(range(len(parts)))
        for left in reversed(range(TRIES if self.handling.on_error == "retry" else 1)):
            outcomes = self._outcomes([parts[i] for i in missing], stop=not left and self.handling.on_error != "skip")
            size = len(answers) if self.signature.takes_lists else 1
            for i, outcome in zip(missing, outcomes, strict=True):
                scores[i * size : (i + 1) * size] = outcome
            missing = [i for i in missing if any(isinstance(s, _Problem) for s in scores[i * size : (i + 1) * size])]
            if not missing:
                break
        column = [None if isinstance(s, _Problem) else s for s in scores]
        self.abstained += column.count(None)
        return Done(column)

    # -- columns ------------------------------------------------------------------------------------------------------

    @property
    def _takes_all(self) -> bool:
        return self.signature.any_column and any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())

    def _named(self) -> dict[str, inspect.Parameter]:
        """The parameters that are columns."""
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return {n: p for n, p in self.parameters.items() if n not in self.signature.own and p.kind not in kinds}

    def _no_column(self, name: str, found: Iterable[str]) -> UserError:
        known = sorted(set(found) - OF_ANSWER)
        also = " (also read from reward_model.ground_truth and answer)" if name == "ground_truth" else ""
        return UserError(
            f"reward {self.name} needs the column {name}{also}, which no prompt has."
            f"{nearest(name, [n.removeprefix('extra_info.') for n in known])} "
            f"Found columns: {visible(', '.join(known)) or 'none'}"
        )

    def _arguments(self, part: Sequence[Answer]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments.

        Where a prompt lacks a column, None stands in a list of values; alone, a parameter's default comes first.
        """
        extras = [columns_of(a) for a in part]
        named = []
        for name, p in self._named().items():
            needed = p.default is p.empty
            sure = name in self._sure and (needed or self.signature.takes_lists)
            if sure or any(has(extra, name) for extra in extras):
                named.append(name)
            elif needed:
                raise self._no_column(name, names_in(extras))
        others = dict.fromkeys(name for extra in extras for name in flat(extra)) if self._takes_all else {}
        columns = {
            name: [value(extra, name) for extra in extras]
            for name in dict.fromkeys([*named, *others])
            if name not in self.signature.own
        }
        given = columns if self.signature.takes_lists else {name: column[0] for name, column in columns.items()}
        accepted = given | self._own(part)
        if not self._takes_all:
            accepted = {k: v for k, v in accepted.items() if k in self.parameters}
        first = [n for n, p in self.parameters.items() if p.kind is p.POSITIONAL_ONLY and n in accepted]
        return [accepted.pop(name) for name in first], accepted

    def _own(self, part: Sequence[Answer]) -> dict[str, Any]:
        if self.signature is ONE:
            return {"prompt": part[0].prompt, "response": part[0].response}
        if self.signature is MANY:
            return {"prompts": [a.prompt for a in part], "responses": [a.response for a in part]}
        if self.signature is VERL:
            return {"solution_str": part[0].response}
        prompts = [[{"role": m.role, "content": m.content} for m in a.prompt] for a in part]
        as_text = str(self.parameters["completions"].annotation).lower() in ("list[str]", "typing.list[str]")
        completions = [a.response if as_text else _messages(a) for a in part]
        return {"prompts": prompts, "completions": completions}

    # -- calls --------------------------------------------------------------------------------------------------------

    def _outcomes(self, parts: Sequence[Sequence[Answer]], stop: bool) -> list[list[float | None | _Problem]]:
        """The scores of each part, or a problem where there is no score; with ``stop`` a problem raises UserError."""
        outcomes: list[list[float | None | _Problem]] = []
        pending: list[tuple[int, Awaitable[Any]]] = []
        for number, part in enumerate(parts):
            sign_of_life(f"calls of {self.name}", number, len(parts))
            result = self._attempt(part)
            if inspect.isawaitable(result):
                pending.append((len(outcomes), result))
                outcomes.append([])
            else:
                outcomes.append(self._read(result, part, stop))
        if pending:
            results = self._attempt_all([(parts[i], awaited) for i, awaited in pending])
            for (i, _), result in zip(pending, results, strict=True):
                outcomes[i] = self._read(result, parts[i], stop)
        return outcomes

    def _attempt(self, part: Sequence[Answer]) -> Any:
        positional, keywords = self._arguments(part)
        try:
            with process_put_back(), self._in_time():
                return self.function(*positional, **keywords)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a reward never ends the command, and never with exit code 0
            return self._failure(error, part)

    @property
    def _too_long(self) -> str:
        return f"the call takes more than reward_timeout={self.handling.timeout:g} s"

    def _in_time(self) -> AbstractContextManager[None]:
        return at_most(self.handling.timeout, self._too_long) if self.handling.timeout else nullcontext()

    def _attempt_all(self, awaited: Sequence[tuple[Sequence[Answer], Awaitable[Any]]]) -> list[Any]:
        """All coroutines at once, in an event loop of their own."""

        async def guarded(part: Sequence[Answer], result: Awaitable[Any]) -> Any:
            try:
                return await self._in_stretches(result)
            except (KeyboardInterrupt, asyncio.CancelledError):
                raise
            except BaseException as error:
                return self._failure(error, part)

        async def in_time(part: Sequence[Answer], result: Awaitable[Any]) -> Any:
            try:
                return await asyncio.wait_for(guarded(part, result), self.handling.timeout or None)
            except TimeoutError:
                return self._failure(UserError(self._too_long), part)
            except asyncio.CancelledError as error:  # the function has cancelled itself
                return self._failure(error, part)

        async def together() -> list[Any]:
            return await asyncio.gather(*(in_time(part, result) for part, result in awaited))

        with process_put_back():
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return asyncio.run(together())
            with ThreadPoolExecutor(1) as thread:  # a notebook has a loop, which cannot be waited for from inside
                return thread.submit(asyncio.run, together()).result()

    @types.coroutine
    def _in_stretches(self, awaited: Awaitable[Any]) -> Generator[Any, Any, Any]:
        """The result of ``awaited``, each of whose stretches between two waits has the time limit of a call.

        An event loop can end a wait. It cannot end code that waits for nothing, such as ``time.sleep`` or a loop.
        """
        steps = awaited.__await__()
        go_on: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                with self._in_time():
                    waits_for = go_on()
            except StopIteration as end:
                return end.value
            try:
                yield waits_for
                go_on = partial(next, steps)
            except BaseException as error:  # of the loop, which cancels a call that takes too long
                go_on = partial(steps.throw, error)

    def _failure(self, error: BaseException, part: Sequence[Answer]) -> _Problem:
        self.errors += 1
        return _Problem(f"reward {self.name} failed for {_shown_answers(part)}: {shown_error(error)}", error)

    # -- results ------------------------------------------------------------------------------------------------------

    def _read(self, result: Any, part: Sequence[Answer], stop: bool) -> list[float | None | _Problem]:
        read = self._scores(result, part)
        problem = next((s for s in read if isinstance(s, _Problem)), None)
        if stop and problem is not None:
            raise UserError(problem.text) from problem.cause
        return read

    def _scores(self, result: Any, part: Sequence[Answer]) -> list[float | None | _Problem]:
        if isinstance(result, _Problem):
            return [result] * len(part)
        values = _as_list(result) if self.signature.takes_lists else [result]
        if values is None or len(values) != len(part):
            self.errors += 1
            found = _shown(result) if values is None else f"{len(values)} values"
            problem = f"reward {self.name} returned {found} for {_shown_answers(part)}: a list of {len(part)} numbers"
            return [_Problem(f"{problem}, one an answer, is expected")] * len(part)
        return [self._number(value, answer) for value, answer in zip(values, part, strict=True)]

    def _number(self, value: Any, answer: Answer) -> float | None | _Problem:
        if isinstance(value, Mapping) and "steps" in value:
            return self._steps(value, answer)
        if self.signature is VERL and isinstance(value, Mapping) and "score" in value:
            value = value["score"]
        if value is None:
            return None
        number = as_number(value)
        if number is not None:
            return number
        self.errors += 1
        return _Problem(
            f"reward {self.name} returned {_shown(value)} for {_shown(answer.response)}: a finite number is expected"
        )

    def _steps(self, value: Mapping[str, Any], answer: Answer) -> float | _Problem:
        read = read_steps(value, answer.response, as_number)
        if isinstance(read, float):
            return read
        self.errors += 1
        return _Problem(f"reward {self.name} returned {_shown(value)} for {_shown(answer.response)}: {read}")


def as_number(value: Any) -> float | None:
    """A finite number, also one of another library or of an array without dimensions; else None."""
    try:
        if not isinstance(value, Real) and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
            value = value.item()
        number = float(value) if isinstance(value, Real) else math.nan
    except (OverflowError, RuntimeError):  # an integer beyond all floats; a tensor without data
        return None
    return number if math.isfinite(number) else None


def _as_list(result: Any) -> list[Any] | None:
    if getattr(result, "ndim", 0) == 1 and hasattr(result, "tolist"):
        return list(result.tolist())
    return list(result) if isinstance(result, list | tuple) else None


def columns_of(answer: Answer) -> dict[str, Any]:
    """The columns of an answer: those of its prompt, ``ended``, and ``episode`` if an environment took part."""
    episode = {} if answer.episode is None else {"episode": answer.episode}
    return {**answer.extra, "ended": answer.ended, **episode}


def _messages(answer: Answer) -> list[dict[str, str]]:
    said = [("assistant", answer.response)]
    if answer.episode is not None:
        said = [(m.role, m.content) for m in answer.episode.turns]
    return [{"role": role, "content": content} for role, content in said]


def _shown(value: Any) -> str:
    """A short text of any value for a message."""
    text = repr(value if not isinstance(value, str) else value[: LONGEST_SHOWN + 1])
    text = " ".join(visible(text).split("\n"))
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _shown_answers(part: Sequence[Answer]) -> str:
    first = _shown(part[0].response)
    return first if len(part) == 1 else f"{len(part)} answers, the first of which is {first}"


def shown_error(error: BaseException) -> str:
    """The kind, the text and the line of an error in somebody's code, e.g. ``KeyError: 'a' (mine.py line 3)``."""
    text = " ".join(visible(str(error)).split())
    text = text if len(text) <= 4 * LONGEST_SHOWN else f"{text[: 4 * LONGEST_SHOWN]}…"
    if isinstance(error, UserError):
        return text
    if isinstance(error, SystemExit):
        text = f"called sys.exit({error.code!r})"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"
