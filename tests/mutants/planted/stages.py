"""Planted bugs of stages/: which models, records and numbers meet in a verb."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="best-of-ns-bound-from-another-reference",
        file="stages/evaluate.py",
        old="kl_bound=best_of_n_kl_bound(n) if n > 1 and path == best_of(origin)[1] else None,",
        new="kl_bound=best_of_n_kl_bound(n) if n > 1 else None,",
        story="The report shows log n as a bound of the KL from a reference that was not sampled from.",
        tests=("stages/test_evaluate_prompts.py",),
    ),
    Mutant(
        name="the-first-of-n-tells-whether-the-best-ended",
        file="stages/evaluate.py",
        old="Answer(c.prompt, c.best, c.ended[c.best_number], p.extra, p.tools)",
        new="Answer(c.prompt, c.best, c.ended[0], p.extra, p.tools)",
        story="The column ends of best-of-n is that of its first answers, and so is a reward that reads it.",
        tests=("stages/test_evaluate_numbers.py",),
    ),
    Mutant(
        name="the-first-of-n-gives-its-length",
        file="stages/evaluate.py",
        old="lengths=[c.lengths[c.best_number] for c in choices],",
        new="lengths=[c.lengths[0] for c in choices],",
        story="The report's length of best-of-n does not show that the reward prefers long answers.",
        tests=("stages/test_evaluate_numbers.py",),
    ),
    Mutant(
        name="kl-a-token",
        file="stages/evaluate.py",
        old="log_reference).double(), _lengths(trees)).tolist()",
        new="log_reference).double(), _lengths(trees)).div(_lengths(trees)).tolist()",
        story="The report's KL is that of a token under the name of a response.",
        tests=("stages/test_evaluate_numbers.py",),
    ),
    Mutant(
        name="the-proxy-judges-itself",
        file="stages/evaluate.py",
        old="bench.judge(answers).result() if bench.judge is not None else None,",
        new="(bench.reward or bench.judge)(answers).result() if bench.judge is not None else None,",
        story="With --reward and --judge the judge's scores are the proxy's.",
        tests=("stages/test_evaluate_numbers.py",),
    ),
    Mutant(
        name="perplexity-at-the-sampling-temperature",
        file="stages/evaluate.py",
        old="    scorer = roles.policy_scorer(policy, config.model)\n",
        new="    scorer = roles.policy_scorer(policy, config.model, temperature=config.sampling.temperature or 1.0)\n",
        story="Perplexity falls or rises with --sampling.temperature.",
        tests=("stages/test_evaluate_numbers.py",),
    ),
    Mutant(
        name="margins-shift-after-a-dropped-pair",
        file="stages/reward.py",
        old="torch.tensor([config.margin + (pairs[i].margin or 0.0) for i in encoded.record])",
        new="torch.tensor([config.margin + (p.margin or 0.0) for p in pairs[: len(encoded.record)]])",
        story="After a pair that is too long every pair is asked for the margin of the pair before it.",
        tests=("stages/test_pairs.py",),
    ),
    Mutant(
        name="probabilities-shift-after-a-dropped-pair",
        file="stages/reward.py",
        old="[loaded.test[i] for i in heldout.record])",
        new="loaded.test[: len(heldout.trees)])",
        story="The Bayes accuracy of the held-out pairs is that of other pairs.",
        tests=("stages/test_pairs.py",),
    ),
    Mutant(
        name="lengths-of-chosen-and-rejected-exchanged",
        file="stages/reward.py",
        old="""        [len(t.branches[0].ids_T) for t in trees],
        [len(t.branches[1].ids_T) for t in trees],""",
        new="""        [len(t.branches[1].ids_T) for t in trees],
        [len(t.branches[0].ids_T) for t in trees],""",
        story="reward_model.json says that the shorter answer wins where the longer one does.",
        tests=("stages/test_pairs.py",),
    ),
    Mutant(
        name="pairs-of-a-prompt-on-both-sides",
        file="stages/reward.py",
        old="return [p for p in pairs if p.prompt not in taken], [p for p in pairs if p.prompt in taken]",
        new="return [p for p in pairs if p.prompt not in taken or p.chosen > p.rejected], "
        "[p for p in pairs if p.prompt in taken]",
        story="The slice that picks the best weights holds pairs that were trained on.",
        tests=("stages/test_pairs.py",),
    ),
    Mutant(
        name="held-out-pairs-with-the-references-of-training",
        file="stages/dpo.py",
        old="Examples(heldout, _objective(config, reference if needs_reference else None, heldout)),",
        new="Examples(heldout, _objective(config, reference if needs_reference else None, train)),",
        story="DPO's held-out loss and accuracy are noise, and they pick the best weights.",
        tests=("stages/test_pairs.py",),
    ),
    Mutant(
        name="dialogues-that-end-alike-are-one",
        file="stages/rewarding.py",
        old="if groups and groups[-1][0].prompt == answer.prompt:",
        new="if groups and groups[-1][0].prompt[-1:] == answer.prompt[-1:]:",
        story="Answers to two dialogues that end with the same question are scored as answers to the first.",
        tests=("engines/test_roles.py",),
    ),
    Mutant(
        name="the-range-of-a-weighted-reward",
        file="stages/rewarding.py",
        old="alone = WeightedSum(dict.fromkeys(self.reward.axes, 1.0))",
        new="alone = WeightedSum(dict(self.reward.aggregate.weights))",
        story="A reward with the weight 0.5 is said to be out of the reward model's range.",
        tests=("engines/test_roles.py", "stages/test_reward_functions.py"),
    ),
    Mutant(
        name="parts-counted-from-the-resume",
        file="stages/best_of_n.py",
        old="""            for start in range(len(choices), len(prompts), PROMPTS_AT_ONCE):
                number = start // PROMPTS_AT_ONCE
""",
        new="""            for number, start in enumerate(range(len(choices), len(prompts), PROMPTS_AT_ONCE)):
""",
        story="An interrupted best-of-n gives other answers than one that ran through.",
        tests=("stages/test_best_of_n_run.py",),
    ),
)
