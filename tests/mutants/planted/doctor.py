"""Planted bugs of doctor/: what is said of whom, and what is not."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="too-low-a-rate-without-inner-passes",
        file="doctor/quantities.py",
        old='return inner * sum(x for x in h.values("doctor/update/ratio") if math.isfinite(x))',
        new='return sum(x for x in h.values("doctor/update/ratio") if math.isfinite(x))',
        story="PPO with several passes a step is told that its learning rate is too low when it is not.",
        tests=("doctor/test_rules.py",),
    ),
    Mutant(
        name="errors-that-add-up",
        file="doctor/rules_sampling.py",
        old="error = (sum(e * e for e in errors) ** 0.5) / rows",
        new="error = sum(errors) / rows",
        story="The doctor no longer notices a KL that is clearly negative over several steps.",
        tests=("doctor/test_rules.py",),
    ),
    Mutant(
        name="ipo-judged-by-ln-2",
        file="doctor/rules_learning.py",
        old='return h.stage == "reward" or (h.stage == "dpo" and is_plain_sigmoid(h))',
        new='return h.stage in ("reward", "dpo")',
        story="A healthy run with --loss ipo is told that it is worse than a coin.",
        tests=("doctor/test_rules.py",),
    ),
    Mutant(
        name="a-change-in-deviations-and-not-in-errors",
        file="doctor/history.py",
        old="error = math.sqrt((pvariance(first) + pvariance(last)) / max(rows - 1, 1))",
        new="error = math.sqrt(pvariance(first) + pvariance(last))",
        story="Reward hacking that is plain in the curves is too uncertain for the doctor.",
        tests=("doctor/test_rules.py",),
    ),
    Mutant(
        name="progress-of-epochs-by-steps",
        file="doctor/history.py",
        old='return (self.latest("epoch") or 0.0) / float(epochs) if epochs else 1.0',
        new='return (self.latest("epoch") or 0.0) if epochs else 1.0',
        story="A run of ten epochs is judged as if it were over after its first.",
        tests=("doctor/test_rules.py",),
    ),
    Mutant(
        name="an-error-after-a-warning-is-old-news",
        file="doctor/monitor.py",
        old="if known and at_least(known.severity, finding.severity):",
        new="if known:",
        story="A warning that becomes an error is never said again, and doctor.stop_on error does not stop.",
        tests=("doctor/test_rules.py",),
    ),
    Mutant(
        name="votes-that-agree-are-not-counted",
        file="doctor/preflight_records.py",
        old="compared += total * (total - 1) // 2",
        new="compared += total * (total - 1) // 2 if len(count) == 2 else 0",
        story="Careful raters are told that half of their labels are wrong.",
        tests=("doctor/test_preflight_records.py",),
    ),
    Mutant(
        name="leaks-in-other-letters",
        file="doctor/preflight_records.py",
        old='return tuple(" ".join(message.content.split()).casefold() for message in prompt)',
        new='return tuple(" ".join(message.content.split()) for message in prompt)',
        story="A held-out prompt that differs from a training prompt in a capital letter is not found.",
        tests=("doctor/test_preflight_records.py",),
    ),
    Mutant(
        name="answers-of-exactly-the-limit-are-cut",
        file="doctor/preflight_tokens.py",
        old="len(b.ids_T) >= encoder.limits.response and not _ends(b, encoder) for b in tree.branches",
        new="len(b.ids_T) >= encoder.limits.response for b in tree.branches",
        story="Answers that just fit are reported as cut.",
        tests=("doctor/test_preflight_tokens.py",),
    ),
    Mutant(
        name="one-moment-of-two",
        file="doctor/preflight_memory.py",
        old="moments = 2 * BYTES * facts.trained",
        new="moments = BYTES * facts.trained",
        story="A run whose optimizer does not fit passes the preflight and ends at its first update.",
        tests=("doctor/test_preflight_model.py",),
    ),
    Mutant(
        name="rows-that-nobody-logged",
        file="doctor/callback.py",
        old='if step % self.log_every and "seconds/evaluate" not in metrics:',
        new="if step % self.log_every:",
        story="With --train.log_every the doctor overlooks evaluations that the run folder shows.",
        tests=("doctor/test_live.py",),
    ),
)
