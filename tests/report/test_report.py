"""One hostile report, looked at from every side."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from concordant.data.records import Message
from concordant.evaluation.compare import evaluate_policies
from concordant.evaluation.records import PolicyAnswers
from concordant.evaluation.reward_summary import summarise_reward_model
from concordant.report.blocks import Table
from concordant.report.contents import drawn_prompts, headline, report_blocks, shown_columns, survival_line
from concordant.report.curve_plots import _points
from concordant.report.curves import Curve
from concordant.report.html_page import element
from concordant.report.markdown_page import escape
from concordant.report.terminal import print_table
from concordant.report.write import report_numbers, write_report

Answers = Callable[..., PolicyAnswers]

CANARY = '<img src=x onerror="alert(1)">'
HOSTILE = [
    CANARY,
    "</p></section><script>alert(2)</script>",
    "\"'><svg onload=alert(3)>",
    "</style></title><iframe src=javascript:alert(4)>",
    "| a | b |\n|---|---|\n| `code` | [x](javascript:alert(5)) |\n\n<b>bold</b>",
    "# heading\n- item\n1. one\n```\nfence\n![x](http://example.com/x.png)\n---\n> quote **b** _i_ ~~s~~ $x_1$",
    "\x1b[31mred\x07 \u202eright to left \ud800 half a pair &lt;img&gt; &#60;img&#62;",
    "    indented\n\n\tcode\r\n\x00nul",
]
POLICIES = ["sft", CANARY, "_$\\frac{x$ [red]|`", "\x1b[2Jbest"]
KEYS = {
    "reward_mean", "reward_std", "gold_mean", "win_rate", "win_rate_low", "win_rate_high", "kl", "perplexity",
    "distinct_1", "distinct_2", "length_mean", "eos_fraction",
}  # fmt: skip


def hostile_curves() -> dict[str, Curve]:
    steps = [float(i) for i in range(1, 41)]
    ppo = [
        {"step": s, "objective/score": s / 9, "objective/kl": s / 5, "eval/gold": 0.5, "eval/reward": s, "eval/kl": s}
        for s in steps
    ]
    sft = [{"step": s, "loss": 1 / s, "token_accuracy": 0.5} for s in steps[:3]]
    return {CANARY: ppo, "_$\\frac{x$ [red]|`": ppo, "sft": sft}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, answers: Answers) -> SimpleNamespace:
    stream = np.random.default_rng(0)
    prompts = [(Message("user", text), Message("assistant", text), Message("user", text)) for text in HOSTILE]
    policies = [
        answers(
            name,
            prompts=prompts,
            responses=list(reversed(HOSTILE)),
            gold=list(stream.random(len(HOSTILE)) + i),
            rewards=list(stream.normal(size=len(HOSTILE)) + 3 * i),
            kl=float(i),
            kl_is_bound=i == 3,
            perplexity=float("inf") if i == 2 else 5.0,
        )
        for i, name in enumerate(POLICIES)
    ]
    evaluation = evaluate_policies(policies, "sft", 200, 0)
    folder = tmp_path_factory.mktemp("report")
    model = summarise_reward_model([2.0, 1.0, 0.0], [1.0, 0.5, 3.0], [3, 2, 1], [1, 2, 3], [0.9, 0.8, 0.3])
    page = write_report(
        evaluation,
        folder,
        reward_model=model,
        curves=hostile_curves(),
        side_by_side=len(HOSTILE),
        title=f"run {CANARY}",
        command=f"concordant evaluate --policies '{CANARY}=x'\n</code></pre><script>",
        notes=[HOSTILE[4]],
    )
    return SimpleNamespace(evaluation=evaluation, folder=folder, page=page, html=page.read_text(encoding="utf-8"))


class Tags(HTMLParser):
    """Every tag with its attributes, and all text, as a browser's tokeniser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_text_is_inert_in_html(report: SimpleNamespace) -> None:
    found = Tags(report.html)
    assert found.open == []
    ours = "html head meta title style body main h1 h2 h3 h4 p ul li dl dt dd table thead tbody tr th td figure img"
    assert {tag for tag, _ in found.tags} <= set(f"{ours} figcaption section div span pre code".split())
    for tag, attributes in found.tags:
        assert not [a for a in attributes if a.startswith("on") or a in ("href", "style", "srcdoc", "action")]
        if "src" in attributes:
            assert tag == "img" and (attributes["src"] or "").startswith("data:image/png;base64,")
    assert found.text.count(CANARY) >= 20  # shown as text, everywhere it was put
    assert "\x1b" not in report.html and "\x00" not in report.html and "\u202e" not in report.html


def test_html_fetches_nothing_and_carries_its_pictures(report: SimpleNamespace) -> None:
    pictures = [a for tag, a in Tags(report.html).tags if tag == "img"]
    assert len(pictures) == 4 and all(a["alt"] for a in pictures)
    policy = [
        a["content"] or "" for tag, a in Tags(report.html).tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policy) == 1 and policy[0].startswith("default-src 'none'; img-src data:;")
    style = report.html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme" in style


def test_hostile_text_is_inert_in_markdown(report: SimpleNamespace) -> None:
    text = (report.folder / "report.md").read_text(encoding="utf-8")
    rendered = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    found = Tags(rendered)
    allowed = "h1 h2 h3 p strong ul li table thead tbody tr th td img blockquote br pre code"
    assert {tag for tag, _ in found.tags} <= set(allowed.split())
    pictures = {a["src"] for tag, a in found.tags if tag == "img"}
    assert pictures == {
        "reward_comparison.png", "proxy_vs_gold.png", "rlhf_training_curves.png", "reward_calibration.png",
    }  # fmt: skip
    assert all((report.folder / str(name)).is_file() for name in pictures)
    assert CANARY in found.text
    # one table row a policy and prompt: no text broke out of its cell
    rows = rendered.split("<tr>")[1:]
    samples = [row for row in rows if row.count("<td") == 6]
    assert len(samples) == len(HOSTILE) * len(POLICIES)


@pytest.mark.parametrize("text", [*HOSTILE, "- a", "+", "1) b", "2. c", "===", "---", "a*b*c", "\\", "0.42", "a  \nb"])
def test_escaped_markdown_says_what_was_said(text: str) -> None:
    rendered = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(escape(text))
    found = Tags(rendered)
    assert {tag for tag, _ in found.tags} <= {"p", "br"}
    unprintable = "[\x00-\x1f\x7f-\x9f\u2028\u202e\ud800\ufffd\\s]"
    assert re.sub(unprintable, "", found.text) == re.sub(unprintable, "", text)


def test_numbers_stay_readable_in_markdown() -> None:
    assert escape("0.42") == "0.42"


def test_elements_escape_what_is_not_an_element() -> None:
    assert element("p", "<b>", element("i", "&")) == "<p>&lt;b&gt;<i>&amp;</i></p>"
    assert element("p", "x", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;">x</p>'
    assert element("p", element("i", "a") + "<b>") == "<p>&lt;i&gt;a&lt;/i&gt;&lt;b&gt;</p>"  # a sum is plain text


def test_report_json(report: SimpleNamespace) -> None:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    numbers = json.loads((report.folder / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert list(numbers["policies"]) == POLICIES
    for policy in numbers["policies"].values():
        assert set(policy) >= KEYS
        assert all(policy[key] is None or isinstance(policy[key], float) for key in KEYS)
    assert numbers["policies"][POLICIES[2]]["perplexity"] is None  # infinite: not known
    assert numbers["policies"]["sft"]["win_rate"] == 0.5
    assert numbers["policies"][POLICIES[3]]["kl_is_bound"] is True
    assert numbers["reward_model"]["accuracy"] == pytest.approx(2 / 3)
    assert numbers["reward_model"]["bayes_accuracy"] == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert set(numbers["over_optimisation"]) == set(POLICIES[1:])
    assert (numbers["baseline"], numbers["win_rate_by"], numbers["prompts"]) == ("sft", "gold", len(HOSTILE))


def test_pictures_are_pictures(report: SimpleNamespace) -> None:
    files = sorted(report.folder.glob("*.png"))
    assert len(files) == 4
    for file in files:
        data = file.read_bytes()
        width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        assert data.startswith(b"\x89PNG") and width > 600 and height > 300 and len(data) > 10_000


def test_terminal_prints_names_as_text(report: SimpleNamespace) -> None:
    for width in (40, 80, 200):
        out = StringIO()
        print_table(report.evaluation, Console(file=out, width=width, force_terminal=False))
        assert "\x1b" not in out.getvalue() and "\x07" not in out.getvalue()
    assert CANARY in out.getvalue() and "[red]|`" in out.getvalue() and "distinct-2" in out.getvalue()


def test_a_bare_evaluation_still_makes_a_report(tmp_path: Path, answers: Answers) -> None:
    evaluation = evaluate_policies([answers("sft", responses=["", "yes"])], "sft", 10, 0)
    page = write_report(evaluation, tmp_path / "new" / "folder", side_by_side=0)
    assert not list(page.parent.glob("*.png"))
    numbers = json.loads((page.parent / "report.json").read_text())
    assert numbers["reward_model"] == {"accuracy": None, "bayes_accuracy": None}
    assert numbers["policies"]["sft"]["win_rate"] is None
    assert "No scorer was given" in (page.parent / "report.md").read_text()


def test_one_policy_with_equal_scores_can_be_drawn(tmp_path: Path, answers: Answers) -> None:
    evaluation = evaluate_policies([answers("sft", rewards=[1.0, 1.0])], "sft", 10, 0)
    write_report(evaluation, tmp_path)
    assert (tmp_path / "reward_comparison.png").stat().st_size > 5_000


def test_side_by_side_is_drawn_by_seed_alone(answers: Answers) -> None:
    good = evaluate_policies([answers("sft", gold=[1.0] * 100)], "sft", 0, 0)
    bad = evaluate_policies([answers("ppo", gold=[i / 100 for i in range(100)])], "ppo", 0, 0)
    assert drawn_prompts(good, 8, 3) == drawn_prompts(bad, 8, 3)
    assert drawn_prompts(good, 8, 3) != drawn_prompts(good, 8, 4)
    assert drawn_prompts(good, 1000, 3) == list(range(100))


def test_headline_says_who_won_by_how_much(answers: Answers) -> None:
    base = answers("sft", gold=[0.4, 0.5, 0.4, 0.5] * 10)
    better = answers("dpo", gold=[0.7, 0.8, 0.7, 0.4] * 10)
    text = headline(evaluate_policies([base, better], "sft", 500, 0))
    assert text.startswith("By gold, dpo is best: 0.65 against sft's 0.45 (+0.20, 95 % interval +0.1")
    assert "winning 75 % (" in text and "of 40 held-out prompts" in text
    worse = answers("dpo", gold=[0.3] * 40)
    assert headline(evaluate_policies([base, worse], "sft", 500, 0)) == "By gold, no policy is better than sft (0.45)."


def test_the_report_warns_when_only_the_proxy_judged(tmp_path: Path, answers: Answers) -> None:
    policies = [answers(n, rewards=[r, r + 1]) for n, r in (("sft", 0.0), ("ppo", 1.0))]
    write_report(evaluate_policies(policies, "sft", 10, 0), tmp_path)
    assert "prove nothing about quality" in (tmp_path / "report.md").read_text()


# -- every number in its place: no two of these are alike -----------------------------------------


def of_unlike_numbers(answers: Answers) -> list[PolicyAnswers]:
    base = answers("sft", responses=["no", "yes"], gold=[0.4, 0.8], judge=[0.0, 0.1], rewards=[1.0, 2.0], kl=0.0)
    said = ["x y z w x y z w", "a b"]
    best = answers(
        "best", responses=said, gold=[0.5, 0.7], judge=[1.0, 1.5], rewards=[2.0, 5.0], kl=4.2, kl_is_bound=True,
        perplexity=7.5,
    )  # fmt: skip
    return [base, best]


def test_every_number_of_the_table_stands_under_its_name(answers: Answers) -> None:
    evaluation = evaluate_policies(of_unlike_numbers(answers), "sft", 0, 0)
    cells = {c.name: c.cell(evaluation.policies["best"]) for c in shown_columns(evaluation)}
    assert cells == {
        "gold": "0.60", "judge": "1.25", "win rate": "50 %", "reward": "3.50", "reward sd": "1.50", "KL": "≤ 4.20",
        "perplexity": "7.50", "distinct-1": "0.600", "distinct-2": "0.625", "repetition": "20 %", "length": "1.5",
        "ends": "50 %",
    }  # fmt: skip
    assert {c.name: c.cell(evaluation.policies["sft"]) for c in shown_columns(evaluation)}["KL"] == "0.00"


def test_every_number_of_report_json_stands_under_its_name(answers: Answers) -> None:
    evaluation = evaluate_policies(of_unlike_numbers(answers), "sft", 200, 0)
    numbers = report_numbers(evaluation, None)
    found = numbers["policies"]["best"]
    assert {name: found[name] for name in KEYS - {"win_rate_low", "win_rate_high"}} == pytest.approx(
        {
            "reward_mean": 3.5, "reward_std": 1.5, "gold_mean": 0.6, "win_rate": 0.5, "kl": 4.2, "perplexity": 7.5,
            "distinct_1": 0.6, "distinct_2": 0.625, "length_mean": 1.5, "eos_fraction": 0.5,
        }
    )  # fmt: skip
    assert (found["judge_mean"], found["repetition"], found["kl_is_bound"]) == (1.25, pytest.approx(0.2), True)
    assert found["win_rate_low"] < found["win_rate"] < found["win_rate_high"]
    survival = numbers["over_optimisation"]["best"]["judge"]
    assert (survival["proxy_gain"]["mean"], survival["gain"]["mean"]) == (pytest.approx(2.0), pytest.approx(1.2))
    for gain in (survival["proxy_gain"], survival["gain"]):
        assert gain["low"] <= gain["mean"] <= gain["high"]


def test_the_sentence_about_a_gain_names_both_scorers_numbers(answers: Answers) -> None:
    """The proxy gains 2 deviations of 1, gold 1 deviation of 0.1."""
    sft = answers("sft", rewards=[-1.0, 1.0] * 20, gold=[0.4, 0.6] * 20)
    ppo = answers("ppo", rewards=[1.0, 3.0] * 20, gold=[0.5, 0.7] * 20)
    survival = evaluate_policies([sft, ppo], "sft", 300, 0).survival["ppo"]["gold"]
    expected = "ppo: the proxy moved by +2.00 sd, gold by +1.00 sd; 50 % of the gain survives (50 to 50 %)."
    assert survival_line("ppo", "gold", survival) == expected


def blocks_of(evaluation, reward_model=None):
    return report_blocks(
        evaluation, reward_model=reward_model, pictures=[], reward_picture=None, side_by_side=0, seed=0, command="",
        versions={}, notes=[], findings={},
    )  # fmt: skip


def test_the_second_best_is_named_with_its_distance(answers: Answers) -> None:
    policies = [answers(n, gold=[g, g + 0.1]) for n, g in (("sft", 0.1), ("worst", 0.0), ("ppo", 0.5), ("dpo", 0.7))]
    texts = [block.text for block in blocks_of(evaluate_policies(policies, "sft", 0, 0)) if hasattr(block, "text")]
    assert "dpo is ahead of ppo, the second best, by 0.20." in texts


def test_a_winner_whose_interval_holds_zero_is_called_within_noise(answers: Answers) -> None:
    base, luck = answers("sft", gold=[0.5] * 8), answers("ppo", gold=[0.9, 0.1, 0.9, 0.2, 0.8, 0.1, 0.9, 0.2])
    assert "which is within noise" in headline(evaluate_policies([base, luck], "sft", 500, 0))
    sure = answers("ppo", gold=[0.6, 0.7] * 4)
    assert "within noise" not in headline(evaluate_policies([base, sure], "sft", 500, 0))


def test_the_reward_models_tables_show_confidence_before_truth(answers: Answers) -> None:
    """Four pairs of confidence 75 %, of which half are ranked right; the longer answer is right in three of four."""
    gap = float(np.log(3))
    model = summarise_reward_model([gap, gap, -gap, -gap], [0.0] * 4, [2, 2, 2, 1], [1, 1, 1, 2])
    evaluation = evaluate_policies([answers("sft", gold=[0.5])], "sft", 0, 0)
    tables = {block.header: block.rows for block in blocks_of(evaluation, model) if isinstance(block, Table)}
    ((_, pairs, confidence, truth),) = tables["confidence σ(|Δ|)", "pairs", "mean confidence", "ranked as people did"]
    assert (pairs, confidence, truth) == ("4", "75 %", "50 %")
    assert tables["length", "pairs", "accuracy"] == (
        ("chosen is longer", "3", "67 %"),
        ("chosen is shorter", "1", "0 %"),
    )


def test_a_diamond_has_the_proxy_above_and_the_truth_below(answers: Answers) -> None:
    evaluation = evaluate_policies(of_unlike_numbers(answers), "sft", 0, 0)
    points = {p.name: (p.kl, p.is_bound, p.heights) for p in _points(evaluation, "gold")}
    assert points["best"] == (4.2, True, (3.5, pytest.approx(0.6)))
    judged = {p.name: p.heights for p in _points(evaluation, "judge")}
    assert judged["best"] == (3.5, 1.25)
