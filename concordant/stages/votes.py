"""``concordant votes``: pairs for people to vote on, raters, the state of the votes, and their export."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from concordant.config.checks import checked
from concordant.config.specs import named
from concordant.config.votes import VotesConfig
from concordant.core.counted import counted
from concordant.core.errors import RunFailed, UserError
from concordant.core.visible import say
from concordant.data.splits import reasons
from concordant.runs.atomic import write_text
from concordant.runs.logs import json_lines
from concordant.runs.writable import check_file

if TYPE_CHECKING:
    from concordant.data.dialogue import Messages
    from concordant.votes.incoming import Scores
    from concordant.votes.store import Store


@checked
def keep_votes(config: VotesConfig) -> Path | None:
    """Do what ``config.action`` names. Returns the file that was written, or None."""
    try:
        from concordant.votes.database import Away
        from concordant.votes.store import Store
    except ModuleNotFoundError as missing:
        raise UserError(f"votes need the package {missing.name}: pip install 'concordant[studio]'") from None
    _check_exists(config)
    store = Store(config.database)
    try:
        return ACTIONS[config.action](config, store)
    except Away as away:
        raise RunFailed(f"the database is away: {away}; nothing was changed, the command may be repeated") from None
    finally:
        store.database.close()


def _check_exists(config: VotesConfig) -> None:
    """A wrong name of the database shall not make a new one, except where pairs or raters come in."""
    if "://" in config.database:
        return
    file = Path(config.database).expanduser()
    if config.action in ("import", "rater"):
        check_file(file)
    elif not file.is_file():
        raise UserError(f"database: no file {config.database}; `concordant votes import` makes one")


def _import(config: VotesConfig, store: Store) -> Path | None:
    from concordant.votes.export import rows_to_label
    from concordant.votes.incoming import in_order, pairs_of_answers, read_pairs
    from concordant.votes.rows import Arena

    if config.output:
        check_file(config.output)
    instructions = _text(config.instructions) if config.instructions else ""
    pairs = read_pairs(config.data, config.gold, config.policies) if config.data.path else []
    pairs += pairs_of_answers(named(config.answers)) if config.answers else []
    texts = {pair.key: (pair.prompt, pair.first, pair.second) for pair in pairs}
    pairs = in_order(pairs, config.order, _scores(config, texts), config.seed)
    arena = store.add_arena(
        Arena(
            name=config.arena,
            question=config.question,
            instructions=instructions,
            raters_per_pair=config.raters_per_pair,
            gold_share=config.gold_share,
            lease=config.lease,
            seed=config.seed,
        )
    )
    added = store.add_pairs(arena, pairs)
    _say(f"{counted(added, 'pair')} added to {config.arena}, {len(pairs) - added:,} were there already")
    if not config.output:
        return None
    write_text(Path(config.output), json_lines(rows_to_label(pairs)))
    return Path(config.output)


def _rater(config: VotesConfig, store: Store) -> None:
    token = store.add_rater(config.rater)
    _say(f"{config.rater} votes with this token, which is shown once; an earlier one is refused from now on")
    print(token)


def _retire(config: VotesConfig, store: Store) -> None:
    store.retire(config.rater)
    _say(f"the token of {config.rater} is refused from now on; the votes stay")


def _rank(config: VotesConfig, store: Store) -> None:
    from concordant.votes.incoming import ranks_of
    from concordant.votes.rows import messages

    arena = store.arena(config.arena)
    pairs = [pair for pair in store.read(arena)[0] if pair.gold is None]
    texts = {pair.key: (messages(pair.prompt), pair.first, pair.second) for pair in pairs}
    scores = _scores(config, texts)
    moved = store.rank(arena, ranks_of([pair.key for pair in pairs], config.order, scores, config.seed))
    _say(f"{counted(moved, 'open seat')} of {config.arena} in the order: {config.order}")


def _status(config: VotesConfig, store: Store) -> None:
    from concordant.votes.shown import page
    from concordant.votes.summary import summary

    found = summary(store, config.arena)
    say(json.dumps(found, indent=1, ensure_ascii=False) if config.json else page(found))


def _export(config: VotesConfig, store: Store) -> Path:
    from concordant.votes.export import pair_rows, vote_rows

    check_file(config.output)
    pairs, found = store.read(store.arena(config.arena))
    left_out: Counter[str] = Counter()
    if config.form == "votes":
        rows = list(vote_rows(pairs, found))
    else:
        rows = list(pair_rows(pairs, found, left_out, config.keep_ties, config.margin))
    if left_out:
        _say(f"left out {left_out.total():,}: {reasons(left_out)}")
    if not rows:
        raise RunFailed(f"nothing to export: {reasons(left_out) or 'no votes'}")
    write_text(Path(config.output), json_lines(rows))
    _say(counted(len(rows), "pair" if config.form == "pairs" else "vote"))
    return Path(config.output)


ACTIONS: dict[str, Callable[[VotesConfig, Store], Path | None]] = {
    "import": _import,
    "rater": _rater,
    "retire": _retire,
    "rank": _rank,
    "status": _status,
    "export": _export,
}


def _scores(config: VotesConfig, texts: dict[str, tuple[Messages, str, str]]) -> Scores:
    """The scores of both answers of each pair, from the file or from the reward models that the config names."""
    from concordant.votes.incoming import read_scores

    if config.scores:
        return read_scores(config.scores)
    if not config.rewards:
        return {}
    from concordant.data.records import Message
    from concordant.engines.reward_model import RewardModel

    dialogues = [[*prompt, Message("assistant", answer)] for prompt, *answers in texts.values() for answer in answers]
    by_member = [RewardModel.from_pretrained(place).score(dialogues) for place in config.rewards]
    return {
        key: ([float(s[2 * i]) for s in by_member], [float(s[2 * i + 1]) for s in by_member])
        for i, key in enumerate(texts)
    }


def _text(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"cannot read {path}: {getattr(problem, 'strerror', None) or 'no UTF-8 text'}") from None


def _say(text: str) -> None:
    from concordant.stages import common

    common.message(f"votes: {text}")
