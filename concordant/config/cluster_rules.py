"""Settings of a run on several processes that contradict each other."""

from __future__ import annotations

from concordant.config.rule_kinds import Contradiction, NoEffect, Values, kl_of


def _is_together(v: Values) -> bool:
    return any(v[key] > 1 for key in ("cluster.workers", "cluster.tensor", "cluster.pipeline"))


def holds_parts(v: Values) -> bool:
    """Whether no worker holds a whole model."""
    return v["cluster.tensor"] > 1 or v["cluster.pipeline"] > 1 or v["cluster.sharded"]


PARTS = ("cluster.tensor", "cluster.pipeline", "cluster.sharded")
TOGETHER = (
    Contradiction(
        ("cluster.exact", "cluster.shards"),
        lambda v: v["cluster.exact"] and v["cluster.shards"] == 0,
        "without shards the order of sums depends on the number of workers; set cluster.shards, to 4 for example",
    ),
    Contradiction(
        ("cluster.exact", "model.device"),
        lambda v: v["cluster.exact"] and v["model.device"] != "cpu",
        "equal bits are measured on a CPU alone; set model.device cpu, or leave cluster.exact out",
    ),
    Contradiction(
        ("cluster.exact", "model.precision"),
        lambda v: v["cluster.exact"] and v["model.precision"] != "fp32",
        "equal bits are measured in fp32 alone; set model.precision fp32, or leave cluster.exact out",
    ),
    Contradiction(
        ("cluster.exact", "train.threads"),
        lambda v: v["cluster.exact"] and v["train.threads"] > 1,
        "a product's bits depend on the number of threads; leave train.threads out: shards use one thread a worker",
    ),
    Contradiction(
        ("cluster.sharded", "cluster.shards"),
        lambda v: v["cluster.sharded"] and v["cluster.shards"] > 0,
        "split weights are summed in the backend's order, and shards in a fixed one; leave one of the two out",
    ),
    Contradiction(
        ("cluster.pipeline", "cluster.shards"),
        lambda v: v["cluster.pipeline"] > 1 and v["cluster.shards"] > 0,
        "tied embeddings are on two stages, which sum their gradient in another order; leave one of the two out",
    ),
    Contradiction(
        ("cluster.pipeline", "cluster.sharded"),
        lambda v: v["cluster.pipeline"] > 1 and v["cluster.sharded"],
        "FSDP2 gathers a layer on all ranks at once, and stages are at different batches; leave one of the two out",
    ),
    Contradiction(
        ("cluster.sharded", "cluster.workers", "cluster.tensor"),
        lambda v: v["cluster.sharded"] and v["cluster.workers"] == v["cluster.tensor"],
        "weights are split over groups of cluster.tensor workers, and there is one; raise cluster.workers, or leave "
        "cluster.sharded out",
    ),
    Contradiction(
        ("cluster.offload", "model.device"),
        lambda v: v["cluster.offload"] and v["model.device"] == "cpu",
        "on a CPU everything is in the processor's memory already; set model.device cuda, or leave cluster.offload out",
    ),
    Contradiction(
        ("cluster.workers", "cluster.tensor", "cluster.pipeline", "train.halve_on_oom"),
        lambda v: _is_together(v) and v["train.halve_on_oom"],
        "a worker that runs out of memory cannot repeat its part alone; lower train.micro_batch_tokens instead",
    ),
)
TOGETHER_NO_EFFECT = (
    NoEffect(
        ("cluster.offload",),
        "only weights that are split over workers can wait outside of a GPU's memory; set cluster.sharded true",
        lambda v: not v["cluster.sharded"],
    ),
)
PLANNED_OFFLOAD = (
    Contradiction(
        ("offload", "hardware"),
        lambda v: v["offload"] and v["hardware"] == "cpu",
        "on a CPU everything is in the processor's memory already; give a GPU as hardware, or leave offload out",
    ),
    Contradiction(
        ("offload", "sharding"),
        lambda v: v["offload"] and v["sharding"] == "off",
        "only weights that data-parallel ranks divide can wait there; leave sharding out",
    ),
    Contradiction(
        ("offload", "gpus"),
        lambda v: v["offload"] and 0 < v["gpus"] == max(1, v["tensor"]) * max(1, v["pipeline"]),
        "only weights that data-parallel ranks divide can wait there, and these workers leave one rank; raise gpus",
    ),
)
ROLES_APART = tuple(f"cluster.apart.{role}" for role in ("generator", "reference", "reward", "critic"))
APART = (
    Contradiction(
        (*PARTS, *ROLES_APART),
        lambda v: holds_parts(v) and any(v[key] for key in ROLES_APART),
        "roles on workers of their own were tried with whole models alone; leave one of the two out",
    ),
    Contradiction(
        ("cluster.ray", *ROLES_APART),
        lambda v: not v["cluster.ray"] and any(v[key] for key in ROLES_APART),
        "roles stand apart on workers that Ray places; set cluster.ray, to local for example",
    ),
    Contradiction(
        ("cluster.apart.reference", "kl.estimator"),
        lambda v: v["cluster.apart.reference"] > 0 and kl_of(v)[1] == "exact",
        "the exact KL needs the reference's whole distribution beside the policy; leave cluster.apart.reference out, "
        "or use kl.estimator k3",
    ),
)
