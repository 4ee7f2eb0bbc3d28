"""``concordant evaluate``: compare policies on the same held-out prompts and write a report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from concordant.algorithms.best_of_n import Choice, choose
from concordant.algorithms.environments import Environments
from concordant.algorithms.reward_sources import wanted_columns
from concordant.algorithms.rewards import Answer, Dialogue, Reward, Scores, totals_together
from concordant.algorithms.rollouts import Sampler
from concordant.config.checks import checked
from concordant.config.names import Responses
from concordant.config.specs import best_of, named, runs_of
from concordant.config.stages import EvaluateConfig
from concordant.core import kl
from concordant.core.errors import unknown_name
from concordant.core.masked import sum_by_branch
from concordant.core.objective import Outputs
from concordant.core.seeding import derive
from concordant.core.trees import PromptTree
from concordant.data.carried import NOTHING
from concordant.data.chat import ChatEncoder
from concordant.data.convert import as_demonstrations
from concordant.data.dialogue import Drop
from concordant.data.plain_text import read_text, windows
from concordant.data.records import Demonstration, Pair, Prompt, Record
from concordant.data.splits import Loaded, load_all, load_records
from concordant.engines import roles
from concordant.engines.protocol import Done
from concordant.evaluation.compare import evaluate_policies
from concordant.evaluation.metrics import best_of_n_kl_bound
from concordant.evaluation.records import PolicyAnswers, TextLosses
from concordant.evaluation.reward_summary import RewardModelSummary
from concordant.models.backbone import positions
from concordant.models.load import Policy
from concordant.models.locate import locate
from concordant.report.curves import read_curve
from concordant.report.run_findings import read_findings
from concordant.report.terminal import print_table
from concordant.report.write import write_report
from concordant.runs.metrics import AXIS
from concordant.runs.read import complaints
from concordant.runs.writable import check_folder
from concordant.stages import common
from concordant.stages.evaluate_facts import facts_of, sources_of, starts_of
from concordant.stages.places import check_output_folder
from concordant.stages.reward import measure_on_heldout
from concordant.stages.rewarding import Rewards, handling_of
from concordant.training.progress import current

PERPLEXITY_CHARACTERS = 200_000  # so many characters of a text file are used for perplexity


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """The prompts, rewards and texts with which every policy is measured."""

    config: EvaluateConfig
    prompts: Sequence[Prompt]
    records: Sequence[Record]  # the records that SFT reads, so that a built-in model is the same as at the start of SFT
    heldout: Sequence[Demonstration]  # good answers, for perplexity
    reward: Reward | None
    judge: Reward | None
    environments: Environments | None  # what the policies speak with, if they have several turns


@checked
def evaluate(config: EvaluateConfig) -> Path:
    """Sample, score and compare. Writes report.md, report.html, report.json and pictures to ``output``."""
    check_output_folder(config.output, config.data.path)
    check_folder(config.output)
    policies = {name: runs_of(value) for name, value in named(config.policies).items()}
    baseline = _known(config.baseline or ("sft" if "sft" in policies else next(iter(policies))), policies)
    references = policies[_known(config.reference or baseline, policies)]
    if config.perplexity_text:
        _perplexity_text(config)
    for path in dict.fromkeys(best_of(run)[1] for runs in policies.values() for run in runs):
        if not path.startswith("builtin:"):
            locate(path)  # a mistyped folder is found now, and not after minutes of sampling
    environments = common.environments_of(config.environment)
    wanted = wanted_columns([*config.reward, *config.judge]) | (environments.wanted if environments else NOTHING)
    loaded = load_records(config.data, Prompt, config.seed, wanted=wanted)
    rewards = _proxy(config) if config.reward else None
    judges = Rewards(config.judge, config.model, handling=handling_of(config)) if config.judge else None
    scoring = [r for r in (rewards, judges) if r is not None]
    records = load_all(config.data, config.seed)
    bench = _Bench(
        config=config,
        prompts=(loaded.test or loaded.train)[: config.max_prompts],
        records=_demonstrations(records.train, "both"),
        heldout=_demonstrations(records.test, "chosen")[: common.HELD_OUT_TREES],
        reward=rewards.reward if rewards else None,
        judge=judges.reward if judges else None,
        environments=environments,
    )
    opened = {spec: _open(spec, bench) for spec in references}
    encoder = ChatEncoder(opened[references[0]].tokenizer)
    bench = replace(bench, prompts=common.accepted(bench.prompts, encoder, "prompts"))
    for scores in scoring:
        scores.check(bench.prompts, loaded.wanted_names)
    if environments:
        environments.check(bench.prompts, loaded.wanted_names)
    answers: list[_Scored] = []
    with current().task("evaluate", sum(map(len, policies.values()))) as bar:
        for name, runs in policies.items():
            for run, reference in zip(runs, _references_of(runs, references), strict=True):
                policy = _Named(name, run if len(runs) > 1 else "", run)
                answers.append(_answers(policy, reference, opened.get(reference), bench))
                bar.update(len(answers), {})
    for scores in scoring:
        scores.report_missing()
    evaluation = evaluate_policies(_compared(answers, bench), baseline, config.bootstrap, config.seed)
    folders = {name: Path(folder) for name, folder in named(config.runs).items()}
    page = write_report(
        evaluation,
        Path(config.output),
        reward_model=_reward_summary(rewards, records, config),
        curves={name: read_curve(folder) for name, folder in folders.items()},
        starts=starts_of(config, policies, folders),
        findings={name: read_findings(folder) for name, folder in folders.items()},
        side_by_side=config.side_by_side,
        notes=[*_not_held_out(loaded), *(said for folder in folders.values() for said in complaints(folder))],
        seed=config.seed,
        command=shlex.join(["concordant", *sys.argv[1:]]),
        facts=facts_of(config, loaded, bench.prompts, references),
        sources=sources_of(config, policies, folders),
    )
    print_table(evaluation)
    common.message(f"report: {page}")
    return Path(config.output)


def _proxy(config: EvaluateConfig) -> Rewards:
    return Rewards(config.reward, config.model, handling=handling_of(config), scoring=config.scoring)


def _known(name: str, policies: Mapping[str, Sequence[str]]) -> str:
    if name not in policies:
        raise unknown_name("policy", name, policies)
    return name


def _not_held_out(loaded: Loaded[Prompt]) -> list[str]:
    return [] if loaded.test else ["Nothing is held out: these are the prompts that the policies may have learnt from."]


def _references_of(runs: Sequence[str], references: Sequence[str]) -> list[str]:
    """For each run of a policy the model from which its KL is measured; "" where this is not clear.

    With as many runs as the reference, each run is measured from its own start.
    """
    if len(references) == 1:
        return [references[0]] * len(runs)
    return list(references) if len(runs) == len(references) else [""] * len(runs)


def _open(spec: str, bench: _Bench) -> Policy:
    _, path = best_of(spec)
    model = replace(bench.config.model, name=path)
    return common.open_policy(model, bench.config.data, bench.records, bench.config.seed)


@dataclass(frozen=True, slots=True)
class _Named:
    """One run of a policy: its name, the name of the run if there are several, and its model."""

    name: str
    run: str
    spec: str  # PATH or best_of_n:N:PATH


@dataclass(frozen=True, slots=True)
class _Scored:
    """Answers, and what their rewards and the judge gave; None where nothing scored them, or best-of-n did already."""

    answers: PolicyAnswers
    rewards: Scores | None
    judge: Scores | None


def _compared(scored: Sequence[_Scored], bench: _Bench) -> list[PolicyAnswers]:
    """The answers with their scores. Where a reward or the judge abstained, no policy wins."""
    prompts = [p.messages for p in bench.prompts]
    rewards = _totals(bench.reward, [one.rewards for one in scored], prompts)
    judged = _totals(bench.judge, [one.judge for one in scored], prompts)
    return [
        replace(one.answers, rewards=one.answers.rewards if total is None else total, judge=judge)
        for one, total, judge in zip(scored, rewards, judged, strict=True)
    ]


def _totals(
    reward: Reward | None, scores: Sequence[Scores | None], prompts: Sequence[Dialogue]
) -> list[Sequence[float] | None]:
    given = [each for each in scores if each is not None]
    totals = iter(totals_together(reward.aggregate, given, prompts) if reward is not None and given else ())
    return [None if each is None else next(totals) for each in scores]


def _answers(named: _Named, origin: str, reference: Policy | None, bench: _Bench) -> _Scored:
    """The answers of one run of a policy to all prompts, with every number that the report needs.

    The KL is measured from ``reference``, whose model is ``origin``; without a reference the KL is not known.
    """
    config, (n, _) = bench.config, best_of(named.spec)
    policy = _open(named.spec, bench)
    encoder = ChatEncoder(policy.tokenizer, replace(common.limits_of(config.data, policy), too_long="cut_prompt_start"))
    sampler = common.sampler_of(policy, encoder, config.model, config.sampling, bench.environments)
    trees, choices = _sample(sampler, n, bench)
    answers = [
        Answer(c.prompt, c.best, c.ended[c.best_number], p.extra, p.tools, c.episode)
        for c, p in zip(choices, bench.prompts, strict=True)
    ]
    gold = common.gold_of(config.data)
    chosen = [c.best_reward for c in choices] if n > 1 else None  # chosen by their rewards, so each was scored already
    scores = bench.reward(answers).result() if bench.reward is not None and (n == 1 or bench.reward.has_parts) else None
    unknown = _why_no_kl(named.spec, origin, policy, reference, trees)
    found = PolicyAnswers(
        name=named.name,
        run=named.run,
        prompts=[a.prompt for a in answers],
        responses=[a.response for a in answers],
        lengths=[c.lengths[c.best_number] for c in choices],
        ended=[a.ended for a in answers],
        rewards=chosen,
        gold=[gold(a.prompt, a.response) for a in answers] if gold else None,
        kl=_kl(policy, reference, trees, config) if reference is not None and n == 1 and not unknown else None,
        kl_bound=best_of_n_kl_bound(n) if n > 1 and not unknown else None,
        kl_unknown=unknown,
        parts={name.removeprefix(AXIS): column for name, column in scores.parts.items()} if scores else {},
        texts=None if n > 1 else _texts(policy, encoder, bench),
    )
    return _Scored(
        found,
        scores if n == 1 else None,
        bench.judge(answers).result() if bench.judge is not None else None,
    )


def _why_no_kl(spec: str, origin: str, policy: Policy, reference: Policy | None, trees: Sequence[PromptTree]) -> str:
    """Why neither the KL of the policy ``spec`` from ``origin`` nor a bound can be given; "" if one can."""
    if reference is None:
        return "it has not as many runs as the reference, so no run has a reference of its own"
    n, path = best_of(spec)
    if n > 1:  # the bound limits the KL from the sampled policy, and not the KL from another reference
        return "" if path == best_of(origin)[1] else f"best-of-n samples {path}, and the reference is {origin}"
    if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        return f"its tokenizer differs from that of the reference, {origin}"
    longest = max(len(tree.prompt_T) + len(branch.ids_T) for tree in trees for branch in tree.branches)
    if longest > positions(reference.model):
        return f"one of its dialogues has {longest:,} tokens, and the reference reads {positions(reference.model):,}"
    return ""


def _sample(sampler: Sampler, n: int, bench: _Bench) -> tuple[list[PromptTree], list[Choice]]:
    # Every policy uses the same random numbers, so that only the policies make the answers differ.
    sampling = replace(bench.config.sampling, n=n)
    rollouts = sampler(bench.prompts, sampling, derive(bench.config.seed, "evaluate"))
    nothing = Reward.of("nothing", lambda answers: Done([0.0] * len(answers)))
    return rollouts.trees, choose(rollouts, bench.reward if n > 1 and bench.reward else nothing)


def _kl(policy: Policy, reference: Policy, trees: Sequence[PromptTree], config: EvaluateConfig) -> list[float]:
    """Sampled KL of each answer from the reference, nats."""
    temperature = config.sampling.temperature or 1.0
    scorers = [roles.policy_scorer(p, config.model, temperature=temperature) for p in (policy, reference)]
    started = [scorer.forward(trees, Outputs(logprob=True)) for scorer in scorers]
    log_policy, log_reference = (numbers.result().logprob_N for numbers in started)
    assert log_policy is not None and log_reference is not None
    return sum_by_branch(kl.k1(log_policy, log_reference).double(), _lengths(trees)).tolist()


def _texts(policy: Policy, encoder: ChatEncoder, bench: _Bench) -> TextLosses | None:
    """How well the policy predicts a text file, or good answers to held-out prompts."""
    config = bench.config
    if config.perplexity_text:
        trees = windows(policy.tokenizer, _perplexity_text(config), positions(policy.model))
    else:
        trees = encoder.demonstrations(bench.heldout).trees
    if not trees:
        return None
    scorer = roles.policy_scorer(policy, config.model)
    logprob_N = scorer.forward(trees, Outputs(logprob=True)).result().logprob_N
    assert logprob_N is not None
    lengths = _lengths(trees)
    return TextLosses((-sum_by_branch(logprob_N.double(), lengths)).tolist(), lengths.tolist())


def _lengths(trees: Sequence[PromptTree]) -> Tensor:
    """The response tokens of each branch."""
    return torch.tensor([branch.response_length for tree in trees for branch in tree.branches])


def _perplexity_text(config: EvaluateConfig) -> str:
    return read_text(config.perplexity_text, "perplexity_text", PERPLEXITY_CHARACTERS)


def _demonstrations(records: Sequence[Record], responses: Responses) -> list[Demonstration]:
    """The demonstrations in the records; an empty list if the records have prompts only."""
    made = [as_demonstrations(record, responses) for record in records]
    return [d for found in made if not isinstance(found, Drop) for d in found]


def _reward_summary(
    rewards: Rewards | None, records: Loaded[Record], config: EvaluateConfig
) -> RewardModelSummary | None:
    """The proxy's figures on held-out pairs; None if the proxy is not one model or there are no pairs."""
    pairs = [r for r in records.test if isinstance(r, Pair)]
    if rewards is None or len(rewards.models) != 1 or not pairs:
        return None
    model = rewards.models[0]
    encoder = ChatEncoder(
        model.tokenizer, common.limits_of(config.data, model), "encoder" if model.is_encoder else "causal"
    )
    encoded = encoder.pairs(pairs)
    if not encoded.trees:
        return None
    return measure_on_heldout(
        roles.reward_scorer(model, config.model), encoded.trees, [pairs[i] for i in encoded.record]
    )
