"""The search: the smallest number of workers that fits, the given mesh, and what is said where nothing fits."""

from __future__ import annotations

import pytest

from concordant.config.checks import validate
from concordant.config.fields import schema
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.parse import flat_keys, typed
from concordant.config.plan import PlanConfig, ShapeConfig
from concordant.config.yaml_io import parse_yaml
from concordant.core.errors import UserError
from concordant.planning.hardware import machine
from concordant.planning.memory import memory_of
from concordant.planning.search import best_plan, plan_of
from concordant.planning.settings import CONFIGS, refusals, verb_of, yaml_of
from concordant.planning.shown import as_json, page
from concordant.planning.work import Setup, Tree
from concordant.stages.plan import planned_for
from tests.planning.test_memory import of


def config(name: str = "Qwen3-0.6B", rank: int = 0, **changes) -> PlanConfig:
    return PlanConfig(model=ModelConfig(name, lora=LoraConfig(rank=rank)), **changes)


def test_a_small_model_fits_on_one_worker():
    plan = planned_for(config()).plan
    assert plan.fits and plan.setup.workers == 1


@pytest.mark.parametrize("name", ["Qwen3-8B", "Qwen3-32B", "Llama-3.1-70B"])
def test_the_next_smaller_number_does_not_fit(name):
    plan = planned_for(config(name, batch_size=128)).plan
    assert plan.fits
    fewer = planned_for(config(name, batch_size=128, gpus=plan.setup.workers // 2)).plan
    assert not fewer.fits


def test_a_given_mesh_is_kept():
    plan = planned_for(config("Qwen3-8B", gpus=16, tensor=4, pipeline=2, sharding="on", batch_size=64)).plan
    setup = plan.setup
    assert (setup.data, setup.tensor, setup.pipeline, setup.sharded) == (2, 4, 2, True)


def test_offloading_makes_a_model_fit_on_fewer_gpus_and_stands_in_the_yaml():
    given = {
        "gpus": 4,
        "tensor": 1,
        "pipeline": 1,
        "hardware": "rtx-4090",
        "sharding": "on",
        "micro_batch_tokens": 1024,
    }
    assert not planned_for(config("Qwen3-4B", **given)).plan.fits
    found = planned_for(config("Qwen3-4B", **given, offload=True)).plan
    assert found.fits and found.setup.offload and refusals(found) == []
    text = page(found, "Qwen/Qwen3-4B", 10)
    assert "  offload: true" in text and "in the processor's memory" in text
    assert as_json(found, "m", 10)["memory"]["offloaded"]["weights"] == found.memory.offloaded["weights"] > 4e9


def test_the_processors_memory_may_be_too_small_too():
    given = {"gpus": 4, "tensor": 1, "pipeline": 1, "hardware": "rtx-4090", "offload": True}
    found = planned_for(config("Qwen3-4B", **given, assume=["host_memory=8e9"])).plan
    assert not found.fits
    assert "wait in the processor's memory, which has room for 6.7 GiB of each worker" in page(found, "m", 10)


def test_offloading_needs_ranks_that_divide_the_weights():
    with pytest.raises(UserError, match="no mesh with offload"):
        planned_for(config(offload=True, batch_size=1))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"hardware": "cpu"}, "on a CPU everything is in the processor's memory already"),
        ({"sharding": "off"}, "leave sharding out"),
        ({"gpus": 4, "tensor": 2, "pipeline": 2}, "these workers leave one rank; raise gpus"),
    ],
)
def test_offloading_is_refused_where_it_has_no_meaning(given, why):
    with pytest.raises(UserError, match=why):
        validate(config(offload=True, **given))


def test_a_given_micro_batch_and_recomputation_are_kept():
    made = config(micro_batch_tokens=2048)
    made.model.activation_checkpointing = True
    setup = planned_for(made).plan.setup
    assert setup.micro_batch_tokens == 2048 and setup.recompute


def test_without_sharding_every_rank_needs_the_whole_model():
    found = planned_for(config("Qwen3-32B", gpus=8, tensor=1, pipeline=1, sharding="off"))
    assert not found.plan.fits and found.plan.memory.total > 12 * 32e9
    assert found.with_adapter is None  # the frozen weights alone are 128 GB in fp32


def test_where_all_weights_do_not_fit_an_adapter_is_suggested():
    found = planned_for(config("Llama-3.1-8B", gpus=1))
    assert not found.plan.fits
    assert found.with_adapter is not None and found.with_adapter.fits and found.with_adapter.work.rank == 16
    text = page(found.plan, "x/y", 10, found.with_adapter)
    assert "nothing that was tried fits" in text and "With an adapter of rank 16 it fits" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 3, "tensor": 3}, "gpus 3, tensor 3, pipeline 1 can divide this work: there are 16 heads"),
        ({"gpus": 64}, "every data-parallel rank needs one of the 32 prompts"),
    ],
)
def test_a_mesh_that_cannot_divide_the_work_is_an_error(changes, message):
    changes = {"tensor": 1, "pipeline": 1} | changes
    with pytest.raises(UserError, match=message):
        planned_for(config(**changes))


def test_the_fastest_of_the_fitting_setups_is_taken():
    made = of()
    gpu = machine("h100-80gb")
    plan = best_plan(PlanConfig(shape=ShapeConfig()), made, gpu)
    assert plan is not None
    slower = plan_of(made, Setup(recompute=True, micro_batch_tokens=plan.setup.micro_batch_tokens), gpu)
    assert plan.duration.total < slower.duration.total
    assert not plan.setup.recompute


def test_micro_batches_of_equal_trees():
    """A GPU fills each pass; packed rows of a CPU are made about equally long."""
    made = of(tree=Tree(60, 40, 1), trees=10)
    setup = Setup(micro_batch_tokens=400)
    assert (setup.trees_at_once(made, packed=False), setup.micro_batches(made, packed=False)) == (4, 3)
    assert (setup.trees_at_once(made, packed=True), setup.micro_batches(made, packed=True)) == (4, 3)
    nine = of(tree=Tree(60, 40, 1), trees=9)
    assert setup.trees_at_once(nine, packed=True) == 3
    longer = Setup(micro_batch_tokens=10)
    assert (longer.trees_at_once(nine, packed=True), longer.micro_batches(nine, packed=False)) == (1, 9)


# -- what is printed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "ppo", "grpo", "distill"])
@pytest.mark.parametrize("rank", [0, 16])
def test_the_yaml_is_a_config_of_the_verb(method, rank):
    plan = planned_for(config(method=method, rank=rank)).plan
    text, lacks = yaml_of(plan, "Qwen/Qwen3-0.6B")
    mapping = parse_yaml(text, "plan")
    verb = verb_of(method)
    assert mapping.pop("verb") == verb and not lacks
    made = typed(CONFIGS[verb], [flat_keys(CONFIGS[verb], mapping, "plan")])
    assert made.model.lora.rank == rank and made.train.micro_batch_tokens == plan.setup.micro_batch_tokens
    if method == "grpo":
        assert made.advantage == "grpo" and made.sampling.n == 4


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Qwen3-8B", "Llama-3.1-70B"])
@pytest.mark.parametrize("changes", [{"method": "sft"}, {"method": "ppo"}, {"method": "dpo", "optimizer": "muon"}])
def test_a_run_takes_the_mesh_that_is_proposed_or_the_page_says_why_not(name, changes):
    plan = planned_for(config(name, batch_size=256, **changes)).plan
    text, _ = yaml_of(plan, name)
    given = flat_keys(
        CONFIGS[changes["method"]], {k: v for k, v in parse_yaml(text, "plan").items() if k != "verb"}, ""
    )
    made = typed(CONFIGS[changes["method"]], [given, {"output": "run", "data.path": "pairs.jsonl"}])
    if changes["method"] == "ppo":
        made.reward = ["reward"]
    if why := refusals(plan):
        with pytest.raises(UserError):
            validate(made)
        assert all(f"# This version refuses this mesh. {one}." in page(plan, name, 9) for one in why)
    else:
        validate(made)


def test_a_mesh_that_this_version_refuses_comes_last_and_says_why():
    asked = config("Qwen3-8B", gpus=4, tensor=1, pipeline=2, sharding="on")
    [why] = refusals(planned_for(asked).plan)
    assert why.startswith("cluster.pipeline with cluster.sharded: FSDP2 gathers")
    asked.pipeline = 0
    assert refusals(planned_for(asked).plan) == []


def test_keys_that_this_version_lacks_are_said_and_not_in_the_yaml():
    plan = planned_for(config("Qwen3-8B", gpus=4, tensor=2, pipeline=1, sharding="on")).plan
    text, lacks = yaml_of(plan, "m")
    fields = schema(CONFIGS["sft"]).fields
    mapping = parse_yaml(text, "plan")
    given = flat_keys(CONFIGS["sft"], {key: value for key, value in mapping.items() if key != "verb"}, "plan")
    wanted = {"cluster.workers": 4, "cluster.tensor": 2, "cluster.sharded": True}
    assert all(given[key] == value for key, value in wanted.items() if key in fields)
    missing = {f"{key} {value}".lower() for key, value in wanted.items() if key not in fields}
    assert set(lacks) == missing  # a pipeline of one stage needs no key
    assert ("So it cannot run this mesh" in page(plan, "m", 10)) is bool(missing)


def test_the_page_names_every_number_that_it_depends_on():
    plan = planned_for(config(assume=["price=1"])).plan
    text = page(plan, "Qwen/Qwen3-0.6B", 100)
    lines = [line for line in text.splitlines() if line.count("|") == 5]
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    sources = {cells[0]: cells[3] for cells in shown}
    assert all(sources[name] == number.source for name, number in plan.machine.numbers.items())
    assert sources["price"] == "given by --assume"


def test_the_parts_add_up():
    plan = planned_for(config(method="ppo")).plan
    found = as_json(plan, "m", 100)
    memory = found["memory"]
    largest = max(sum(memory[phase].values()) for phase in ("learning", "scoring", "sampling"))
    assert memory["total"] == pytest.approx(sum(memory["always"].values()) + largest)
    assert found["seconds"]["total"] == pytest.approx(sum(v for k, v in found["seconds"].items() if k != "total"))
    assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"]["total"])
    hours = 100 * found["seconds"]["total"] / 3600
    assert found["dollars"] == pytest.approx(hours * plan.machine["price"] * found["setup"]["workers"])


def test_the_given_memory_of_a_machine_decides():
    need = memory_of(planned_for(config(gpus=1)).plan.work, planned_for(config(gpus=1)).plan.setup, machine("cpu"))
    assert need.total > 0
    assert planned_for(config(assume=["memory=1e9"], most_gpus=1)).plan.fits is False
    assert planned_for(config(assume=["memory=1e12"])).plan.setup.workers == 1
