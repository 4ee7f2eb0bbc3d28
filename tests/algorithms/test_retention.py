"""Against forgetting: text beside the work, answers of earlier steps, and weights that are held."""

import json

import pytest
import torch

from concordant.algorithms.replay import Remembered, Replay
from concordant.algorithms.retention import Retention, beside
from concordant.algorithms.sft import SFTObjective
from concordant.algorithms.work import Piece
from concordant.core.losses import SAMPLER_WEIGHT
from concordant.core.objective import BranchOutputs
from concordant.engines.protocol import Done
from tests.algorithms.worlds import make_ppo, moved, tree, weights_of

TEXTS = [tree([20 + i, 30 + i, 40 + i], prompt=(1,)) for i in range(25)]


def retention(learner, weight=0.5):
    return Retention(learner, TEXTS, weight, batch_size=3, seed=0)


# -- text beside the work -------------------------------------------------------------------------


def test_text_follows_the_learners_own_piece_with_its_rate_and_leaves_other_learners_alone():
    mine, other = object(), object()
    own = Piece(mine, ["answers"], SFTObjective(), rate=0.3)
    work = [
        [Piece(other, ["values"], SFTObjective(), rate=0.1), own],
        [Piece(other, ["values"], SFTObjective(), rate=1)],
    ]
    first, second = beside(retention(mine), work, step=4)
    assert [p.learner for p in first] == [other, mine, mine] and len(second) == 1
    text = first[-1]
    assert text.rate == 0.3 and text.objective.coefficient == 0.5 and len(text.trees) == 3


def test_no_window_is_both_learnt_and_measured_and_rounds_draw_others():
    kept = retention(object())
    assert len(kept.heldout) == 2 and len(kept.train) == 23
    drawn = [kept.draw(step, number) for step in range(9) for number in range(2)]
    assert not any(window is held for windows in drawn for window in windows for held in kept.heldout)
    assert len({tuple(int(w.branches[0].ids_T[0]) for w in windows) for windows in drawn}) > 10
    assert kept.draw(3, 1) == kept.draw(3, 1)


def test_a_weight_of_zero_measures_and_learns_nothing():
    ppo = make_ppo(advantage="rloo")
    work = [[Piece(ppo.actor, TEXTS[:1], SFTObjective(), rate=0.1)]]
    assert list(beside(retention(ppo.actor, weight=0.0), work, 0)) == work
    assert retention(ppo.actor, weight=0.0).evaluate()["retain/nll"] > 3


def test_the_start_is_told_at_every_evaluation_and_does_not_move():
    ppo = make_ppo(advantage="rloo", train={"learning_rate": 3e-3})
    kept = ppo.retention = retention(ppo.actor)
    kept.measure_start()
    assert kept.evaluate()["retain/start"] == kept.evaluate()["retain/nll"]
    ppo.step(0, 3e-3)
    assert kept.evaluate()["retain/start"] == kept.start != kept.evaluate()["retain/nll"]


def test_text_in_ppos_steps_is_forgotten_less():
    def text_after(weight):
        ppo = make_ppo(advantage="rloo", train={"learning_rate": 3e-3})
        ppo.retention = Retention(ppo.actor, [tree([20, 21, 22], prompt=(1,))] * 20, weight, batch_size=3, seed=0)
        for step in range(4):
            metrics = ppo.step(step, 3e-3)
        assert ("retain/nll" in metrics) == (weight > 0)
        return ppo.retention.evaluate()["retain/nll"]

    assert text_after(2.0) < text_after(0.0) - 0.1


# -- weights that are held ------------------------------------------------------------------------


def test_held_weights_are_pulled_back_and_the_penalty_is_zero_at_the_start():
    learner = make_ppo(advantage="rloo").actor
    learner.hold(TEXTS[:6], SFTObjective(), 1000.0)
    before = weights_of(learner)
    assert learner.step(1e-2).result().held == 0
    assert not moved(learner, before), "nothing pulls weights that are where they were"
    far = {}
    for _ in range(3):  # learn something else
        learner.forward_backward([tree([200, 201, 202])], SFTObjective())
        far = learner.step(1e-2).result()
    nearer = [learner.step(1e-3).result().held for _ in range(5)]
    assert far.held > 0 and nearer[-1] < nearer[0]


# -- earlier answers ------------------------------------------------------------------------------


def remembered(old):
    numbers = torch.tensor(old)
    return Remembered(
        trees=[tree([5, 6], [7])], old_logprob_N=numbers, reference_N=numbers - 1, advantage_N=numbers + 9
    )


class Says:
    def __init__(self, logprobs):
        self.logprobs = torch.tensor(logprobs)

    def forward(self, trees, want):
        return Done(BranchOutputs(logprob_N=self.logprobs))


def test_a_token_counts_by_the_ratio_of_the_present_to_the_old_probability_at_most_twice():
    """Probabilities: now 0.2, 0.9, 0.5; then 0.4, 0.1, 0.5. Ratios: 0.5, 9, 1."""
    seen = remembered(torch.tensor([0.4, 0.1, 0.5]).log().tolist()).seen_by(
        Says(torch.tensor([0.2, 0.9, 0.5]).log().tolist())
    )
    assert seen.weight_N.tolist() == pytest.approx([0.5, SAMPLER_WEIGHT, 1.0])
    assert seen.old_logprob_N.exp().tolist() == pytest.approx([0.2, 0.9, 0.5]), "the clip range is around the present"


def test_only_the_last_steps_are_kept_and_they_come_back_through_json():
    replay = Replay(2, seed=0)
    for old in ([-1.0, -2.0, -0.1], [-3.0, -4.0, -0.3], [-5.0, -6.0, -0.7]):
        one = remembered(old)
        replay.keep(one.trees, one, one.old_logprob_N)
    assert [one.old_logprob_N[0].item() for one in replay.kept] == [-3.0, -5.0]
    other = Replay(2, seed=0)
    other.load(json.loads(json.dumps(replay.state())))
    for mine, theirs in zip(replay.kept, other.kept, strict=True):
        assert mine.part([0])[1].tolist() == theirs.part([0])[1].tolist() == [0, 1, 2]
        for name in ("old_logprob_N", "reference_N", "advantage_N"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name))


def test_no_steps_keep_nothing_and_draw_nothing():
    replay = Replay(0, seed=0)
    replay.keep([tree([5])], remembered([-1.0, -1.0, -1.0]), torch.zeros(3))
    assert replay.draw(1, Says([0.0])) is None


def test_ppo_learns_from_earlier_answers_and_goes_on_exactly_after_a_resume(tmp_path):
    def trained(steps, ppo):
        for step in steps:
            metrics = ppo.step(step, 1e-3)
        return metrics, weights_of(ppo.actor)

    through = make_ppo(advantage="rloo", replay=2)
    metrics, whole = trained(range(4), through)
    assert metrics["replay/ratio/mean"] > 0
    first = make_ppo(advantage="rloo", replay=2)
    trained(range(2), first)
    first.actor.save(tmp_path)
    numbers = json.loads(json.dumps(first.numbers()))
    second = make_ppo(advantage="rloo", replay=2)
    second.actor.load(tmp_path)
    second.load_numbers(numbers)
    _, resumed = trained(range(2, 4), second)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    _, without = trained(range(4), make_ppo(advantage="rloo"))
    assert any(not torch.equal(whole[name], without[name]) for name in whole)
