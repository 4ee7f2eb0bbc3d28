"""``concordant plan``: the memory, time and cost of a run before it is started. Loads no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass

from concordant.config.checks import checked
from concordant.config.plan import PlanConfig
from concordant.core.visible import say
from concordant.planning.hardware import machine
from concordant.planning.known import hub_id
from concordant.planning.read_shape import from_dimensions, shape_of
from concordant.planning.search import Plan, best_plan, nearest_plan, with_adapter
from concordant.planning.shapes import Shape
from concordant.planning.shown import as_json, page
from concordant.planning.work import NO_MODEL, REWARDED, Work, work_of


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan and, where it does not fit, the plan with an adapter if that one fits."""

    plan: Plan
    with_adapter: Plan | None


@checked
def plan(config: PlanConfig) -> None:
    """Print the plan. The exit code is 0 also where nothing fits: the page says so."""
    planned = planned_for(config)
    name = hub_id(config.model.name) or config.model.name
    if config.json:
        print(json.dumps(as_json(planned.plan, name, config.steps, planned.with_adapter), indent=2))
    else:
        say(page(planned.plan, name, config.steps, planned.with_adapter))


def planned_for(config: PlanConfig) -> Planned:
    """The plan that ``config`` asks for."""
    workers = machine(config.hardware, config.assume)
    work = work_for(config)
    found = best_plan(config, work, workers)
    if found is not None:
        return Planned(found, None)
    adapted = None if work.rank else best_plan(config, with_adapter(work), workers)
    return Planned(nearest_plan(config, work, workers), adapted)


def work_for(config: PlanConfig) -> Work:
    shape = shape_of(config.model.name) if config.model.name else from_dimensions(config.shape)
    teacher = shape_of(config.teacher) if config.teacher else None
    return work_of(config, shape, _reward_shape(config, shape), config.hardware != "cpu", teacher)


def _reward_shape(config: PlanConfig, policy: Shape) -> Shape | None:
    if config.method not in REWARDED or config.reward_model == NO_MODEL:
        return None
    return shape_of(config.reward_model) if config.reward_model else policy
