"""``everywhere``: a function that makes a model or an engine makes it on every rank of the present team.

Without a team, the function is called as it is written.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast, get_type_hints

import torch

from concordant.config.cluster import ClusterConfig
from concordant.core.errors import UserError
from concordant.core.shards import shards_of_rank
from concordant.engines.group import ray_team, started, torch_team
from concordant.engines.group.handles import GroupGenerator, GroupLearner, GroupScorer
from concordant.engines.group.team import Team
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
_team: ContextVar[Team | None] = ContextVar("team", default=None)
_kept: dict[tuple[int, float, str], Team] = {}  # by workers, timeout and Ray's address: a team between two stages


def everywhere(make: Callable[P, T]) -> Callable[P, T]:
    """A decorator for a function of a module. Its arguments are plain values and what such functions returned."""
    function = f"{make.__module__}:{make.__name__}"

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        team = _team.get()
        if team is None:
            return make(*args, **kwargs)
        handle = _HANDLES.get(get_type_hints(make)["return"])
        if handle is None:
            return cast(T, team.make_twin(function, *args, **kwargs))
        return cast(T, handle(team, team.make(function, *args, **kwargs)))

    return call


@contextmanager
def working_together(cluster: ClusterConfig, threads: int) -> Iterator[None]:
    """Inside the block, models and engines are made on all ranks. ``threads`` is train.threads.

    Raises UserError if the number of workers does not fit the shards, or the ranks that torchrun started.
    """
    world = started.world()[1]
    workers = cluster.workers or world
    if world not in (1, workers):
        raise UserError(f"cluster.workers is {workers}, but {world} ranks were started; leave cluster.workers out")
    shards_of_rank(cluster.shards or workers, workers, 0)
    before = torch.get_num_threads()
    if cluster.sharded and workers == 1:
        raise UserError("cluster.sharded splits the weights over several workers, and this run has one; leave it out")
    each = threads or (1 if cluster.shards else max(1, before // workers))
    if workers == 1 and not cluster.ray:
        torch.set_num_threads(each if cluster.shards else before)
        try:
            with among(Alone(cluster.shards or 1)):
                yield
        finally:
            torch.set_num_threads(before)
        return
    key = (workers, cluster.timeout, cluster.ray)
    team = _kept.pop(key, None) or _assembled(*key)
    token = _team.set(team)
    try:
        team.begin(cluster.shards, each, cluster.sharded)
        yield
        _kept[key] = team
    except BaseException:
        team.close()  # the ranks may be at different orders
        raise
    finally:
        _team.reset(token)
        torch.set_num_threads(before)


def _assembled(workers: int, timeout: float, ray_address: str) -> Team:
    _close_kept()  # a process belongs to one team at a time
    limit = timedelta(seconds=timeout)
    if ray_address:
        return ray_team.RayTeam(workers, limit, ray_address)
    return torch_team.join(limit) if started.world()[1] > 1 else torch_team.start_here(workers, limit)


@contextmanager
def arithmetic(threads: int) -> Iterator[None]:
    """Inside the block, PyTorch uses ``threads`` CPU threads and rounds denormal numbers to 0, on every rank.

    Gradients of almost certain tokens are denormal, and a CPU multiplies such numbers much more slowly. Both settings
    belong to the process, so they are restored at the end.
    """
    before, team = torch.get_num_threads(), _team.get()
    _use(team, threads or before, True)
    try:
        yield
    except BaseException:
        _use(None, before, False)  # the other ranks may no longer listen
        raise
    _use(team, before, False)


def _use(team: Team | None, threads: int, flush_denormal: bool) -> None:
    if team is not None:
        team.use_arithmetic(threads, flush_denormal)
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
