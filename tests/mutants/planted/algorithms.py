"""Planted bugs of algorithms/: objectives, PPO's step, rewards, evidence."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="missing-eos-penalty-before-the-clip",
        file="algorithms/ppo.py",
        old="""        if config.reward_clip:
            shaped_B = shaped_B.clamp(-config.reward_clip, config.reward_clip)
        return shaped_B - config.missing_eos_penalty * (~rollouts.ended_B).float()
""",
        new="""        shaped_B = shaped_B - config.missing_eos_penalty * (~rollouts.ended_B).float()
        if config.reward_clip:
            shaped_B = shaped_B.clamp(-config.reward_clip, config.reward_clip)
        return shaped_B
""",
        story="With a clip and a penalty, an answer that never ends can get the same reward as one that does.",
        tests=("algorithms/test_ppo_rewards.py",),
    ),
    Mutant(
        name="replayed-answers-count-fully",
        file="algorithms/replay.py",
        old="weight_N=sampler_weight(now_N, self.old_logprob_N))",
        new="weight_N=None)",
        story="Answers of an older policy are learnt from as if the present policy had sampled them.",
        tests=("algorithms/test_retention.py",),
    ),
    Mutant(
        name="the-measured-text-is-learnt",
        file="algorithms/retention.py",
        old="for i, text in enumerate(texts, 1) if i % HELD_OUT]",
        new="for i, text in enumerate(texts, 1)]",
        story="The windows that measure what is forgotten are learnt, so that nothing seems to be forgotten.",
        tests=("algorithms/test_retention.py",),
    ),
    Mutant(
        name="replay-is-lost-on-resume",
        file="algorithms/ppo.py",
        old='self.replay.load(numbers.get("replay", ()))',
        new="pass",
        story="A resumed run starts with an empty replay and gives other numbers.",
        tests=("algorithms/test_retention.py",),
    ),
    Mutant(
        name="loss-kl-keeps-the-first-coefficient",
        file="algorithms/ppo.py",
        old="self.controller.kl_coef if in_loss else 0.0,",
        new="self.config.kl.coefficient if in_loss else 0.0,",
        story="With the KL in the loss the adaptive controller logs a coefficient that has no effect.",
        tests=("algorithms/test_ppo.py",),
    ),
    Mutant(
        name="held-out-objective-at-the-first-coefficient",
        file="algorithms/ppo.py",
        old='penalty = self.controller.kl_coef * metrics["kl"]',
        new='penalty = self.config.kl.coefficient * metrics["kl"]',
        story="PPO with an adaptive coefficient exports the weights that are best at the starting price of KL.",
        tests=("algorithms/test_ppo_rewards.py",),
    ),
    Mutant(
        name="held-out-objective-in-mixed-units",
        file="algorithms/ppo.py",
        old="deviation = self.reward_stats.std if self.reward_stats.count else 1.0",
        new="deviation = 1.0",
        story="eval/objective subtracts a penalty for normalised rewards from raw rewards and picks other weights.",
        tests=("algorithms/test_ppo_rewards.py",),
    ),
    Mutant(
        name="critic-rate-off-the-schedule",
        file="algorithms/ppo.py",
        old="critic_rate /= config.train.learning_rate",
        new="critic_rate = config.critic_learning_rate or learning_rate",
        story="A critic with a rate of its own has no warm-up and never slows down.",
        tests=("algorithms/test_ppo.py",),
    ),
    Mutant(
        name="every-inner-epoch-in-one-order",
        file="algorithms/ppo.py",
        old='python_stream(self.config.seed, "ppo/minibatch", step, epoch).shuffle(order)',
        new='python_stream(self.config.seed, "ppo/minibatch", step).shuffle(order)',
        story="The second pass over a step's rollouts has the minibatches of the first.",
        tests=("algorithms/test_ppo.py",),
    ),
    Mutant(
        name="every-step-with-the-same-luck",
        file="algorithms/ppo.py",
        old='seed = derive(self.config.seed, "ppo/sample", step)',
        new='seed = derive(self.config.seed, "ppo/sample")',
        story="A prompt that comes again in the next epoch is answered with the same random numbers.",
        tests=("algorithms/test_ppo.py",),
    ),
    Mutant(
        name="rlhf-reward-of-raw-scores",
        file="algorithms/ppo.py",
        old='"objective/rlhf_reward": float((e.shaped_B - self.controller.kl_coef * kl_B).mean()),',
        new='"objective/rlhf_reward": float((e.score_B - self.controller.kl_coef * kl_B).mean()),',
        story="The curve of what PPO maximises ignores normalisation, clip and missing-EOS penalty.",
        tests=("algorithms/test_ppo_rewards.py",),
    ),
    Mutant(
        name="critic-targets-in-another-order",
        file="algorithms/ppo_objectives.py",
        old="(x_N[batch.token_N] for x_N in (self.old_value_N, self.return_N))",
        new="(x_N[: len(value_N)] for x_N in (self.old_value_N, self.return_N))",
        story="With prompts of unlike lengths the critic learns the returns of other tokens.",
        tests=("engines/conformance/test_learner.py",),
    ),
    Mutant(
        name="reference-of-other-pairs",
        file="algorithms/dpo.py",
        old="self.reference_B[batch.caller_B]",
        new="self.reference_B[: batch.branches]",
        story="DPO compares each answer with the reference's log-prob of another pair; of equal lengths none shows.",
        tests=("algorithms/test_dpo.py",),
    ),
    Mutant(
        name="margin-of-another-pair",
        file="algorithms/reward.py",
        old="margin_P = self.margin_P[pair_P].to(difference_P.dtype)",
        new="margin_P = self.margin_P[: len(pair_P)].to(difference_P)",
        story="The reward model asks each pair for the margin of another one as soon as lengths differ.",
        tests=("algorithms/test_reward.py",),
    ),
    Mutant(
        name="margin-outside-the-temperature",
        file="algorithms/reward.py",
        old="smoothed_preference((difference_P - margin_P) / self.temperature, self.label_smoothing)",
        new="smoothed_preference(difference_P / self.temperature - margin_P, self.label_smoothing)",
        story="With a margin and a temperature the asked lead is temperature times too large.",
        tests=("algorithms/test_reward.py",),
    ),
    Mutant(
        name="language-model-loss-divided-by-rejected-tokens",
        file="algorithms/reward.py",
        old="batch.length_B[sides(batch)[0]].sum()",
        new="batch.length_B[sides(batch)[1]].sum()",
        story="The mixed-in language-model loss weighs more where rejected answers are short.",
        tests=("algorithms/test_reward.py",),
    ),
    Mutant(
        name="explained-variance-of-the-values",
        file="algorithms/evidence.py",
        old="(return_N - value_N).var(correction=0) / return_N.var(correction=0)",
        new="(return_N - value_N).square().mean() / return_N.var(correction=0)",
        story="value/explained_variance punishes a critic with a constant offset, which advantages do not feel.",
        tests=("algorithms/test_evidence.py",),
    ),
    Mutant(
        name="abstentions-get-the-mean-of-everybody",
        file="algorithms/rewards.py",
        old="_mean(by_prompt.get(p, whole)) if score is None else score for p",
        new="_mean(whole) if score is None else score for p",
        story="An answer without a score is praised on a hard prompt and punished on an easy one.",
        tests=("algorithms/test_rewards.py",),
    ),
    Mutant(
        name="weights-of-rewards-in-another-order",
        file="algorithms/rewards.py",
        old="rows = zip(*(columns[axis] for axis in self.weights), strict=True)",
        new="rows = zip(*(columns[axis] for axis in sorted(self.weights)), strict=True)",
        story="Of two rewards with weights, each gets the other's weight if their names sort the other way.",
        tests=("algorithms/test_rewards.py",),
    ),
)
