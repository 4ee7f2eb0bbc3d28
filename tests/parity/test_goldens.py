"""Our losses and gradients are those that TRL gave on the same batch, without TRL; ``make parity`` asks TRL again."""

from __future__ import annotations

import math

import pytest
import torch

from tests.parity import case, compare, explained, ours, peer_files
from tests.parity.figures import Figures, gradient_error, norm, relative, sketch, sketch_error, vector_error

VERSIONS, TRAINERS = peer_files.read_golden(compare.TRAINERS_GOLDEN)
PPO_VERSIONS, PPO = peer_files.read_golden(compare.PPO_GOLDEN)
GOLDENS = TRAINERS | PPO
SAME = [*TRAINERS, "bco/all answers", "ppo/policy full", "ppo/policy short", "ppo/value full"]
DIFFERENT = ["dpo/smoothed, TRL's sigmoid", "dpo/sigmoid uneven", "orpo/orpo", *case.RLOO_SAMPLERS]  # explained below


@pytest.fixture(scope="module")
def made() -> dict[str, Figures]:
    return ours.all_figures(peer_files.figures_of(TRAINERS | PPO))


@pytest.mark.parametrize("name", [n for n in SAME if n not in DIFFERENT])
def test_loss_and_gradient_are_trl_s(made, name):
    assert relative(made[name].loss, GOLDENS[name]["loss"]) < compare.TOLERANCE
    assert sketch_error(made[name].gradient, GOLDENS[name]["gradient"]) < compare.TOLERANCE


@pytest.mark.parametrize("name", [n for n in TRAINERS if "metrics" in TRAINERS[n] and n not in DIFFERENT])
def test_metrics_are_trl_s(made, name):
    metrics = compare.METRICS.get(name, TRAINERS[name]["metrics"])
    apart = {
        metric
        for metric in metrics
        if relative(made[name].metrics[metric], TRAINERS[name]["metrics"][metric]) > compare.METRIC_TOLERANCE
    }
    assert {f"{name}: {metric}" for metric in apart} == {
        known for known in compare.KNOWN if known.startswith(f"{name}:")
    }


@pytest.mark.parametrize("column", ["old_logprob", "reference_logprob", "return"])
def test_ppo_s_numbers_a_token_are_trl_s(made, column):
    name = "ppo/policy full"
    assert vector_error(made[name].tokens[column], PPO[name]["tokens"][column]) < compare.TOLERANCE


@pytest.mark.parametrize("name", case.POLICIES)
def test_group_advantages_are_trl_s(made, name):
    rows = {row.what.partition(": ")[2]: row for row in compare.policy(name, made, {**peer_files.figures_of(TRAINERS)})}
    assert all(row.passed for row in rows.values())
    assert rows["advantages"].known == (case.POLICIES[name].advantage == "grpo")
    exact = "advantages, 1e-4 added to the deviation" if rows["advantages"].known else "advantages"
    assert rows[exact].error < compare.TOLERANCE and rows["old log-probs"].error < compare.TOLERANCE


@pytest.mark.parametrize("name", case.RLOO_SAMPLERS)
def test_trl_s_rloo_has_one_ratio_for_an_answer(made, name):
    """At the first update every ratio is 1, so the gradients are equal, and the losses are sums of other things."""
    mine, theirs = made[name], TRAINERS[name]
    for column in ("old_logprob", "advantage"):
        assert vector_error(mine.tokens[column], theirs["tokens"][column]) < compare.TOLERANCE
    apart = sketch_error(mine.gradient, theirs["gradient"])
    assert apart < compare.TOLERANCE if name == "rloo/first update" else apart > 0.01
    assert relative(mine.loss, theirs["loss"]) > 0.01
    one = explained.rloo_one_ratio(theirs["tokens"])
    assert abs(one.loss - theirs["loss"]) < compare.TOLERANCE
    assert sketch_error(one.gradient, theirs["gradient"]) < compare.TOLERANCE


def test_bco_s_numbers_are_trl_s_and_its_shift_is_between_the_sides(made):
    for name, mine in (
        ("bco/all answers", made["bco/all answers"]),
        ("bco/fewer bad answers", explained.bco_mean_of_all(4)),
    ):
        for metric, number in PPO[name]["metrics"].items():
            assert relative(mine.metrics[metric], number) < compare.METRIC_TOLERANCE
        assert sketch_error(mine.gradient, PPO[name]["gradient"]) < compare.TOLERANCE
    mine, theirs = made["bco/fewer bad answers"], PPO["bco/fewer bad answers"]
    assert abs(mine.metrics["rewards/anchor"] - theirs["metrics"]["rewards/anchor"]) > 0.01
    assert sketch_error(mine.gradient, theirs["gradient"]) > 0.001


def test_whitening_differs_by_n_minus_1_alone(made):
    mine, theirs = (x["ppo/policy full"] for x in (made, PPO))
    n = len(mine.tokens["advantage"])
    by_n_minus_1 = [a * math.sqrt((n - 1) / n) for a in mine.tokens["advantage"]]
    assert vector_error(by_n_minus_1, theirs["tokens"]["advantage"]) < compare.TOLERANCE


def test_trl_s_sigmoid_leaves_label_smoothing_out_and_ours_does_not(made):
    ignored = TRAINERS["dpo/smoothed, TRL's sigmoid"]["loss"]
    assert ignored == TRAINERS["dpo/sigmoid"]["loss"]
    assert abs(made["dpo/smoothed"].loss - ignored) > 0.01


def test_trl_weighs_uneven_micro_batches_alike_and_we_weigh_pairs(made):
    theirs = TRAINERS["dpo/sigmoid uneven"]["gradient"]
    assert gradient_error(made["dpo/sigmoid uneven"].gradient, made["dpo/sigmoid"].gradient) < compare.TOLERANCE
    assert sketch_error(made["dpo/sigmoid uneven"].gradient, theirs) > 0.1
    assert sketch_error(explained.dpo_mean_of_means((4, 2)).gradient, theirs) < compare.TOLERANCE


def test_trl_s_orpo_learns_the_prompt_too(made):
    theirs = TRAINERS["orpo/orpo"]
    assert abs(made["orpo/orpo"].loss - theirs["loss"]) > 0.01
    with_prompts = explained.orpo_with_prompts()
    assert relative(with_prompts.loss, theirs["loss"]) < compare.TOLERANCE
    assert sketch_error(with_prompts.gradient, theirs["gradient"]) < compare.TOLERANCE


def test_trl_s_score_lies_one_past_the_end(made):
    past = PPO["ppo/past the end short"]["tokens"]
    mine = made["ppo/policy short"].tokens["return"]
    assert vector_error(mine, PPO["ppo/policy short"]["tokens"]["return"]) > 0.01
    moved = explained.returns_past_the_end("short", torch.tensor(past["old_value"])).tolist()
    assert vector_error(moved, past["return"]) < compare.TOLERANCE
    values = explained.values_past_the_end("short", past)
    assert sketch_error(values.gradient, PPO["ppo/value short"]["gradient"]) < compare.TOLERANCE


def test_goldens_say_which_versions_gave_them():
    assert VERSIONS["trl"] == "1.16.0" and PPO_VERSIONS["trl"] == "1.12.0"


# -- the comparison itself --------------------------------------------------------------------------


def test_weights_are_the_formula_s():
    weights = dict(case.language_model(case.REFERENCE).named_parameters())
    k = sorted(weights).index("model.layers.1.mlp.down_proj.weight")
    phase = 0.6180339887 * 38**2 + k  # the second row's sixth column: j = 37
    wave = 0.85 * math.sin(phase) + 0.15 * math.sin(phase + 10)
    weight = weights["model.layers.1.mlp.down_proj.weight"]
    assert weight.shape == (16, 32)
    assert weight[1, 5].item() == pytest.approx(math.sqrt(2 / 32) * wave, abs=1e-7)


def test_a_sketch_sees_an_error_of_a_thousandth():
    gradient = {"a": torch.linspace(-1, 1, 200).reshape(10, 20), "b": torch.full((7,), 0.3)}
    golden = sketch(gradient)
    assert sketch_error(gradient, golden) < 1e-9
    size = norm(gradient)
    for seed in range(20):
        error = torch.randn(10, 20, generator=torch.Generator().manual_seed(seed))
        error *= 1e-3 * size / error.norm()
        wrong = gradient | {"a": gradient["a"] + error}
        assert gradient_error(wrong, gradient) == pytest.approx(1e-3, rel=1e-3)
        assert sketch_error(wrong, golden) > compare.TOLERANCE, seed


def test_a_parameter_that_one_side_lacks_is_no_parity():
    gradient = {"a": torch.ones(2), "b": torch.ones(2)}
    assert gradient_error({"a": torch.ones(2)}, gradient) == math.inf
    assert sketch_error({"a": torch.ones(2)}, sketch(gradient)) == math.inf


@pytest.mark.parametrize(
    ("error", "known", "verdict", "passed"),
    [(1e-6, False, "ok", True), (1e-3, False, "OFF", False), (1e-3, True, "known", True), (1e-6, True, "stale", False)],
)
def test_a_row_is_off_beyond_the_tolerance_and_a_known_difference_must_be_there(error, known, verdict, passed):
    row = compare.Row("a loss", 1.0, 1.0 + error, error, known)
    assert (row.verdict, row.passed) == (verdict, passed)


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.001, 1)])
def test_exit_code_says_whether_all_is_equal(made, tmp_path, monkeypatch, capsys, factor, code):
    """A peer of our own making, then one whose SFT loss is a thousandth off."""
    sft = made["sft/chosen"]
    known = {name.partition(":")[0] for name in compare.KNOWN}
    peer = {name: figures for name, figures in made.items() if not name.startswith(("ppo/", "policy/", "rloo/"))} | {
        "sft/chosen": Figures(sft.loss * factor, {}, sft.gradient),
        **{n: Figures(made[n].loss, made[n].metrics | {"rewards/margins": 99.0}, made[n].gradient) for n in known},
        "orpo/orpo": explained.orpo_with_prompts(),
        "bco/fewer bad answers": explained.bco_mean_of_all(4),
        "dpo/smoothed, TRL's sigmoid": made["dpo/sigmoid"],
        "dpo/sigmoid uneven": explained.dpo_mean_of_means((4, 2)),
    }
    peer_files.write(tmp_path, peer, ("torch",))
    monkeypatch.setattr(compare, "TRAINERS_GOLDEN", tmp_path / peer_files.FIGURES)
    assert compare.main(tmp_path, None, write_goldens=False) == code
    assert ("OFF" in capsys.readouterr().out) == bool(code)
