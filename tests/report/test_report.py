"""One hostile report, looked at from every side."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
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
from concordant.evaluation.records import PolicyAnswers, TextLosses
from concordant.evaluation.reward_summary import summarise_reward_model
from concordant.report.contents import drawn_prompts
from concordant.report.curves import Curve
from concordant.report.headline import headline
from concordant.report.html_page import STYLE, element
from concordant.report.markdown_page import escape
from concordant.report.run_facts import Source
from concordant.report.terminal import print_table
from concordant.report.write import write_report
from concordant.runs.facts import RunFacts, read_facts

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
# A link that can only be a path: no scheme, no host, no query, and nothing that Markdown would end it at.
RELATIVE = r"\.\./[\w./%~-]+"
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


def hostile_run(folder: Path) -> RunFacts:
    """A run in a folder whose name is the beginning of a script, as seen from the report beside it."""
    run = folder.parent / f"{folder.name} javascript:alert(6)" / "a](http:/x) b"
    run.mkdir(parents=True)
    for name in ("config.yaml", "metrics.jsonl"):
        (run / name).write_text("")
    return replace(
        read_facts(run),
        settings={"verb": CANARY, "model.name": HOSTILE[4], "data.path": HOSTILE[2], "reward": [HOSTILE[5]]},
        result={"exported_step": CANARY, "total_steps": HOSTILE[0], "data": HOSTILE[3], "environment": {}},
        started=CANARY,
    )


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
            kl=None if i == 3 else [float("inf") if i == 2 else float(i)] * len(HOSTILE),
            kl_bound=3.0 if i == 3 else None,
            texts=TextLosses([10.0, 6.0], [5, 5]),
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
        facts=[(CANARY, HOSTILE[5])],
        sources=[Source(CANARY, HOSTILE[1], hostile_run(folder), 1234)],
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
        if tag not in ("meta", "img", "source", "br", "hr"):
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
    assert {tag for tag, _ in found.tags} <= set(
        f"{ours} a picture source figcaption section div span pre code".split()
    )
    for tag, attributes in found.tags:
        assert not [a for a in attributes if a.startswith("on") or a in ("style", "srcdoc", "action")]
        for source in ("src", "srcset"):
            if source in attributes:
                assert tag in ("img", "source")
                assert re.fullmatch(r"data:image/png;base64,[\w+/=]+", attributes[source] or "")
        if "href" in attributes:
            assert tag == "a" and re.fullmatch(RELATIVE, attributes["href"] or "")
    assert found.text.count(CANARY) >= 20  # shown as text, everywhere it was put
    assert "\x1b" not in report.html and "\x00" not in report.html and "\u202e" not in report.html


def test_html_fetches_nothing_and_carries_its_pictures(report: SimpleNamespace) -> None:
    pictures = [a for tag, a in Tags(report.html).tags if tag == "img"]
    assert len(pictures) == 5 and all(a["alt"] for a in pictures)
    dark = [a for tag, a in Tags(report.html).tags if tag == "source"]
    assert len(dark) == 5 and {a["media"] for a in dark} == {"(prefers-color-scheme: dark)"}
    assert not {a["srcset"] for a in dark} & {a["src"] for a in pictures}
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
    allowed = "h1 h2 h3 p strong ul li table thead tbody tr th td img blockquote br pre code a"
    assert {tag for tag, _ in found.tags} <= set(allowed.split())
    links = [a["href"] or "" for tag, a in found.tags if tag == "a"]
    assert len(links) == 2 and all(re.fullmatch(RELATIVE, link) for link in links)
    pictures = {a["src"] for tag, a in found.tags if tag == "img"}
    assert pictures == {
        "reward_comparison.png", "ratings.png", "proxy_vs_gold.png", "rlhf_training_curves.png",
        "reward_calibration.png",
    }  # fmt: skip
    assert all((report.folder / str(name)).is_file() for name in pictures)
    assert CANARY in found.text
    # one table row a policy and prompt: no text broke out of its cell
    rows = rendered.split("<tr>")[1:]
    samples = [row for row in rows if row.count("<td") == 6]
    ratings = len(POLICIES)  # rows that have as many cells
    assert len(samples) == len(HOSTILE) * len(POLICIES) + ratings


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
    assert numbers["policies"][POLICIES[2]]["kl"] is None  # infinite: not known
    assert numbers["policies"]["sft"]["perplexity"] == pytest.approx(np.exp(1.6))
    assert numbers["policies"]["sft"]["win_rate"] == 0.5
    assert numbers["policies"][POLICIES[3]]["kl_is_bound"] is True
    assert numbers["reward_model"]["accuracy"] == pytest.approx(2 / 3)
    assert numbers["reward_model"]["bayes_accuracy"] == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert set(numbers["over_optimisation"]) == set(POLICIES[1:])
    assert (numbers["baseline"], numbers["win_rate_by"], numbers["prompts"]) == ("sft", "gold", len(HOSTILE))


def test_pictures_are_pictures(report: SimpleNamespace) -> None:
    files = sorted(report.folder.glob("*.png"))
    assert len(files) == 5
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
    assert text.startswith("By gold, dpo is best: 0.650 against sft's 0.450, +0.200 (95 % interval +0.1")
    assert "winning 75 % (" in text and "of 40 held-out prompts" in text


def test_the_report_warns_when_only_the_proxy_judged(tmp_path: Path, answers: Answers) -> None:
    policies = [answers(n, rewards=[r, r + 1]) for n, r in (("sft", 0.0), ("ppo", 1.0))]
    write_report(evaluate_policies(policies, "sft", 10, 0), tmp_path)
    assert "proves nothing about quality" in (tmp_path / "report.md").read_text()


def test_what_is_wide_scrolls_in_a_box_of_its_own(report: SimpleNamespace) -> None:
    """So that the page itself never scrolls sideways on a phone."""
    assert re.search(r"\.scroll \{ [^}]*overflow-x: auto", STYLE)
    boxes = report.html.count('<div class="scroll">')
    assert boxes == report.html.count("<table>") + report.html.count("<picture>") == 5 + 5
    for wide in ("<table>", "<picture>"):
        assert report.html.count(f'<div class="scroll">{wide}') == report.html.count(wide)
