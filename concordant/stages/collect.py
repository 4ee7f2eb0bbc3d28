"""``concordant collect``: sample pairs of answers from a policy and have them labelled, as new preference data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concordant.algorithms.rewards import Answer
from concordant.algorithms.rollouts import Rollouts
from concordant.config.checks import checked
from concordant.config.collect import CollectConfig
from concordant.config.data import DataConfig
from concordant.config.specs import is_votes
from concordant.core.counted import counted
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.core.seeding import derive, generators_put_back, python_stream, reseed
from concordant.data.card import Labels, make_card
from concordant.data.carried import Wanted
from concordant.data.chat import ChatEncoder
from concordant.data.convert import as_dict, pair_id
from concordant.data.records import Pair, Prompt
from concordant.data.splits import load_all
from concordant.data.strength import share_of_votes
from concordant.feedback.labels import TIE
from concordant.runs.atomic import write_text
from concordant.runs.folder import RunFolder
from concordant.runs.logs import Row, json_lines
from concordant.runs.names import ASKED, CARD_JSON, CARD_PAGE, JUDGE_JSON, PAIR_DATA, TO_LABEL
from concordant.runs.writable import check_file
from concordant.stages import asking as shared
from concordant.stages import common
from concordant.stages.answered import answered_before
from concordant.stages.choosing import VOTES, Candidate, Judged, Verdict, open_judge, read_votes, wanted_of
from concordant.training.progress import current

PROMPTS_AT_ONCE = 64
_MADE_BY = ("round", "policy", "judge")  # columns of a labelled pair, beside its texts


@checked
def collect(config: CollectConfig) -> Path:
    """Sample, label, and return the output folder.

    The folder gets ``to_label.jsonl`` (the pairs that the judge is asked about), ``pairs.jsonl`` (the pairs of
    ``earlier`` and then the labelled ones, each with round, policy and judge), ``samples.jsonl`` (all answers) and a
    data card; of a judge in words also ``asked.jsonl`` and ``judge.json``. Pairs without a label are counted. An
    interrupted command continues after its last complete answers.
    """
    with common.opened(config, "collect") as folder, generators_put_back():
        for name in (TO_LABEL, PAIR_DATA, ASKED, JUDGE_JSON, CARD_JSON, CARD_PAGE):
            check_file(folder.path / name)
        earlier = _earlier(config)
        loaded = common.read(config, folder, Prompt, "prompts", wanted=wanted_of(config))
        choose = open_judge(config, loaded.train, loaded.wanted_names)
        candidates = _candidates(config, folder, loaded.train)
        rows = ({"id": c.id, "prompt": as_dict(c.first.prompt)} | _texts(c) for c in candidates)
        write_text(folder.path / TO_LABEL, json_lines(rows))
        reseed(config.seed, "collect/judge", config.round)
        judged = choose(candidates)
        new, left_out = _labelled(config, candidates, judged)
        if judged.asking is not None:
            numbers = {"judge": _named(config), "trust": judged.trust}
            shared.write_numbers(folder.path, judged.asking, left_out, len(new), numbers, JUDGE_JSON)
            for note in judged.notes:
                common.message(f"judge: {note}")
        _check_labelled(config, folder.path, judged)
        return _write(config, folder.path, earlier, new, left_out, judged.notes)


def _earlier(config: CollectConfig) -> list[Pair]:
    """The pairs of earlier rounds."""
    if not config.earlier:
        return []
    loaded = load_all(DataConfig(config.earlier).whole(), config.seed, wanted=Wanted(frozenset(_MADE_BY)))
    common.report_dropped(loaded.dropped, "earlier pairs")
    others = [record for record in loaded.train if not isinstance(record, Pair)]
    if others:
        raise UserError(f"earlier: {config.earlier} has {counted(len(others), 'record')} that are no preference pairs")
    return [record for record in loaded.train if isinstance(record, Pair)]


@dataclass(frozen=True, slots=True)
class _Answered:
    """The answers to one prompt."""

    responses: tuple[str, ...]
    lengths: tuple[int, ...]  # tokens, end token included
    ended: tuple[bool, ...]


def _candidates(config: CollectConfig, folder: RunFolder, prompts: Sequence[Prompt]) -> list[Candidate]:
    """``config.pairs`` pairs of unlike answers, or fewer if a whole pass over the prompts gives none that is new.

    Round k begins at the prompt after those of the rounds before, so that no prompt comes twice before all have come.
    """
    policy = common.open_policy(config.model, config.data, prompts, config.seed)
    encoder = ChatEncoder(policy.tokenizer, common.limits_of(config.data, policy))
    sampler = common.sampler_of(policy, encoder, config.model, config.sampling)
    order = common.accepted(prompts, encoder, "prompts")
    python_stream(config.seed, "collect/prompts").shuffle(order)
    found = _Found(order, (config.round - 1) * config.pairs)
    for answered in answered_before(folder, "collect", _answered, PROMPTS_AT_ONCE):
        found.add(answered)
    with current().task("collect", config.pairs, len(found.candidates)) as bar:
        while len(found.candidates) < config.pairs and found.since_new < max(len(order), PROMPTS_AT_ONCE):
            part = [found.prompt(found.done + i) for i in range(PROMPTS_AT_ONCE)]
            seed = derive(config.seed, "collect", config.round, found.done // PROMPTS_AT_ONCE)
            new = _sampled(sampler(part, config.sampling, seed), config.sampling.n)
            folder.log_samples(_row(p, a) for p, a in zip(part, new, strict=True))
            for answered in new:
                found.add(answered)
            bar.update(min(len(found.candidates), config.pairs), {})
            folder.status.update("running", min(len(found.candidates), config.pairs), config.pairs)
    if not found.candidates:
        raise RunFailed(
            f"collect: {config.model.name} gave {config.sampling.n} equal answers to each of "
            f"{counted(len(order), 'prompt')}, so no pair can be made; raise sampling.temperature or sampling.n"
        )
    if len(found.candidates) < config.pairs:
        common.message(
            f"collect: {len(found.candidates):,} of {config.pairs:,} pairs; {counted(found.since_new, 'prompt')} in a "
            "row gave no other unlike answers"
        )
    return found.candidates[: config.pairs]


class _Found:
    """The candidates among the answers so far. Prompts are answered in their order, round and round."""

    def __init__(self, order: Sequence[Prompt], start: int) -> None:
        self.order, self.start = order, start
        self.done = self.since_new = 0  # prompts answered; prompts since the last new pair
        self.candidates: list[Candidate] = []
        self._known: set[frozenset[object]] = set()

    def prompt(self, number: int) -> Prompt:
        return self.order[(self.start + number) % len(self.order)]

    def add(self, answered: _Answered) -> None:
        prompt = self.prompt(self.done)
        self.done, self.since_new = self.done + 1, self.since_new + 1
        texts = [text.strip() for text in answered.responses]
        written = [i for i, text in enumerate(texts) if text]  # data with an empty answer would be dropped when read
        unlike = [i for i in written if texts[i] != texts[written[0]]]
        if not unlike:
            return
        both = written[0], unlike[0]
        said = frozenset((prompt.messages, *(texts[i] for i in both)))  # in either order
        if said not in self._known:
            self._known.add(said)
            pair = candidate(prompt, *((answered.responses[i], answered.ended[i]) for i in both))
            self.candidates.append(pair)
            self.since_new = 0


def candidate(prompt: Prompt, first: tuple[str, bool], second: tuple[str, bool]) -> Candidate:
    """The pair of two answers, each with whether it ended by itself."""
    answers = (Answer(prompt.messages, *answer, prompt.extra, prompt.tools) for answer in (first, second))
    return Candidate(pair_id(prompt.messages, first[0], second[0]), *answers)


def _sampled(rollouts: Rollouts, n: int) -> list[_Answered]:
    texts = [answer.response for answer in rollouts.answers]
    lengths, ended = rollouts.length_B.tolist(), rollouts.ended_B.tolist()
    spans = [slice(i, i + n) for i in range(0, len(texts), n)]
    return [_Answered(tuple(texts[s]), tuple(lengths[s]), tuple(ended[s])) for s in spans]


def _row(prompt: Prompt, answered: _Answered) -> dict[str, Any]:
    columns = zip(answered.responses, answered.lengths, answered.ended, strict=True)
    answers = [{"response": text, "tokens": tokens, "ended": ended} for text, tokens, ended in columns]
    return {"prompt": as_dict(prompt.messages), "answers": answers}


def _answered(row: Row) -> _Answered:
    return _Answered(*(tuple(answer[name] for answer in row["answers"]) for name in ("response", "tokens", "ended")))


def _texts(pair: Candidate) -> dict[str, str]:
    return {"a": pair.first.response, "b": pair.second.response}


def _labelled(
    config: CollectConfig, candidates: Sequence[Candidate], judged: Judged
) -> tuple[list[Pair], Counter[str]]:
    """The pairs as the judge labels them, and how many were left out for each reason."""
    left_out: Counter[str] = Counter()
    new: list[Pair] = []
    votes = read_votes(Path(config.judge)) if is_votes(config.judge) else {}
    made_by = dict(zip(_MADE_BY, (config.round, config.model.name, _named(config)), strict=True))
    for number, (pair, verdict) in enumerate(zip(candidates, judged.verdicts, strict=True)):
        if verdict is None:
            left_out[judged.reasons.get(number, "no verdict")] += 1
        elif verdict == "tie" and not config.keep_ties:
            left_out[judged.reasons.get(number, TIE)] += 1
        else:
            better, worse = (pair.second, pair.first) if verdict == "second" else (pair.first, pair.second)
            texts = better.prompt, better.response, worse.response
            probability = _probability(votes.get(pair.id), verdict)
            new.append(Pair(*texts, probability=probability, extra=made_by, tools=better.tools))
    return new, left_out


def _named(config: CollectConfig) -> str:
    """The judge, a server with its model."""
    return f"{config.judge} {config.endpoint.model}".rstrip()


def _check_labelled(config: CollectConfig, folder: Path, judged: Judged) -> None:
    """Raise RunStopped while votes or a server are waited for, and RunFailed if nothing was labelled."""
    verdicts = judged.verdicts
    without = verdicts.count(None)
    waits = without == len(verdicts) or (without and config.unlabelled == "wait")
    if is_votes(config.judge) and waits:
        raise RunStopped(
            f"collect: {without:,} of {counted(len(verdicts), 'pair')} have no vote. Read {folder / TO_LABEL}, add "
            f'lines such as {{"id": "…", "vote": "a"}} to {config.judge} (a vote is one of {", ".join(VOTES)}), and '
            "continue with --resume auto"
        )
    if judged.stopped and waits:
        raise RunStopped(
            f"collect: {judged.stopped}; {without:,} of {counted(len(verdicts), 'pair')} have no verdict. All answers "
            "are kept, and --resume auto asks for the rest"
        )
    if without == len(verdicts):
        why = shared.why_nothing(judged.asking) or ", ".join(sorted(set(judged.reasons.values())))
        raise RunFailed(
            f"collect: {config.judge} gave no verdict on any of {counted(len(verdicts), 'pair')}{why and f': {why}'}"
        )
    if not {"first", "second"}.intersection(verdicts):
        raise RunFailed(
            f"collect: {config.judge} called all of {counted(len(verdicts), 'pair')} ties; nothing to learn"
        )


def _write(
    config: CollectConfig,
    folder: Path,
    earlier: Sequence[Pair],
    new: Sequence[Pair],
    left_out: Counter[str],
    notes: Sequence[str],
) -> Path:
    pairs = [*earlier, *new]
    write_text(folder / PAIR_DATA, json_lines(map(_pair_row, pairs)))
    card = make_card(
        pairs,
        [],
        source=config.data.path,
        seed=config.seed,
        rows_read=len(pairs) + sum(left_out.values()),
        dropped=left_out,
        formats=("sampled pairs",),
        written={PAIR_DATA: len(pairs)},
        notes=[f"the judge of round {config.round}: {note}" for note in notes],
        labels=labels_of(pairs),
    )
    write_text(folder / CARD_JSON, card.to_json())
    write_text(folder / CARD_PAGE, card.markdown())
    common.report_dropped(left_out, "collect")
    common.message(
        f"collect: {counted(len(new), 'pair')} labelled by {_named(config)} in round {config.round}; "
        f"{counted(len(pairs), 'pair')} with the earlier ones in {folder / PAIR_DATA}"
    )
    return folder


def _probability(votes: Counter[str] | None, verdict: Verdict) -> float | None:
    """P(chosen preferred) by people's votes; 0.5 if the judge found a tie, and None where nothing more is known."""
    if verdict == "tie":
        return 0.5
    if votes is None:
        return None
    chosen, rejected = ("a", "b") if verdict == "first" else ("b", "a")
    return share_of_votes(votes[chosen], votes[rejected], votes["tie"])


def _pair_row(pair: Pair) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": as_dict(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected}
    row |= {name: pair.extra[name] for name in _MADE_BY if name in pair.extra}
    for name, value in (("margin", pair.margin), ("probability", pair.probability)):
        row |= {name: value} if value is not None else {}
    return row | ({"tools": list(pair.tools)} if pair.tools else {})


def labels_of(pairs: Iterable[Pair]) -> tuple[Labels, ...]:
    """How many labels each round, policy and judge gave; round 0 stands for pairs that no round made."""
    counts = Counter(map(_made_by, pairs))
    return tuple(Labels(*made, count) for made, count in counts.items())


def _made_by(pair: Pair) -> tuple[int, str, str]:
    """Round, policy and judge of a pair. Columns of the same names in data of other origin may hold anything."""
    number, policy, judge = (pair.extra.get(name) for name in _MADE_BY)
    if isinstance(number, int) and isinstance(policy, str) and isinstance(judge, str):
        return number, policy, judge
    return 0, "", ""
