"""Which settings of ``concordant distill`` go together."""

from __future__ import annotations

from concordant.config.rule_kinds import Contradiction, NoEffect, Values


def gives_answers(v: Values) -> str:
    """Who gives the answers that the student does not sample: "teacher", "data", or "" if it samples all of them."""
    return v["answers"] if v["on_policy"] < 1 else ""


DISTILL_CONTRADICTIONS = (
    Contradiction(
        ("teacher",),
        lambda v: v["teacher"].startswith("builtin:"),
        "a built-in model begins with random weights, so it has nothing to teach; give the folder of a trained policy",
    ),
    Contradiction(
        ("teacher", "model.name"),
        lambda v: bool(v["teacher"]) and v["teacher"] == v["model.name"] and not v["model.adapter"],
        "a student that is its own teacher has nothing to learn; give another model as one of the two",
    ),
    Contradiction(
        ("sampling.engine", "answers", "on_policy"),
        lambda v: v["sampling.engine"] == "vllm" and gives_answers(v) == "teacher",
        "vLLM holds one model in a process, and here student and teacher sample; use sampling.engine own",
    ),
)

DISTILL_NO_EFFECT = (
    NoEffect(("beta",), "only jsd mixes the two distributions; set divergence jsd", lambda v: v["divergence"] != "jsd"),
    NoEffect(
        ("answers",),
        "with on_policy 1 the student samples every answer; lower on_policy",
        lambda v: v["on_policy"] == 1,
    ),
    NoEffect(
        ("data.max_response_tokens",),
        "responses are sampled; sampling.max_new_tokens limits their length",
        lambda v: gives_answers(v) != "data",
    ),
    NoEffect(
        ("data.too_long",),
        "only the prompts of the data are used, and a prompt that is too long is cut at its start",
        lambda v: gives_answers(v) != "data",
    ),
)

# Of ``concordant plan``.
PLANNED_SAMPLES = NoEffect(
    ("samples",),
    "only ppo, grpo and distill sample their responses; set method",
    lambda v: v["method"] not in ("ppo", "grpo", "distill"),
)
PLANNED_TEACHER = NoEffect(
    ("teacher",), "only distill has a teacher; set method distill", lambda v: v["method"] != "distill"
)
