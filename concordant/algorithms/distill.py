"""Distillation: a student learns the next-token distributions of a teacher on answers.

The student's own answers are learnt from too, so that it learns where it goes wrong (Agarwal et al. 2023, 2306.13649,
GKD). The teacher is the reference of the student's learner, which measures the divergence exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from concordant.algorithms import evidence
from concordant.algorithms.ppo_metrics import Clock
from concordant.algorithms.probe import SampleProbe
from concordant.algorithms.retention import Retention, beside
from concordant.algorithms.rollouts import Sampler
from concordant.algorithms.work import Piece, mean, run
from concordant.config.stages import DistillConfig
from concordant.core.divergence import Divergence
from concordant.core.objective import BranchOutputs, Evaluated, Outputs, Term
from concordant.core.seeding import derive
from concordant.core.trees import PromptTree, TreeBatch
from concordant.data.loader import batch_of, steps_of
from concordant.data.records import Prompt
from concordant.engines.protocol import Learner
from concordant.training.exports import exports_of


@dataclass(frozen=True, slots=True)
class DistillObjective:
    """The mean over response tokens of the divergence of the student's distribution from the teacher's, in nats."""

    divergence: Divergence

    @property
    def want(self) -> Outputs:
        return Outputs(divergence=self.divergence)

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        return {"divergence": len(batch.target_N)}

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated:
        assert out.divergence_N is not None
        return Evaluated({"divergence": Term(out.divergence_N.sum())})


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Prompts, and the answers that the data has for them; without such answers the teacher gives them."""

    prompts: Sequence[Prompt]
    trees: Sequence[PromptTree] = ()  # one for each prompt, or none


@dataclass(frozen=True, slots=True, kw_only=True)
class Pupil:
    """Who takes part in a run, beside the teacher: ``learner`` knows it as its reference."""

    learner: Learner
    sampler: Sampler  # of the student's answers
    teacher: Sampler | None  # of the teacher's answers; None where the data gives them, or nobody does
    probe: SampleProbe | None = None  # answers held-out prompts at every evaluation
    retention: Retention | None = None  # text that must not be forgotten


class Distill:
    """An algorithm for ``training.loop``. Each of its steps samples new answers, the student's own ones first."""

    metric, greater_is_better = "eval/loss", False

    def __init__(
        self,
        config: DistillConfig,
        pupil: Pupil,
        train: Questions,
        heldout: Questions,
        card: Mapping[str, Any] | None = None,
        end_ids: Sequence[int] = (),
    ) -> None:
        self.config, self.pupil, self.learner = config, pupil, pupil.learner
        self.train, self.heldout, self.end_ids = train, heldout, frozenset(end_ids)
        self.objective = DistillObjective(Divergence(config.divergence, config.beta))
        self.roles = {"policy": self.learner}
        self.exports = exports_of(self.learner, config.train.export, card or {})
        settings = config.train
        self.total_steps = steps_of(len(train.prompts), settings.batch_size, settings.epochs, settings.max_steps)
        self.last: list[PromptTree] = []  # the trees of the last step
        self._measured: list[PromptTree] | None = None  # given answers to held-out prompts

    # -- one step -------------------------------------------------------------------------------

    def step(self, step: int, learning_rate: float) -> dict[str, float]:
        clock = Clock()
        own, given = self.answers(step)
        clock.lap("rollout")
        self.last = [*own, *given]
        metrics = mean(list(run(beside(self.pupil.retention, self.work(learning_rate), step))))
        clock.lap("learn")
        branches = [branch for tree in self.last for branch in tree.branches]
        metrics |= {
            "epoch": (step + 1) * self.config.train.batch_size / len(self.train.prompts),
            "tokens": float(sum(tree.tokens for tree in self.last)),
            "samples": float(len(branches)),
            "own_answers": sum(len(tree.branches) for tree in own) / len(branches),
            "response/length": sum(branch.response_length for branch in branches) / len(branches),
            "response/eos_fraction": sum(int(b.ids_T[-1]) in self.end_ids for b in branches) / len(branches),
        }
        return metrics | evidence.examples(self.last, prompts_only=True) | clock.seconds

    def work(self, learning_rate: float) -> Iterator[Sequence[Piece]]:
        yield [Piece(self.learner, self.last, self.objective, rate=learning_rate)]

    def answers(self, step: int) -> tuple[list[PromptTree], list[PromptTree]]:
        """The student's own answers of this step, and those that it is given."""
        size, seed = self.config.train.batch_size, self.config.seed
        numbers = batch_of(step, len(self.train.prompts), size, seed)
        own = own_of(step, size, self.config.on_policy)
        return self.sample_own(numbers[:own], step), self.given(self.train, numbers[own:], derive(seed, "given", step))

    def sample_own(self, numbers: Sequence[int], step: int) -> list[PromptTree]:
        if not numbers:
            return []
        self.pupil.sampler.generator.load_weights(self.learner.publish())
        prompts, seed = [self.train.prompts[i] for i in numbers], derive(self.config.seed, "distill/own", step)
        return self.pupil.sampler(prompts, self.config.sampling, seed).trees

    def given(self, questions: Questions, numbers: Sequence[int], seed: int) -> list[PromptTree]:
        """The answers of the data, or new ones of the teacher."""
        if questions.trees or not numbers:
            return [questions.trees[i] for i in numbers]
        assert self.pupil.teacher is not None
        return self.pupil.teacher([questions.prompts[i] for i in numbers], self.config.sampling, seed).trees

    # -- evaluation -----------------------------------------------------------------------------

    def evaluate(self, step: int) -> dict[str, float]:
        """The divergence on held-out prompts, over own and given answers in the shares of the training."""
        share, probe = self.config.on_policy, self.pupil.probe
        metrics = probe(step) if probe else {}
        parts = {}
        if share < 1 and self.heldout.prompts:
            parts["given"] = (1 - share, self.measured())
        if share > 0 and probe:
            parts["own"] = (share, probe.trees)
        if not parts:
            return {}
        for name, (_, trees) in parts.items():
            metrics[f"divergence/{name}"] = self.learner.evaluate(trees, self.objective).result()["loss"]
        whole = sum(weight * metrics[f"divergence/{name}"] for name, (weight, _) in parts.items())
        metrics["loss"] = metrics["divergence"] = whole / sum(weight for weight, _ in parts.values())
        metrics |= self.pupil.retention.evaluate() if self.pupil.retention else {}
        return {f"eval/{name}": value for name, value in metrics.items()}

    def measured(self) -> list[PromptTree]:
        """Given answers to the held-out prompts, the same ones at every evaluation, also after a resume."""
        if self._measured is None:
            numbers = range(len(self.heldout.prompts))
            self._measured = self.given(self.heldout, numbers, derive(self.config.seed, "given/heldout"))
        return self._measured

    def samples(self, step: int) -> list[dict[str, Any]]:
        return self.pupil.probe.rows if self.pupil.probe else []

    def train_samples(self) -> list[dict[str, Any]]:
        return []

    # -- state ----------------------------------------------------------------------------------

    def last_batch(self) -> dict[str, Any]:
        return {"trees": [asdict(tree) for tree in self.last]}

    def numbers(self) -> dict[str, Any]:
        return {}

    def load_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Load nothing, because prompts and answers depend on the step and on the student's weights alone."""


def own_of(step: int, batch_size: int, share: float) -> int:
    """How many prompts of ``step`` the student answers itself.

    Over all steps so far they are ``share`` of the prompts, to less than one prompt.
    """
    return int((step + 1) * batch_size * share + 1e-9) - int(step * batch_size * share + 1e-9)
