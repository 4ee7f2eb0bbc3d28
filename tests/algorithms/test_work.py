"""Steps are work: pieces of one learner add up, each by its own denominator, and learners do not wait for another."""

import pytest
import torch

from concordant.algorithms.sft import SFTObjective
from concordant.algorithms.supervised import Course, Examples, Supervised
from concordant.algorithms.work import Piece, run
from concordant.config.train import TrainConfig
from concordant.core.objective import Scaled
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.engines.protocol import Done, StepMetrics
from tests.algorithms.worlds import tree
from tests.engines.tiny import tiny_policy

ANSWERS = [tree([8, 9], prompt=(5, 6)), tree([10, 11, 12], prompt=(5, 7))]
TEXT = [tree(list(range(20, 60)), prompt=(1,))]  # many tokens: a shared denominator would drown the answers
TRAIN = TrainConfig(batch_size=2, max_steps=3, max_grad_norm=0.0)


def learner():
    return LocalLearner(PolicyNetwork(tiny_policy()), TRAIN)


def sft(kind=Supervised):
    examples = Examples(ANSWERS, lambda _: SFTObjective())
    return kind(learner(), examples, Examples([], examples.objective), Course(config=TRAIN, seed=0))


class WithPretraining(Supervised):
    """InstructGPT's mix: a piece of plain text in every step, half as heavy as the answers."""

    mix = 0.5

    def work(self, step, learning_rate):
        for pieces in super().work(step, learning_rate):
            objective = Scaled(SFTObjective(), self.mix, "ptx/")
            yield [*pieces, Piece(self.learner, TEXT, objective, rate=learning_rate)]


def gradient_of(pieces):
    """Of one round, taken from the learner just before its step."""
    seen = []
    of = pieces[0].learner
    step = of.step
    of.step = lambda rate: seen.append(torch.cat([p.grad.flatten().clone() for p in of.parameters])) or step(rate)
    metrics = list(run([pieces]))
    return seen[0], metrics[0]


def test_a_second_piece_has_its_own_denominator():
    mixed, _ = gradient_of(next(sft(WithPretraining).work(0, 1e-3)))
    answers, _ = gradient_of([Piece(learner(), ANSWERS, SFTObjective(), rate=1e-3)])
    text, _ = gradient_of([Piece(learner(), TEXT, SFTObjective(), rate=1e-3)])
    torch.testing.assert_close(mixed, answers + 0.5 * text, rtol=1e-4, atol=1e-7)


def test_a_second_piece_needs_no_new_loop_and_its_numbers_have_names():
    plain, mixed = sft(), sft(WithPretraining)
    before, metrics = plain.step(0, 1e-3), mixed.step(0, 1e-3)
    assert metrics["nll"] == before["nll"] and metrics["token_accuracy"] == before["token_accuracy"]
    assert metrics["loss"] == pytest.approx(metrics["nll"] + 0.5 * metrics["ptx/nll"])
    assert "ptx/token_accuracy" in metrics and mixed.learner.version == 1


class Far:
    """A learner on another machine, which notes the order of what it is asked and of what is waited for."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def note(self, what, value):
        self.log.append(f"{self.name} {what}")
        wait = lambda: self.log.append(f"wait for {self.name}") or value  # noqa: E731
        return type("Pending", (), {"result": staticmethod(wait)})()

    def forward_backward(self, trees, objective):
        return self.note("learns", {"loss": 1.0, "far": 3.0})

    def step(self, rate):
        return self.note("steps", StepMetrics(grad_norm=rate, skipped=False))

    def discard(self):
        self.log.append(f"{self.name} discards")


def test_learners_work_at_once_and_step_once_a_round():
    log = []
    critic, policy = Far("critic", log), Far("policy", log)
    pieces = [Piece(of, ANSWERS, SFTObjective(), rate=1.0) for of in (critic, policy, critic)]
    list(run([pieces, pieces]))
    first = log[: len(log) // 2]
    assert first[:5] == ["critic learns", "critic learns", "critic steps", "policy learns", "policy steps"]
    assert all(line.startswith("wait") for line in first[5:]) and first == log[len(log) // 2 :]


def test_a_piece_that_says_stop_leaves_its_step_out_and_ends_the_work():
    log = []
    critic, policy = Far("critic", log), Far("policy", log)
    stops = iter([False, True])
    pieces = [
        Piece(critic, ANSWERS, SFTObjective(), rate=1.0, prefix="value/"),
        Piece(policy, ANSWERS, SFTObjective(), rate=2.0, stop=lambda metrics: metrics["far"] == 3 and next(stops)),
    ]
    first, second = run([pieces] * 3)
    assert (first["grad_norm"], first["value/grad_norm"], "policy/stopped_early" in first) == (2.0, 1.0, False)
    assert "grad_norm" not in second and second["value/grad_norm"] == 1.0 and second["policy/stopped_early"] == 1
    steps = [line for line in log if not line.startswith("wait")]
    assert steps[-4:] == ["critic learns", "critic steps", "policy learns", "policy discards"]
    assert len(steps) == 8


def test_one_skipped_update_is_told_though_another_was_taken():
    class Skips(Far):
        def step(self, rate):
            return Done(StepMetrics(grad_norm=1.0, skipped=True))

    pieces = [Piece(of, ANSWERS, SFTObjective(), rate=1.0) for of in (Skips("critic", []), Far("policy", []))]
    assert list(run([pieces]))[0]["skipped"] == 1.0
