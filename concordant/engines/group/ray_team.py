"""Teams of Ray actors, each of which is a rank. The driver is no rank: it holds no weights of its own engines.

Ray places the actors, on this machine or on a cluster, and tells of actors that end. Between the ranks of a team the
gradients go through torch.distributed, as in every team. Teams are independent of each other, so the driver waits for
no team while another one works.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from concordant.core.errors import RunFailed, UserError
from concordant.engines.group import started
from concordant.engines.group.orders import Order, Ref
from concordant.engines.group.ray_rank import PATIENCE, STARTED_WITHIN, HeldWeights, Rank
from concordant.engines.group.ray_start import LOCAL, connected
from concordant.engines.group.team import Team
from concordant.engines.group.teams import Role, Teams
from concordant.engines.local.precision import on_the_cpu
from concordant.runs.identity import code_version

PLACED_WITHIN = 120  # seconds for Ray to find room for all actors
_SHOWN = 14  # characters of a version: the number, and the beginning of the source's hash
log = logging.getLogger(__name__)


class WorkerEnded(RunFailed):
    """A worker is gone, with everything that it held."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is made. The driver makes it for itself, and a team makes it when it first uses it."""

    own: Any  # the driver's
    function: str
    arguments: Sequence[Any]
    named: Mapping[str, Any]


@dataclass(slots=True)
class RayResult:
    """The result of rank 0, once all ranks that were asked have done their part.

    If a worker ends and its team can start again, the question is asked again.
    """

    team: RayTeam
    ask: Callable[[], Sequence[Any]]  # gives Ray's references, by rank
    then: Callable[[], None] = lambda: None  # once the result is there
    pending: Sequence[Any] = field(init=False)
    life: int = field(init=False)

    def __post_init__(self) -> None:
        self._ask()

    def _ask(self) -> None:
        self.life, self.pending = self.team.life, self.ask()

    def result(self) -> Any:
        while True:
            try:
                self.team.wait(self.pending)
                found = self.team.ray.get(self.pending[0])
                break
            except WorkerEnded as problem:
                if self.life == self.team.life:
                    self.team.start_again(problem)
                self._ask()
        self.then()
        return found


class RayTeam(Team):
    """``workers`` actors that play ``role``. They start at once, and ``meet`` must be called before the first order.

    ``restarts`` is how often in a stage they are started again after one of them ended. Only workers without the state
    of an optimizer are: they get their models and the newest weights again. ``recipes`` belongs to all teams of a run.
    ``python`` is the command of another environment's Python; "" is the driver's environment. Each worker has a CPU of
    its own, and with ``on_gpus`` a GPU, which is the only one that it sees.
    """

    def __init__(
        self,
        ray: Any,
        role: Role,
        workers: int,
        timeout: timedelta,
        restarts: int,
        recipes: dict[int, Recipe],
        python: str = "",
        on_gpus: bool = False,
    ) -> None:
        super().__init__()
        self._options = {"runtime_env": {"py_executable": python}} if python else {}
        self.ray, self.workers, self.role, self.life = ray, workers, role, 0
        self._timeout, self._recipes = timeout.total_seconds(), recipes
        self._restarts, self._left = restarts, restarts
        self._history = History()
        self._needs = {"CPU": 1} | ({"GPU": 1} if on_gpus else {})  # of a worker, by Ray's names
        self._group = self.ray.util.placement_group([self._needs] * workers, strategy="PACK")
        if not self._group.wait(PLACED_WITHIN):
            raise UserError(self._no_room())
        self._start()

    def _no_room(self) -> str:
        free = self.ray.available_resources()
        each = " and ".join(f"one {kind}" for kind in self._needs)
        left = " and ".join(f"{free.get(kind, 0):.0f} {kind}s" for kind in self._needs)
        return (
            f"Ray found no room for {self.workers} workers of {each} each within {PLACED_WITHIN} s, because {left} are "
            "free; lower cluster.workers, or add nodes"
        )

    def _start(self) -> None:
        strategy = importlib.import_module("ray.util.scheduling_strategies").PlacementGroupSchedulingStrategy
        actor = self.ray.remote(Rank)
        self.actors = [
            actor.options(
                num_cpus=1,
                num_gpus=self._needs.get("GPU", 0),
                scheduling_strategy=strategy(self._group, placement_group_bundle_index=i),
                **self._options,
            ).remote()
            for i in range(self.workers)
        ]

    def meet(self) -> None:
        """Make the actors ranks of one process group."""
        try:
            host, port = self.ray.get(self.actors[0].address.remote(), timeout=STARTED_WITHIN)
        except self.ray.exceptions.GetTimeoutError as problem:
            raise RunFailed(
                f"{self._name(0)} did not start within {STARTED_WITHIN:.0f} s; is a host gone or overloaded?"
            ) from problem
        except self.ray.exceptions.RayError as problem:
            raise WorkerEnded(f"{self._name(0)} did not start: {_first_line(problem)}") from problem
        for rank, version in enumerate(self.ray.get([actor.version.remote() for actor in self.actors])):
            if version != code_version():
                raise UserError(
                    f"{self._name(rank)} runs Concordant {version[:_SHOWN]}, and this process runs "
                    f"{code_version()[:_SHOWN]}; install the same version in both environments"
                )
        self.wait([a.join.remote(rank, self.workers, host, port, self._timeout) for rank, a in enumerate(self.actors)])

    def _forget(self) -> None:
        super()._forget()
        self._recipes.clear()
        self._left = self._restarts

    def order(self, order: Order) -> RayResult:
        sent = self.ray.put(order)  # once, for all ranks
        return RayResult(
            self, lambda: [actor.do.remote(sent) for actor in self.actors], lambda: self._history.add(order)
        )

    def make_twin(self, function: str, *arguments: Any, **named: Any) -> Any:
        """The driver makes its own object. The ranks make theirs when it is first an argument of an order.

        The driver only asks its model for names and sizes, so it needs no GPU.
        """
        module, _, name = function.partition(":")
        with on_the_cpu():
            own = inspect.unwrap(getattr(importlib.import_module(module), name))(*arguments, **named)
        self._recipes[id(own)] = Recipe(own, function, arguments, named)
        return own

    def _sent(self, argument: Any) -> Any:
        recipe = self._recipes.get(id(argument))
        if recipe and id(argument) not in self._twins:
            self._twin(argument, self.make(recipe.function, *recipe.arguments, **recipe.named))
        return super()._sent(argument)

    def look(self, of: Ref, verb: str, *arguments: Any) -> Any:
        sent = [self._sent(a) for a in arguments]
        return RayResult(self, lambda: [self.actors[0].look.remote(of, verb, sent)]).result()

    # -- workers that fail ------------------------------------------------------------------------

    def wait(self, pending: Sequence[Any]) -> None:
        """Wait for all of ``pending``. RunFailed at the first one that fails; the message names the rank.

        A rank whose error only says that another rank is gone or silent is not blamed, if that one shows itself.
        """
        left, rank_of = list(pending), {reference: rank for rank, reference in enumerate(pending)}
        witness: tuple[int, Any] | None = None  # a rank that waited for another one, and its error
        until = float("inf")
        while left and time.monotonic() < until:
            patience = None if witness is None else max(0.0, until - time.monotonic())
            done, left = self.ray.wait(left, num_returns=1, timeout=patience)
            for reference in done:
                rank = rank_of[reference]
                try:
                    self.ray.get(reference)
                except self.ray.exceptions.RayTaskError as problem:
                    cause = problem.cause
                    if isinstance(cause, RunFailed | UserError):
                        raise cause from problem
                    if not started.is_anothers(cause):
                        raise RunFailed(f"{self._name(rank)}: {type(cause).__name__}: {cause}") from problem
                    if witness is None:
                        witness, until = (rank, cause), time.monotonic() + PATIENCE * self._timeout
                except self.ray.exceptions.RayError as problem:
                    words = f"{type(problem).__name__}: {_first_line(problem)}"
                    raise WorkerEnded(f"{self._name(rank)} ended: {words}") from problem
        if left:
            raise WorkerEnded(f"{self._name(rank_of[left[0]])} did not answer within {self._timeout:g} s")
        if witness is not None:
            raise RunFailed(f"{self._name(witness[0])}: {type(witness[1]).__name__}: {witness[1]}")

    def start_again(self, problem: WorkerEnded) -> None:
        """Put new actors in place of all actors, and bring them to the state of the old ones.

        Raises ``problem`` if they held the state of an optimizer, or were started again too often.
        """
        while True:
            if self.learns or not self._restarts:
                raise problem
            if not self._left:
                raise RunFailed(f"{problem}; its team was started again {self._restarts} times (cluster.restarts)")
            self._left -= 1
            log.warning("%s; the workers of the %s start again", problem, self.role)
            self.life += 1
            for actor in self.actors:
                self.ray.kill(actor)
            try:
                self._start()
                self.meet()
                self._repeat()
                return
            except WorkerEnded as again:
                problem = again
            except RunFailed as again:
                raise RunFailed(f"{problem}; {again}") from problem

    def _repeat(self) -> None:
        for order in self._history.orders():
            sent = self.ray.put(order)
            self.wait([actor.do.remote(sent) for actor in self.actors])
            for held in (a for a in order.arguments if isinstance(a, HeldWeights)):
                pending = self.actors[0].look.remote(order.of, "version", [])
                self.wait([pending])
                if (version := self.ray.get(pending)) != held.version:
                    raise RunFailed(f"{self._name(0)} has weights of version {version}, not {held.version}")

    def _name(self, rank: int) -> str:
        return f"worker {rank}" if self.role == "policy" else f"worker {rank} of the {self.role}"

    def close(self) -> None:
        if not self.ray.is_initialized():  # Ray's own exit came first, and ended the actors
            return
        for actor in self.actors:
            self.ray.kill(actor)
        self.ray.util.remove_placement_group(self._group)


class History:
    """The orders that bring new workers to the state of workers that ended, if these learn nothing."""

    def __init__(self) -> None:
        self._settings: dict[str, Order] = {}  # by verb, the newest one
        self._makes: list[Order] = []
        self._weights: dict[Ref | None, Order] = {}  # by generator, the newest one

    def add(self, order: Order) -> None:
        if order.verb == "forget":
            self._settings, self._makes, self._weights = {}, [], {}
        elif order.verb in ("use_mesh", "use_arithmetic"):
            self._settings[order.verb] = order
        elif order.verb == "load_weights":
            self._weights[order.of] = order
        elif order.result is not None:
            self._makes.append(order)

    def orders(self) -> list[Order]:
        return [*self._settings.values(), *self._makes, *self._weights.values()]


def _first_line(problem: Exception) -> str:
    return str(problem).splitlines()[0]


def _here(python: str) -> str:
    """The path of a program of this machine, whatever the working directory of a worker is."""
    if (found := shutil.which(python)) is None:
        raise UserError(f"cluster.apart.generator_python {python}: no such program on this machine")
    return os.path.abspath(found)  # and not the file behind links, because an environment's Python is a link


def assembled(
    sizes: Mapping[Role, int],
    timeout: timedelta,
    address: str,
    restarts: int,
    pythons: Mapping[Role, str],
    device: str = "",
) -> Teams:
    """A team for each role of ``sizes``, on the cluster at ``address``; "local" starts Ray here, on loopback alone.

    ``pythons`` are the commands of other environments' Python, in which the workers of a role run. ``device`` is that
    of the models: with ``cuda`` every worker gets a GPU, and with ``auto`` if the cluster has any.
    """
    if address == LOCAL:
        pythons = {role: _here(python) for role, python in pythons.items()}
    ray = connected(address, sum(sizes.values()))
    on_gpus = device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    recipes: dict[int, Recipe] = {}
    teams: dict[Role, RayTeam] = {}
    try:
        for role, workers in sizes.items():
            teams[role] = RayTeam(ray, role, workers, timeout, restarts, recipes, pythons.get(role, ""), on_gpus)
        for team in teams.values():  # after all actors were started, because each one imports PyTorch first
            team.meet()
    except BaseException:
        for team in teams.values():
            team.close()
        raise
    return Teams(teams["policy"], {role: team for role, team in teams.items() if role != "policy"})
