"""Causes that look alike are told apart by evidence, and what only looks like a fault is left in peace."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.doctor.history import History
from concordant.doctor.monitor import Monitor
from tests.doctor.histories import CONFIG, HEALTHY, falling, first, found, rows


def test_clip_fraction_zero_is_healthy_with_one_epoch_and_one_minibatch():
    still = {"policy__clip_fraction": 0.0, "policy__approx_kl": 1e-6}
    assert found("ppo", still, {"inner_epochs": 1, "minibatches": 1}) == {}
    assert found("ppo", still) == {"clip_fraction_zero": "info"}


def test_a_fall_of_chosen_logprobs_alone_is_normal():
    assert found("dpo", {"logps__chosen": -48.0, "rewards__chosen": falling(0.0, -0.8)}) == {
        "chosen_logprob_falls": "info"
    }


def test_a_run_that_learns_late_is_given_half_of_its_time():
    def late(start, end):
        return lambda i, n: start if i < 0.4 * n else start + (end - start) * (i / n - 0.4) / 0.6

    slow = {"accuracy": late(0.5, 0.9), "bradley_terry": late(0.693, 0.3), "doctor__update__ratio": 1e-4}
    said = found("reward", slow, {"train": {"batch_size": 16, "max_steps": 120}}, steps=120)
    assert not said.keys() & {"learning_rate_too_low", "labels_random"}


def test_longer_answers_alone_are_no_fall_of_logprobs():
    assert found("dpo", {"logps__chosen": falling(-40.0, -120.0)}) == {}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, "labels_random"),
        ({"doctor__update__ratio": 1e-7, "rewards__chosen": 1e-5, "rewards__rejected": 1e-5}, "learning_rate_too_low"),
        ({"doctor__data__identical": 0.9}, "answers_identical"),
        ({"doctor__update__still": 1.0, "doctor__update__ratio": 0.0}, "part_frozen"),
        ({"rewards__margins": 0.0, "rewards__chosen": 0.0}, "dpo_reference_is_policy"),
    ],
)
def test_dpo_stuck_at_ln_2_has_five_causes(changes, cause):
    stuck = {"loss": 0.6931, "rewards__accuracies": 0.5, "rewards__margins": lambda i, n: 1e-3 * (-1) ** i}
    assert first("dpo", stuck | changes) == cause


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, "kl_negative"),
        ({"doctor__rollout__logprob_gap": 0.3}, "sampler_differs"),
        ({"doctor__response__after_end": 0.2}, "tokens_after_end"),
        ({"doctor__ratio__start": 0.2, "doctor__rollout__logprob_gap": 0.2}, "dropout_on"),
        ({"objective__kl": falling(-4.0, -6.0)}, "reference_not_start"),
        ({"doctor__reference__logprob": falling(-8.0, -6.0)}, "reference_drifts"),
    ],
)
def test_negative_kl_has_six_names(changes, cause):
    assert first("ppo", {"objective__kl": falling(0.0, -3.0)} | changes) == cause


def test_a_symptom_is_not_said_where_a_cause_is_known():
    both = found("ppo", {"objective__kl": falling(0.0, -3.0), "doctor__rollout__logprob_gap": 0.3})
    assert "kl_negative" not in both and "sampler_differs" in both


def test_a_difference_of_the_sampler_that_was_accepted_is_a_warning():
    sick, cut = {"doctor__rollout__logprob_gap": 0.3}, {"sampling": {"top_p": 0.9}}
    assert found("ppo", sick, cut)["sampler_differs"] == "error"
    assert found("ppo", sick, {**cut, "allow_truncated_sampling": True})["sampler_differs"] == "warning"
    assert found("ppo", sick, {"allow_truncated_sampling": True})["sampler_differs"] == "error", "for another reason"


def test_answers_that_are_sampled_ahead_are_not_called_stale():
    older = {"doctor__rollout__logprob_gap": falling(0.0, 0.4)}
    assert found("ppo", older)["stale_rollouts"] == "error"
    assert "stale_rollouts" not in found("ppo", older, {"cluster": {"max_lag": 1}})


def test_kl_that_is_negative_by_chance_is_no_finding():
    assert "kl_negative" not in found("ppo", {"objective__kl": -0.3, "doctor__objective__kl_error": 0.5})


# -- schedules and sizes that look like faults ----------------------------------------------------


@pytest.mark.parametrize(
    "stage, loss, healthy", [("sft", "loss", falling(4.0, 1.0)), ("reward", "bradley_terry", falling(0.69, 0.45))]
)
def test_one_bad_batch_is_no_rate_that_is_too_high(stage, loss, healthy):
    spike = {loss: lambda i, n: 9.0 if i == 30 else healthy(i, n), "doctor__update__ratio": 0.1}
    assert found(stage, spike) == {}
    broken = {loss: lambda i, n: 9.0 if i >= 30 else healthy(i, n), "doctor__update__ratio": 0.1}
    assert first(stage, broken) == "learning_rate_too_high"


def test_warming_up_is_no_low_rate_and_no_frozen_weight():
    warming = {
        "loss": 4.0,
        "doctor__update__ratio": 1e-7,
        "doctor__update__still": 0.9,
        "learning_rate": lambda i, n: 1e-6 * i / n,
    }
    assert found("sft", warming, {"train": {"learning_rate": 1e-5}}) == {"loss_not_falling": "info"}


def test_a_tenth_of_a_run_is_too_early_for_what_takes_time():
    slow = {"loss": 4.0, "doctor__update__ratio": 1e-6}
    assert found("sft", slow, {"train": {"max_steps": 480}}) == {}
    assert first("sft", slow, {"train": {"max_steps": 48}}) == "learning_rate_too_low"


def test_a_batch_that_is_all_the_data_comes_again_every_epoch():
    assert (
        found("dpo", {"doctor__data__batch_id": 7.0, "doctor__data__first_id": 7.0, "epoch": lambda i, n: i + 1.0})
        == {}
    )


# -- a doctor who faints is worse than none -------------------------------------------------------

ODD = st.sampled_from([0.0, 1.0, -3.0, 1e-12, 1e12, math.nan, math.inf, None])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(HEALTHY)), st.data())
def test_no_rule_raises_whatever_was_logged(stage, data):
    """Metrics that are missing, not finite or out of every range from some row on; settings that are not there."""
    names = sorted(rows(stage, 1)[0].keys() - {"step"})
    odd = data.draw(st.dictionaries(st.sampled_from(names), ODD, max_size=12))
    since, whole = data.draw(st.integers(0, 20)), data.draw(st.booleans())
    monitor = Monitor(CONFIG[stage] if whole else {"verb": stage})
    for i, row in enumerate(rows(stage, 24)):
        changed = row | odd if i >= since else row
        for finding in monitor.see({k: v for k, v in changed.items() if v is not None}):
            assert finding.seen and finding.cause and finding.cure
            finding.as_event()


def test_a_step_of_several_passes_moves_the_weights_several_times():
    """24 steps of 5e-4, half of the run, come to 1.2 % of the weights' norm in one pass each, 4.8 % in two of two."""
    still = {"objective__kl": 0.001, "doctor__update__ratio": 5e-4}
    assert "learning_rate_too_low" in found("ppo", still, {"inner_epochs": 1, "minibatches": 1})
    for passes in ({"inner_epochs": 2, "minibatches": 2}, {"inner_epochs": 4, "minibatches": 1}):
        assert "learning_rate_too_low" not in found("ppo", still, passes)


def test_a_kl_below_zero_on_average_is_found_though_each_step_is_noisy():
    """Five steps of -0.8 with a standard error of 0.4 each: the mean's is 0.18, so it is 4.5 errors below 0."""
    noisy = {"objective__kl": -0.8, "doctor__objective__kl_error": 0.4}
    assert "kl_negative" in found("ppo", noisy, {"reference": "other"})
    assert "kl_negative" not in found("ppo", {**noisy, "doctor__objective__kl_error": 0.6}, {"reference": "other"})


def test_a_loss_that_does_not_start_at_ln_2_is_not_compared_with_it():
    """IPO's loss is (log-ratio - 1 / 2β)², 25 at the start with β 0.1; of the sigmoid loss 18 would be far too much."""
    large = {"loss": falling(25.0, 18.0), "doctor__update__ratio": 0.01}
    assert found("dpo", large, {"loss": "ipo"}) == {}
    assert "learning_rate_too_high" in found("dpo", large, {"loss": "sigmoid"})


def test_progress_is_a_share_of_all_epochs():
    for epochs, expected in ((1.0, 0.5), (10.0, 0.05)):
        history = History({"train": {"epochs": epochs}})
        history.add({"step": 1, "epoch": 0.5})
        assert history.progress == pytest.approx(expected)


def test_a_change_is_counted_in_standard_errors_of_the_means():
    """1, 3, 1, 3, 1 and two more: both variances are 0.96, so a mean of five has an error of √(0.96 / 4)."""
    history = History()
    for step, value in enumerate([1, 3, 1, 3, 1, 3, 5, 3, 5, 3]):
        history.add({"step": step + 1, "x": value})
    change = history.change("x", 5)
    assert (change.before, change.after, change.by) == (pytest.approx(1.8), pytest.approx(3.8), pytest.approx(2.0))
    assert change.z == pytest.approx(2.0 / (2 * 0.96 / 4) ** 0.5)


def test_a_finding_that_grows_graver_is_said_again_and_one_that_does_not_is_not():
    """Equal answers in a tenth of the pairs, later in half of them: a warning, then an error, once each."""
    monitor, said = Monitor(CONFIG["dpo"]), []
    for row in rows("dpo", 24, doctor__data__identical=lambda i, n: 0.1 if i < 12 else 0.5):
        said += [(f.rule, f.severity) for f in monitor.see(row)]
    assert said == [("answers_identical", "warning"), ("answers_identical", "error")]
    assert [f.severity for f in monitor.ranked()] == ["error"]


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"policy_loss": "gspo", "clip": 3e-4, "clip_high": 4e-4}, {"policy__clip_fraction": 0.5}),
        ({"policy_loss": "cispo", "clip_high": 4.0}, {"policy__clip_fraction": 0.0, "policy__approx_kl": 1e-6}),
    ],
)
def test_a_loss_that_clips_no_token_is_not_read_as_one_that_does(settings, changes):
    """GSPO's bounds are so narrow by design that half of the tokens may be clipped, and CISPO's are seldom reached."""
    about_clips = {"clip_too_narrow", "clip_fraction_high", "clip_fraction_zero", "too_many_inner_steps"}
    as_ppo = {"clip": 3e-4} if settings["policy_loss"] == "gspo" else {}
    assert not about_clips & set(found("ppo", changes, settings))
    assert about_clips & set(found("ppo", changes, as_ppo)), "the same numbers of plain PPO are a finding"
