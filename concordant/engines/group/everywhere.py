"""``everywhere``: a function that makes a model or an engine makes it on every rank of a team of the present stage.

Without a team, the function is called as it is written.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast, get_args, get_type_hints

import torch

from concordant.config.cluster import ClusterConfig
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.core.shards import shards_of_rank
from concordant.engines.group import ray_team, started, torch_team
from concordant.engines.group.handles import GroupGenerator, GroupLearner, GroupScorer
from concordant.engines.group.team import Team
from concordant.engines.group.teams import Role, Teams
from concordant.engines.protocol import Generator, Learner, Scorer
from concordant.engines.ranks import Alone, among

P = ParamSpec("P")
T = TypeVar("T")

# What the driver holds in place of an engine, by the protocol that a function returns. Of anything else, such as a
# model, the driver holds its own, which is the twin of every other rank's.
_HANDLES: dict[Any, Callable[[Team, Any], Any]] = {
    Scorer: GroupScorer,
    Learner: GroupLearner,
    Generator: GroupGenerator,
}
_teams: ContextVar[Teams | None] = ContextVar("teams", default=None)
_kept: dict[tuple[Any, ...], Teams] = {}  # by everything that ``_assembled`` is given: the teams between two stages


def everywhere_as(role: Role) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator for a function of a module, which makes an engine that plays ``role``, on the team of this role.

    The function's arguments are plain values and what such functions returned.
    """

    def decorate(make: Callable[P, T]) -> Callable[P, T]:
        function = f"{make.__module__}:{make.__name__}"

        @wraps(make)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            teams = _teams.get()
            if teams is None:
                return make(*args, **kwargs)
            team, handle = teams.of(role), _HANDLES.get(get_type_hints(make)["return"])
            if handle is None:
                return cast(T, team.make_twin(function, *args, **kwargs))
            return cast(T, handle(team, team.make(function, *args, **kwargs)))

        return call

    return decorate


def everywhere(make: Callable[P, T]) -> Callable[P, T]:
    """``everywhere_as`` for the policy, and for models. Other teams make a model when they first use it."""
    return everywhere_as("policy")(make)


def stands_apart(role: Role) -> bool:
    """Whether ``role`` has a team of its own, so that it shares no object with the policy's learner."""
    teams = _teams.get()
    return teams is not None and role in teams.apart


@contextmanager
def working_together(cluster: ClusterConfig, threads: int, device: str = "") -> Iterator[None]:
    """Inside the block, models and engines are made on all ranks. ``threads`` is train.threads, ``device`` that of the
    models: Ray gives GPUs to its workers by it.

    Raises UserError if the number of workers does not fit the shards, the mesh, or the ranks that torchrun started, and
    if something is asked of GPUs where there are none.
    """
    world = started.world()[1]
    if world > 1 and cluster.ray:
        raise UserError(
            f"cluster.ray places the workers of this run, but {world} ranks were started; start one process, or leave "
            "cluster.ray out"
        )
    group = cluster.tensor * cluster.pipeline  # workers that hold one model together
    workers = cluster.workers or (world if world > 1 else group)
    if world not in (1, workers):
        raise UserError(f"cluster.workers is {workers}, but {world} ranks were started; leave cluster.workers out")
    if device and not cluster.ray:
        _check_gpus(cluster, device, workers if world == 1 else 1)
    if workers % group:
        raise UserError(_misfit(cluster, workers))
    sizes = {"policy": workers} | {role: n for role in get_args(Role)[1:] if (n := getattr(cluster.apart, role))}
    for size in (workers // group, *list(sizes.values())[1:]):
        shards_of_rank(cluster.shards or size, size, 0)
    before = torch.get_num_threads()
    if cluster.sharded and workers == group:
        has = "one" if group == 1 else f"{group}, which hold one model together"
        raise UserError(f"cluster.sharded splits a model's weights over several copies of it; this run has {has}")
    each = threads or (1 if cluster.shards else max(1, before // sum(sizes.values())))
    if workers == 1 and not cluster.ray:
        torch.set_num_threads(each if cluster.shards else before)
        try:
            with among(Alone(cluster.shards or 1)):
                yield
        finally:
            torch.set_num_threads(before)
        return
    # Without a GPU nothing can be moved out of its memory, so Ray has to find one.
    of_models = "cuda" if device and cluster.offload else device
    python = cluster.apart.generator_python
    key = tuple(sizes.items()), cluster.timeout, cluster.ray, cluster.restarts, python, of_models
    teams = _kept.pop(key, None) or _assembled(*key)
    token = _teams.set(teams)
    try:
        teams.begin(cluster.shards, each, cluster.tensor, cluster.sharded, cluster.pipeline, cluster.offload)
        torch.set_num_threads(each)  # also a driver that is no rank: ``arithmetic`` gives its number to every rank
        yield
        _kept[key] = teams
    except BaseException:
        teams.close()  # the ranks may be at different orders
        raise
    finally:
        _teams.reset(token)
        torch.set_num_threads(before)


def _check_gpus(cluster: ClusterConfig, device: str, here: int) -> None:
    """UserError if the models go to GPUs of which this machine has too few for ``here`` workers, or none to offload."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() and device != "cpu" else 0
    if cluster.offload and not gpus:
        raise UserError(
            "cluster.offload moves weights from a GPU to the processor's memory, and PyTorch sees no GPU; leave it out"
        )
    if gpus and here > gpus:
        raise UserError(
            f"{here} workers need a GPU each, and PyTorch sees {counted(gpus, 'GPU')}; lower cluster.workers, or set "
            "model.device cpu"
        )


def _misfit(cluster: ClusterConfig, workers: int) -> str:
    keys = [key for key in ("tensor", "pipeline") if getattr(cluster, key) > 1]
    names = " × ".join(f"cluster.{key}" for key in keys)
    given = " × ".join(str(getattr(cluster, key)) for key in keys)
    fitting = [n for n in range(1, workers + 1) if workers % n == 0]
    return (
        f"{counted(workers, 'worker')} cannot form groups of {names} {given}; with so many workers "
        f"{names} can be {', '.join(map(str, fitting))}"
    )


def _assembled(
    sizes: tuple[tuple[Role, int], ...],
    timeout: float,
    ray_address: str,
    restarts: int,
    generator_python: str,
    device: str,
) -> Teams:
    _close_kept()  # a process belongs to one team at a time
    limit = timedelta(seconds=timeout)
    if ray_address:
        pythons: dict[Role, str] = {"generator": generator_python} if generator_python else {}
        return ray_team.assembled(dict(sizes), limit, ray_address, restarts, pythons, device)
    workers = sizes[0][1]
    return Teams(torch_team.join(limit) if started.world()[1] > 1 else torch_team.start_here(workers, limit))


@contextmanager
def arithmetic(threads: int) -> Iterator[None]:
    """Inside the block, PyTorch uses ``threads`` CPU threads and rounds denormal numbers to 0, on every rank.

    Gradients of almost certain tokens are denormal, and a CPU multiplies such numbers much more slowly. Both settings
    belong to the process, so they are restored at the end.
    """
    before, teams = torch.get_num_threads(), _teams.get()
    _use(teams, threads or before, True)
    try:
        yield
    except BaseException:
        _use(None, before, False)  # the other ranks may no longer listen
        raise
    _use(teams, before, False)


def _use(teams: Teams | None, threads: int, flush_denormal: bool) -> None:
    if teams is not None:
        teams.use_arithmetic(threads, flush_denormal)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush_denormal)


def dismiss() -> None:
    """End the ranks that torchrun or srun started, also those whose work no stage of this command needed."""
    if not (_kept or torch.distributed.is_initialized()):
        torch_team.join(timedelta(seconds=60)).close()
    _close_kept()


@atexit.register
def _close_kept() -> None:
    while _kept:
        _kept.popitem()[1].close()
