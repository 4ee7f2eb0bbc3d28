"""Settings of ``concordant votes``: pairs that people vote on, and what becomes of their votes."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.data import DataConfig
from concordant.config.made import Made
from concordant.config.names import PairOrder, VotesAction, VotesForm


@dataclass(kw_only=True)
class VotesConfig(Made):
    action: VotesAction = ""  # import pairs | rater: add one, or a new token | retire a rater | rank | status | export
    database: str = "runs/votes.sqlite"  # file of the votes, or the URL of a server: postgresql://USER@HOST/NAME
    arena: str = "main"  # the question with its pairs; import makes it, with the six settings below
    question: str = "Which answer is better?"  # what raters are asked
    instructions: str = ""  # file of text that raters may read beside the pairs
    raters_per_pair: int = 1  # raters who are asked about each pair; agreement needs two
    gold_share: float = 0.1  # share of a rater's pairs that are gold pairs, while there are some new to them
    lease: float = 600.0  # seconds after which another rater may be asked about a pair that got no vote
    seed: int = 0  # seed of the order of answers, of gold pairs among others, and of a random order of pairs
    data: DataConfig = field(default_factory=DataConfig)  # pairs to vote on, or to_label.jsonl of collect
    answers: list[str] = field(
        default_factory=list
    )  # NAME=FILE …: answers by generate, two to each prompt of one policy
    policies: list[str] = field(default_factory=list)  # names of the policies of `a` and `b`, where the rows have none
    gold: bool = False  # the better answer of these pairs is known: they test raters, and are never exported
    order: PairOrder = "given"  # given | random | close: small difference of scores first | disputed: ensemble differs
    scores: str = ""  # file with id, score_a, score_b a pair: numbers, or one for each member of an ensemble
    rewards: list[str] = field(default_factory=list)  # reward models that score the pairs, instead of a file of scores
    rater: str = ""  # the name of a rater
    output: str = ""  # file that export writes; of import: also a file of the pairs that were brought in
    form: VotesForm = "pairs"  # pairs: chosen and rejected, for training; votes: every vote, as collect reads them
    keep_ties: bool = False  # write pairs whose votes tie, too; only dpo with strength label learns from them
    margin: float = 0.0  # margin that is written for a pair that all call much better; 0 writes none
    json: bool = False  # the status as JSON on stdout, for scripts
