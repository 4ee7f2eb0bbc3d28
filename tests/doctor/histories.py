"""Made-up runs: a healthy row of each stage, and a few changes that make it sick."""

import math

from concordant.doctor.history import NOTHING
from concordant.doctor.monitor import Monitor
from concordant.doctor.rules import RULES

LEARNS = {
    "learning_rate": 1e-3,
    "grad_norm": 1.0,
    "skipped": 0.0,
    "doctor/update/ratio": 2e-3,
    "doctor/update/still": 0.0,
}
DATA = {
    "doctor/data/starts": 1.0, "doctor/data/ends": 1.0, "doctor/data/end_learnt": 1.0,
    "doctor/data/response_share": 0.9, "doctor/data/prompt_tokens": 40.0, "doctor/data/duplicates": 0.0,
}  # fmt: skip
PAIRS = {**DATA, "doctor/data/identical": 0.0, "doctor/data/chosen_longer": 0.55}


def falling(start, end):
    """A curve that goes from ``start`` to ``end`` over the run, with a little noise that has no mean."""
    return lambda i, n: start + (end - start) * i / max(n - 1, 1) + (0.02 * (end - start) * (-1) ** i if i else 0)


HEALTHY = {
    "sft": {**LEARNS, **DATA, "loss": falling(4.0, 1.0), "token_accuracy": falling(0.3, 0.7)},
    "reward": {**LEARNS, **PAIRS, "doctor/update/head": 1e-2, "loss": falling(0.69, 0.45),
               "bradley_terry": falling(0.69, 0.45), "accuracy": falling(0.5, 0.8)},
    "dpo": {**LEARNS, **PAIRS, "loss": falling(0.693, 0.5), "rewards/margins": falling(0.0, 0.6),
            "rewards/chosen": falling(0.0, -0.05), "rewards/rejected": falling(0.0, -0.65),
            "rewards/accuracies": falling(0.5, 0.75),
            "logps/chosen": falling(-40.0, -40.5), "logps/rejected": falling(-42.0, -48.0)},
    "ppo": {**LEARNS, "loss": -0.01, "doctor/data/duplicates": 0.0, "objective/kl": falling(0.0, 4.0),
            "doctor/objective/kl_error": 0.1, "objective/score": falling(0.0, 1.5), "objective/score_std": 1.0,
            "response/length": 40.0, "response/eos_fraction": 0.95, "kl_coefficient": 0.1,
            "doctor/reference/logprob": -8.0, "doctor/rollout/logprob_gap": 1e-6, "doctor/response/after_end": 0.0,
            "doctor/response/repetition": 0.01, "doctor/response/distinct": 1.0, "doctor/response/top_phrase": 0.2,
            "doctor/reward/length_correlation": 0.2, "doctor/reward/repetition_correlation": 0.0,
            "doctor/ratio/start": 1e-6,
            "policy/approx_kl": 0.005, "policy/clip_fraction": 0.08, "objective/entropy_per_token": falling(1.0, 0.8),
            "value/explained_variance": falling(0.0, 0.5), "value/clip_fraction": 0.1, "value/grad_norm": 1.0,
            "doctor/value/update/ratio": 2e-3, "doctor/value/update/still": 0.0, "doctor/value/update/head": 1e-2},
}  # fmt: skip
CONFIG = {
    "sft": {"verb": "sft"},
    "reward": {"verb": "reward", "train": {"batch_size": 16}},
    "dpo": {"verb": "dpo", "beta": 0.1, "loss": "sigmoid", "reference": "", "train": {"batch_size": 16}},
    "ppo": {"verb": "ppo", "inner_epochs": 2, "minibatches": 2, "clip": 0.2, "reference": ""},
}


def rows(stage, steps=48, **changes):
    """Rows of a healthy run of ``stage`` with some metrics (``/`` written as ``__``) replaced by a number, a list, or a
    function of the row's number and the count. A change of None leaves the metric out."""
    curves = HEALTHY[stage] | {"doctor/data/batch_id": lambda i, n: 1000 + i,
                               "doctor/data/first_id": lambda i, n: 5000 + i,
                               "epoch": lambda i, n: (i + 1) / (2 * n)}  # fmt: skip
    curves |= {name.replace("__", "/"): value for name, value in changes.items()}
    made = []
    for i in range(steps):
        row = {"step": i + 1}
        for name, value in curves.items():
            value = value(i, steps) if callable(value) else value[i] if isinstance(value, list) else value
            if value is not None:
                row[name] = value
        made.append(row)
    return made


def found(stage, changes, settings=None, steps=48, beside=NOTHING):
    """{rule: severity} over a whole run."""
    monitor = Monitor({**CONFIG[stage], **(settings or {})}, beside)
    for row in rows(stage, steps, **changes):
        monitor.see(row)
    return {f.rule: f.severity for f in monitor.ranked()}


def first(stage, changes, settings=None, steps=48, beside=NOTHING):
    """The likeliest cause by rank, or None; hints do not count."""
    return next((r for r, s in found(stage, changes, settings, steps, beside).items() if s != "info"), None)


NAMES = [rule.name for rule in RULES]
NAN = math.nan
