"""Planted bugs of core/: losses, advantages, trees, seeds."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="gae-trace-without-gamma",
        file="core/advantages.py",
        old="following_B = delta_B + r.gamma * r.lam * following_B",
        new="following_B = delta_B + r.lam * following_B",
        story="With --gamma below 1, rewards far behind a token count too much; with the default 1 nothing shows.",
        tests=("core/test_advantages.py",),
    ),
    Mutant(
        name="grpo-population-deviation",
        file="core/advantages.py",
        old="deviation_B = (square_B / (size_B - 1)).sqrt()",
        new="deviation_B = (square_B / size_B).sqrt()",
        story="GRPO's advantages are too large, most of all in small groups: n stands for n - 1.",
        tests=("core/test_advantages.py",),
    ),
    Mutant(
        name="rloo-compares-with-itself",
        file="core/advantages.py",
        old="return x_B - (sum_B - x_B) / (size_B - 1)",
        new="return x_B - sum_B / size_B",
        story="RLOO's baseline holds the answer itself, so every advantage shrinks by (n - 1) / n and is biased.",
        tests=("core/test_advantages.py",),
    ),
    Mutant(
        name="clip-fraction-counts-both-signs",
        file="core/losses.py",
        old="below_N = (ratio_N < 1 - clip) & (advantage_N < 0)",
        new="below_N = ratio_N < 1 - clip",
        story="policy/clip_fraction counts tokens that still have a gradient, and the doctor warns of healthy runs.",
        tests=("core/test_losses.py",),
    ),
    Mutant(
        name="robust-dpo-keeps-its-scale",
        file="core/losses.py",
        old="return -flipped_B / (1 - 2 * label_smoothing)",
        new="return -flipped_B",
        story="The loss robust is no longer unbiased under flipped labels: its gradient is too small.",
        tests=("core/test_losses.py",),
    ),
    Mutant(
        name="whitening-threshold-is-absolute",
        file="core/masked.py",
        old="if deviation <= LEAST_DEVIATION * x_N.abs().max():",
        new="if deviation <= LEAST_DEVIATION:",
        story="A reward of very small numbers has advantages of exactly 0, so that nothing is learnt from it.",
        tests=("core/test_losses.py",),
    ),
    Mutant(
        name="flat-layout-counts-masked-tokens",
        file="core/trees.py",
        old="branch, token = branch + 1, token + b.response_length",
        new="branch, token = branch + 1, token + len(b.ids_T)",
        story="In the flat layout a dialogue with user turns inside its first answer mixes up numbers of tokens.",
        tests=("core/test_trees.py",),
    ),
    Mutant(
        name="tree-layout-counts-masked-tokens",
        file="core/trees.py",
        old="        token += sum(b.response_length for b in tree.branches)",
        new="        token += sum(len(b.ids_T) for b in tree.branches)",
        story="A tree after a dialogue with user turns gets the numbers of tokens of another tree.",
        tests=("core/test_trees.py",),
    ),
    Mutant(
        name="exact-kl-of-a-reference-at-temperature-1",
        file="core/logprobs.py",
        old="reference_CV = reference[1](reference[0]).float() / temperature",
        new="reference_CV = reference[1](reference[0]).float()",
        story="With kl.estimator exact and a temperature, the KL of a policy from itself is above 0.",
        tests=("core/test_logprobs.py", "engines/conformance/test_learner.py"),
    ),
    Mutant(
        name="scaled-objective-forgets-inner-coefficients",
        file="core/objective.py",
        old="Term(t.sum, self.coefficient * t.coefficient)",
        new="Term(t.sum, self.coefficient)",
        story="A mixed-in objective with terms of different weights is trained with one weight for all of them.",
        tests=("core/test_objective.py",),
    ),
    Mutant(
        name="streams-of-joined-names",
        file="core/seeding.py",
        old='text = "/".join([str(seed), *map(str, names)])',
        new='text = "".join([str(seed), *map(str, names)])',
        story="Seed 1 with step 12 and seed 11 with step 2 draw the same numbers, as do (1, 12) and (11, 2).",
        tests=("core/test_seeding.py",),
    ),
    Mutant(
        name="running-deviation-without-the-shift",
        file="core/running_stats.py",
        old="self.m2 += m2 + delta**2 * self.count * count / total",
        new="self.m2 += m2 + delta**2 * count / total",
        story="Running reward normalisation divides by a deviation that is too small when the mean drifts.",
        tests=("core/test_kl.py",),
    ),
)
