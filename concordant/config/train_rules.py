"""Which settings of training go together with the optimizer."""

from __future__ import annotations

from concordant.config.cluster_rules import PARTS, holds_parts
from concordant.config.rule_kinds import Contradiction, NoEffect
from concordant.config.specs import may_train_adapter

TRAIN_CONTRADICTIONS = (
    Contradiction(
        ("train.optimizer", *PARTS),
        lambda v: v["train.optimizer"] != "adamw" and holds_parts(v),
        "muon and adafactor look at whole matrices, and here each worker holds parts of the model; set train.optimizer "
        "adamw, or leave cluster.sharded, cluster.tensor and cluster.pipeline out",
    ),
    Contradiction(
        ("train.optimizer", "model.lora.rank", "model.adapter"),
        lambda v: v["train.optimizer"] == "adafactor" and bool(v["model.lora.rank"] or v["model.adapter"]),
        "its steps are relative to the size of the weights, and an adapter's B begins at 0; the state of an adapter is "
        "small anyway, so set train.optimizer adamw",
    ),
)

QUANTIZED = (
    Contradiction(
        ("model.quantize", "model.lora.rank", "model.adapter"),
        lambda v: (
            v["model.quantize"] != "none"
            and not may_train_adapter(v["model.lora.rank"], v["model.adapter"], v["model.name"])
        ),
        "weights of four bits cannot be trained; set model.lora.rank for an adapter beside them",
    ),
    Contradiction(
        ("model.quantize", *PARTS),
        lambda v: v["model.quantize"] != "none" and holds_parts(v),
        "weights of four bits are not split over workers; leave one of the two out",
    ),
)

# Of verbs in which the adapter of the start is merged first, and of the critic.
QUANTIZED_NEW = Contradiction(
    ("model.quantize", "model.lora.rank"),
    lambda v: v["model.quantize"] != "none" and v["model.lora.rank"] == 0,
    "weights of four bits cannot be trained; set model.lora.rank for an adapter beside them",
)
QUANTIZED_CRITIC = Contradiction(
    ("critic.quantize", "critic.lora.rank"),
    lambda v: v["critic.quantize"] != "none" and bool(v["critic.name"]) and v["critic.lora.rank"] == 0,
    "weights of four bits cannot be trained; set critic.lora.rank for an adapter beside them",
)

TRAIN_NO_EFFECT = (
    NoEffect(
        ("train.beta1", "train.beta2"),
        "adafactor has no first moment, and its second one follows the step; set train.optimizer adamw",
        lambda v: v["train.optimizer"] == "adafactor",
    ),
    NoEffect(
        ("train.lora_plus",),
        "no adapter is trained, so there is no B; set model.lora.rank or model.adapter",
        lambda v: not may_train_adapter(v["model.lora.rank"], v["model.adapter"], v["model.name"]),
    ),
)

RETAINS_NOTHING = (
    NoEffect(
        ("retain.mix", "retain.ewc"), "there is no text to retain; give retain.text", lambda v: not v["retain.text"]
    ),
    NoEffect(("retain.batch_size",), "retain.mix is 0, so no text is learnt", lambda v: not v["retain.mix"]),
    NoEffect(("retain.fisher_windows",), "retain.ewc is 0, so no weight is held", lambda v: not v["retain.ewc"]),
)
