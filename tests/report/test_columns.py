"""Each number stands in the column that its name promises. All numbers differ, and all were computed by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from concordant.evaluation.compare import evaluate_policies
from concordant.evaluation.records import TextLosses
from concordant.evaluation.reward_summary import summarise_reward_model
from concordant.report.contents import survival_line
from concordant.report.terminal import print_table
from concordant.report.write import report_numbers, write_report

# Twenty prompts. Every answer has eight words, of which four stand twice.
RESPONSES = [f"w{i} x y z w{i} x y z" for i in range(20)]
PPO = {
    "gold": ("0.40", 0.4),  # ten times 0.2, ten times 0.6; error 0.046
    "judge": ("7.0", 7.0),  # ten times 5, ten times 9; error 0.46
    "win rate": ("40 %", 0.375),  # five wins, five ties, ten losses; error 0.0998, so that tens are told
    "reward": ("−30.0", -30.0),  # ten times -31, ten times -29; error 0.23
    "reward sd": ("1.0", 1.0),
    "KL": ("1.5", 1.5),  # ten times 1, ten times 2; error 0.11
    "perplexity": ("7", 7.389056),  # 16 nats over 8 tokens: e²; error 1.8
    "distinct-1": ("0.14", 23 / 160),  # x, y, z and twenty others, of 160 words
    "distinct-2": ("0.3", 42 / 140),  # x-y, y-z and forty others, of 140 pairs
    "repetition": ("0.2", 0.2),  # one of five sequences of four words
    "length": ("62.0", 62.0),  # ten times 60, ten times 64
    "ends": ("90 %", 0.9),
}
KEYS = {
    "gold": "gold_mean", "judge": "judge_mean", "win rate": "win_rate", "reward": "reward_mean",
    "reward sd": "reward_std", "KL": "kl", "perplexity": "perplexity", "distinct-1": "distinct_1",
    "distinct-2": "distinct_2", "repetition": "repetition", "length": "length_mean", "ends": "eos_fraction",
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluation(answers):
    ppo = answers(
        "ppo", gold=[0.2] * 10 + [0.6] * 10, judge=[5.0, 9.0] * 10, rewards=[-31.0, -29.0] * 10, kl=[1.0, 2.0] * 10,
        responses=RESPONSES, texts=TextLosses([5.0, 11.0], [2, 6]),
    )  # fmt: skip
    ppo = replace(ppo, lengths=[60, 64] * 10, ended=[True] * 18 + [False] * 2)
    sft = answers(
        "sft", gold=[0.12] * 5 + [0.2] * 5 + [0.7] * 10, judge=[1.0, 2.0] * 10, rewards=[-90.0, -80.0] * 10,
        kl=[0.0] * 20, responses=["yes"] * 20,
    )  # fmt: skip
    best = replace(sft, name="best_of_n", kl=None, kl_bound=0.64)
    return evaluate_policies([sft, ppo, best], "sft", 500, 0)


def table(page, title):
    """The cells of the table under a heading of the Markdown page, by row and column."""
    lines = page.split(f"\n## {title}")[1].split("\n## ")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|") and "---" not in line]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[1:]}


def number(text):
    return float(text.replace("−", "-"))


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    write_report(evaluation, folder)
    return folder


def test_the_table_of_the_page(page):
    rows = table((page / "report.md").read_text(), "Policies on the same 20 held-out prompts")
    cells = rows["ppo"]
    assert {name: cell.partition(" \\[")[0] for name, cell in cells.items()} == {
        n: told for n, (told, _) in PPO.items()
    }
    assert rows["sft (baseline)"]["gold"].startswith("0.43 ") and rows["sft (baseline)"]["win rate"] == "50 %"
    assert (rows["best\\_of\\_n"]["KL"], rows["best\\_of\\_n"]["perplexity"]) == ("≤ 0.64", "–")


def test_the_interval_in_a_cell_is_that_of_its_number(page):
    """Every mean has an interval, but where all values are equal (repetition) or there are two texts (perplexity)."""
    cells = table((page / "report.md").read_text(), "Policies on the same 20 held-out prompts")["ppo"]
    with_interval = {name for name, cell in cells.items() if "[" in cell}
    assert with_interval == {"gold", "judge", "win rate", "reward", "KL", "length", "ends"}
    for name in with_interval:
        low, high = cells[name].partition(" \\[")[2].rstrip("\\]").split(", ")
        value = PPO[name][1] * (100 if "%" in cells[name] else 1)
        assert number(low) < value < number(high)


def test_report_json(page):
    found = json.loads((page / "report.json").read_text())["policies"]["ppo"]
    assert {name: found[KEYS[name]] for name in PPO} == {n: pytest.approx(value) for n, (_, value) in PPO.items()}
    for name in ("gold_mean", "judge_mean", "win_rate", "reward_mean", "kl", "length_mean", "eos_fraction"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_the_terminal(evaluation):
    out = StringIO()
    print_table(evaluation, Console(file=out, width=300))
    header, _, *rows = out.getvalue().splitlines()
    (row,) = [row for row in rows if row.startswith("ppo ")]
    cells = [cell.strip() for cell in row.split("  ") if cell.strip()]
    names = [name.strip() for name in header.split("  ") if name.strip()]
    found = {name: cell.partition(" [")[0] for name, cell in zip(names[1:], cells[1:], strict=True)}
    assert found == {name: PPO[name][0] for name in found} and len(found) == 10


@pytest.mark.parametrize("width", range(20, 130, 3))
def test_no_column_of_the_terminal_is_squeezed(evaluation, width):
    out = StringIO()
    print_table(evaluation, Console(file=out, width=width))
    assert out.getvalue().splitlines()[0].startswith("policy  ") or width < 40


def test_the_reward_models_tables(evaluation, tmp_path):
    # 24 pairs of confidence σ(ln 3) = 0.75: 18 right. 24 of σ(ln 9) = 0.9: all right. Chosen is longer in the first 24
    # and shorter in the others.
    chosen = [1.0986124] * 18 + [-1.0986124] * 6 + [2.1972246] * 24
    model = summarise_reward_model(chosen, [0.0] * 48, [2] * 24 + [1] * 24, [1] * 24 + [2] * 24, [0.95] * 48)
    write_report(evaluation, tmp_path, reward_model=model)
    page = (tmp_path / "report.md").read_text()
    facts, *_ = page.split("\n## Reward model on 48 held-out pairs")[1].split("![")
    assert "Accuracy 88 % (95 % interval " in facts  # 42 of 48
    assert "more often than 95 % of the time (the Bayes accuracy): the reward model reaches 92 % of it" in facts
    assert "the answer of more tokens would be right 50 % (95 % interval " in facts
    # |0.75 - 0.75| and |1 - 0.9|, half of the pairs each: 0.05; (18 ln 4/3 + 6 ln 4 + 24 ln 10/9) / 48
    assert "Expected calibration error 0.05; log-loss 0.33 (95 % interval " in facts
    rows = [line.strip("| ").split(" | ") for line in page.split(facts)[1].splitlines() if line.startswith("|")]
    cells = {row[0]: [cell.partition(" \\[")[0] for cell in row[1:]] for row in rows}
    assert cells["75 to 80 %"] == ["24", "75.0 %", "75 %"]
    assert cells["90 to 95 %"] == ["24", "90.0 %", "100 %"]
    assert cells["chosen is longer"] == ["24", "75 %"] and cells["chosen is shorter"] == ["24", "100 %"]


def test_the_confidence_of_few_pairs_is_no_count_of_them(evaluation, tmp_path):
    """It is a mean of numbers between 50 and 100 %: "0.627 of 1" said nothing, and 77 % of ten pairs became 80 %."""
    gaps = [0.52] + [1.19] * 10  # σ(0.52) = 0.627 and σ(1.19) = 0.767
    model = summarise_reward_model(gaps, [0.0] * 11, [1] * 11, [1] * 11)
    write_report(evaluation, tmp_path, reward_model=model)
    page = (tmp_path / "report.md").read_text()
    assert "| 60 to 65 % | 1 | 62.7 % | 1 of 1 |" in page and "| 75 to 80 % | 10 | 76.7 % | 100 % |" in page


def test_the_two_gains_of_a_policy_are_told_apart(answers):
    """The proxy gains 2, two deviations of 1; gold gains 0.1, one deviation of 0.1."""
    sft = answers("sft", rewards=[-1.0, 1.0] * 20, gold=[0.4, 0.6] * 20)
    ppo = answers("ppo", rewards=[1.0, 3.0] * 20, gold=[0.5, 0.7] * 20)
    evaluation = evaluate_policies([sft, ppo], "sft", 300, 0)
    told = survival_line("ppo", "gold", evaluation.survival["ppo"]["gold"])
    assert told == "ppo: the proxy moved by +2 sd, gold by +1 sd; 50 % of the gain survives."
    noisy = answers("ppo", rewards=[1.0, 3.5] * 20, gold=[0.5, 0.75] * 20)
    told = survival_line("ppo", "gold", evaluate_policies([sft, noisy], "sft", 300, 0).survival["ppo"]["gold"])
    assert re.search(
        r"the proxy moved by \+2\.\d+ \(95 % interval \+2\.\d+ to \+2\.\d+\) sd, gold by \+1\.\d+ \(95", told
    )
    found = report_numbers(evaluation, None)["over_optimisation"]["ppo"]["gold"]
    assert (found["proxy_gain"]["mean"], found["gain"]["mean"]) == (pytest.approx(2.0), pytest.approx(0.1))
