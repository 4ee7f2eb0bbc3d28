"""The teams of a run. Usually one team plays all roles; with ``cluster.apart`` some roles have a team of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from concordant.engines.group.team import Team

# What a model or an engine is for. The policy's team plays every role that has no team of its own.
Role = Literal["policy", "critic", "reference", "reward", "generator"]


class Teams:
    """``policy`` is the team of every role that ``apart`` does not name."""

    def __init__(self, policy: Team, apart: Mapping[Role, Team] | None = None) -> None:
        self.policy, self.apart = policy, dict(apart or {})

    def of(self, role: Role) -> Team:
        return self.apart.get(role, self.policy)

    def begin(self, shards: int, threads: int, tensor: int, sharded: bool, pipeline: int, offload: bool) -> None:
        """Begin a stage on every team: see ``Team.begin``. A team of a role apart holds whole models."""
        self.policy.begin(shards, threads, tensor, sharded, pipeline, offload)
        for team in self.apart.values():
            team.begin(shards, threads)

    def use_arithmetic(self, threads: int, flush_denormal: bool) -> None:
        for team in self._all():
            team.use_arithmetic(threads, flush_denormal)

    def close(self) -> None:
        for team in self._all():
            team.close()

    def _all(self) -> Iterable[Team]:
        return (self.policy, *self.apart.values())
