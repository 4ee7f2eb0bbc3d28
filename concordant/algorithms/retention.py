"""Against forgetting: text that the model must go on to predict well is learnt beside every update of the policy.

This is the pretraining mix (PTX) of Ouyang et al. 2022, 2203.02155, eq. 2. It needs no new loop: the text is one more
piece in every round of work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from concordant.algorithms.sft import SFTObjective
from concordant.algorithms.work import Piece
from concordant.core.objective import Scaled
from concordant.core.seeding import python_stream
from concordant.core.trees import PromptTree
from concordant.engines.protocol import Learner

PREFIX = "retain/"  # of the text's terms and metrics
HELD_OUT = 10  # one window of so many is not learnt; it measures what the policy forgets
MEASURED = 64  # windows that are measured at most


class Retention:
    """The text of a run. ``weight`` counts its loss, in nats a token; with 0 the text is only measured."""

    def __init__(
        self, learner: Learner, texts: Sequence[PromptTree], weight: float, batch_size: int, seed: int
    ) -> None:
        self.learner, self.weight, self.batch_size, self.seed = learner, weight, batch_size, seed
        self.heldout = texts[HELD_OUT - 1 :: HELD_OUT][:MEASURED]
        self.train = [text for i, text in enumerate(texts, 1) if i % HELD_OUT]
        self.start: float | None = None  # nats a token on ``heldout`` before the first step, once it was measured

    def draw(self, step: int, number: int) -> list[PromptTree]:
        """The windows that are learnt in round ``number`` of a step."""
        stream = python_stream(self.seed, "retain/text", step, number)
        return stream.sample(self.train, min(self.batch_size, len(self.train)))

    def evaluate(self) -> dict[str, float]:
        """How well the learner predicts the held-out windows; empty if the text is too short for one."""
        if not self.heldout:
            return {}
        metrics = self.learner.evaluate(self.heldout, SFTObjective()).result()
        found = {f"{PREFIX}nll": metrics["nll"], f"{PREFIX}token_accuracy": metrics["token_accuracy"]}
        return found if self.start is None else found | {f"{PREFIX}start": self.start}

    def measure_start(self) -> None:
        """Measure the learner's first weights. A resumed run has them too, before its checkpoint is read."""
        self.start = self.evaluate().get(f"{PREFIX}nll")


def beside(retention: Retention | None, work: Iterable[Sequence[Piece]], step: int) -> Iterator[Sequence[Piece]]:
    """The rounds of ``work``. Where the learner has a piece, a piece of the text follows with the same rate."""
    for number, pieces in enumerate(work):
        rates = [piece.rate for piece in pieces if retention and piece.learner is retention.learner]
        if retention is None or not retention.weight or not rates:
            yield pieces
            continue
        objective = Scaled(SFTObjective(), retention.weight, PREFIX)
        yield [*pieces, Piece(retention.learner, retention.draw(step, number), objective, rate=rates[-1])]
