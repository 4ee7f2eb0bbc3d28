"""Voting in a real browser, by the keyboard alone: every key, undo, a server that is away, a page that was closed."""

from __future__ import annotations

import json

import pytest

from concordant.votes.database import Away
from concordant.votes.rows import hash_of
from concordant.votes.store import Store
from tests.studio.test_browser import axe_source, chromium, served, tab_to, until
from tests.studio.visitor import TOKEN, write_run
from tests.votes.simulated import arena_with

__all__ = ["chromium"]  # a fixture
BEFORE = {"reward_mean": 0.5, "gold_mean": 0.4, "length_mean": 9.0}
GAIN = {"mean": 2.0, "low": 1.0, "high": 3.0}
REPORT = {
    "policies": {"start": BEFORE, "new": {"reward_mean": 2.5, "gold_mean": 0.2, "length_mean": 12.0}},
    "over_optimisation": {"new": {"gold": {"proxy_gain": GAIN, "gain": {"mean": -0.2, "low": -0.3, "high": -0.1}}}},
    "prompts": 60,
}


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    """A studio with an arena, the addresses of two raters, and its application."""
    runs = tmp_path_factory.mktemp("runs")
    store, _, _ = arena_with(str(runs / "votes.sqlite"), pairs=8, raters=0, raters_per_pair=2, policies=("x", "y"))
    status = {"verb": "run", "state": "finished", "step": 7, "total": 7, "message": "", "pid": 1, "host": "x"}
    (write_run(runs / "votes-1", status=status) / "pipeline.yaml").write_text("stages: {}\n")
    (runs / "votes-1" / "report").mkdir()
    (runs / "votes-1" / "report" / "report.json").write_text(json.dumps(REPORT))
    tokens = [store.add_rater(name) for name in ("ann", "bob")]
    with served(runs) as (address, app):
        yield address, tokens, app, store


def rater_page(browser, address, token, said, width=1100, scheme="light"):
    page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{address}/enter?token={token}")
    page.wait_for_url(f"{address}/ask")
    until(page, "document.activeElement.id === 'begin'")
    return page


def shown(page):
    return page.locator("#left").inner_text(), page.locator("#right").inner_text()


def state(page):
    told = "['left', 'right', 'progress', 'count'].map((id) => document.getElementById(id).textContent)"
    return page.evaluate(f"[...{told}, document.getElementById('done').hidden]")


def press(page, key):
    """Press a key and wait for the next pair, or for the end."""
    before = state(page)
    page.keyboard.press(key)
    for _ in range(400):
        if state(page) != before:
            return
        page.wait_for_timeout(25)
    pytest.fail(f"nothing happens after {key}")


def accessible(page, width):
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "[object" not in page.locator("main").inner_text()
    if axe := axe_source():
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert not [v["id"] for v in found if v["impact"] in ("serious", "critical")], found


def test_a_rater_works_by_keyboard_alone(chromium, asking):
    address, (ann, _), app, store = asking
    said: list[str] = []
    page = rater_page(chromium, address, ann, said)
    accessible(page, 1100)
    page.keyboard.press("Enter")  # the button "Begin" has the focus
    until(page, "!document.getElementById('voting').hidden")
    accessible(page, 1100)
    first = shown(page)
    page.keyboard.press("3")
    page.keyboard.press("r")
    page.keyboard.type("it is true, and kind")  # these letters are keys of votes outside the field
    page.keyboard.press("Enter")
    press(page, "ArrowLeft")
    arena = store.arena("main")
    (vote,) = store.read(arena)[1]
    assert (vote.side, vote.strength, vote.reason) == ("left", 3, "it is true, and kind")
    assert {"first": "a", "second": "b"}[vote.choice] == first[0][0]
    press(page, "u")
    assert shown(page) == first and store.counts(arena)["undone"] == 1
    for key, side in (("ArrowRight", "right"), ("t", "tie"), ("b", "bad"), ("s", "skip")):
        press(page, key)
        assert store.read(arena)[1][-1].side == side
    page.keyboard.press("i")
    until(page, "document.activeElement.id === 'begin'")
    page.keyboard.press("Enter")

    real, calls = app.state.votes.store().cast, []

    def away_at_first(*given):
        calls.append(given)
        if len(calls) == 1:
            raise Away("gone")
        return real(*given)

    app.state.votes.store().cast = away_at_first
    press(page, "ArrowRight")
    app.state.votes.store().cast = real
    assert len(calls) == 2 and calls[0] == calls[1]  # the same vote with the same key
    assert all("503" in text for text in said) and len(said) == 1
    while page.evaluate("document.getElementById('done').hidden"):
        press(page, "ArrowLeft")
    assert len(store.read(arena)[1]) == 8
    page.keyboard.press("u")
    until(page, "!document.getElementById('voting').hidden")
    press(page, "t")
    page.context.close()


def test_a_vote_of_a_closed_page_is_sent_when_the_page_opens_again(chromium, asking):
    address, (_, bob), app, store = asking
    said: list[str] = []
    page = rater_page(chromium, address, bob, said, 390, "dark")
    accessible(page, 390)
    page.keyboard.press("Enter")
    until(page, "!document.getElementById('voting').hidden")
    accessible(page, 390)
    page.route("**/api/ask/vote", lambda route: route.abort())
    page.keyboard.press("ArrowLeft")
    until(page, "document.getElementById('problem').textContent.includes('kept on this page')")
    assert sum(vote.rater == "bob" for vote in store.read(store.arena("main"))[1]) == 0
    page.unroute("**/api/ask/vote")
    page.reload()
    until(page, "document.activeElement.id === 'begin'")
    assert [vote.side for vote in store.read(store.arena("main"))[1] if vote.rater == "bob"] == ["left"]
    page.context.close()


def test_the_owner_reads_the_results_live_and_makes_a_link_by_keyboard(chromium, asking):
    address, _, app, _ = asking
    said: list[str] = []
    page = chromium.new_context(viewport={"width": 1100, "height": 800}).new_page()
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto(f"{address}/enter?token={TOKEN}")
    page.wait_for_url(f"{address}/")
    page.goto(f"{address}/votes")
    page.wait_for_selector("text=Krippendorff")
    accessible(page, 1100)
    assert "Bradley–Terry ratings" in page.locator("#results").inner_text()
    tab_to(page, "document.activeElement.id === 'name'")
    page.keyboard.type("eve")
    page.keyboard.press("Enter")
    page.wait_for_selector("#link pre")
    token = page.locator("#link pre").inner_text().partition("token=")[2]
    assert Store(app.state.settings.vote_database).tokens()[hash_of(token)][1] == "eve"
    page.goto(f"{address}/votes/policy?run=votes-1&arena=main")
    page.wait_for_selector("#ratings table")
    assert "only pleases its reward model. Answers became 3 tokens longer." in page.locator("#cheats").inner_text()
    accessible(page, 1100)
    assert not said
    page.context.close()
