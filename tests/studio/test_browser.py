"""The pages in a real browser: light and dark, phone width, keyboard only, accessibility, and the policy of scripts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from concordant.studio.lessons import LESSONS
from tests.studio.visitor import TOKEN, studio, write_run
from tests.votes.simulated import arena_with

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
if not CHROMIUM:
    pytest.skip("no chromium on this machine", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BAD = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
PAGES = [
    "/",
    "/run?run=good",
    "/run?run=good&run=other",
    "/start",
    "/votes",
    "/ask",
    "/learn",
    "/api",
    *[f"/learn/{x}" for x in LESSONS],
]


def axe_source() -> str:
    """The text of axe-core, from the package axe-playwright-python or from the file that $AXE names; "" without it."""
    if os.environ.get("AXE"):
        return Path(os.environ["AXE"]).read_text(encoding="utf-8")
    found = importlib.util.find_spec("axe_playwright_python")
    files = (
        [f for place in (found.submodule_search_locations or ()) for f in Path(place).glob("**/axe.min.js")]
        if found
        else []
    )
    return files[0].read_text(encoding="utf-8") if files else ""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    rows = [
        {"step": s, "loss": 1 / s, "eval/kl": s / 10, "eval/reward": float(s), "eval/gold": 0.5} for s in range(1, 30)
    ]
    said = {"step": 1, "split": "train", "prompt": [{"role": "user", "content": BAD}], "response": BAD, "reward": 1.0}
    finding = dict.fromkeys(("rule", "seen", "why", "cause", "cure", "page"), BAD)
    finding |= {"kind": "finding", "severity": "warning", "step": 3, "numbers": {}}
    status = {"verb": "ppo", "state": "failed", "step": 3, "total": 9, "message": BAD, "pid": 1, "host": "x"}
    write_run(runs / "good", rows, status, [said], [finding], config="verb: ppo\nbeta: 0.1\n")
    write_run(runs / "other", rows, status | {"state": "finished"}, config="verb: ppo\nbeta: 0.2\n")
    write_run(runs / "<b onclick=x>", rows, status)
    arena_with(str(runs / "votes.sqlite"), pairs=2, raters=0)
    with served(runs) as (address, _):
        yield address


@contextmanager
def served(runs):
    """The studio over ``runs`` behind a real port: its address and its application."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = studio(runs, port=port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port}", app
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(chromium, address, said, **settings):
    page = chromium.new_context(**settings).new_page()
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{address}/enter?token={TOKEN}")
    page.wait_for_url(f"{address}/")  # the page of the link goes on by itself
    return page


def settled(page, url):
    page.goto(url)
    until(page, "!document.querySelector('[aria-busy=true]')")
    if page.locator("#charts, #facts").count():
        page.wait_for_selector("#charts section, #facts table")
    if "run=" in url or "/learn/" in url:
        page.wait_for_timeout(400)  # the pictures


@pytest.mark.parametrize(("theme", "width"), [("light", 1100), ("dark", 390)])
def test_every_page_is_accessible_fits_and_breaks_no_policy(chromium, address, theme, width):
    said: list[str] = []
    page = opened(
        chromium, address, said, color_scheme=theme, viewport={"width": width, "height": 800}, bypass_csp=False
    )
    axe = axe_source()
    for path in PAGES if theme == "light" else [*PAGES[:6], PAGES[-1]]:
        settled(page, address + path)
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate("window.hacked") is None and page.locator("main img").count() == 0, path
        if axe:
            page.evaluate(axe)
            found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            bad = [
                (v["id"], [n["html"][:120] for n in v["nodes"][:3]])
                for v in found
                if v["impact"] in ("serious", "critical")
            ]
            assert not bad, (path, bad)
    assert not said, said
    page.context.close()
    if not axe:
        pytest.skip("axe-playwright-python is not installed; everything else was checked")


def test_the_theme_and_the_overlay_by_keyboard_alone(chromium, address):
    said: list[str] = []
    page = opened(chromium, address, said)
    settled(page, address + "/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tab_to(page, "document.activeElement.id === 'theme'")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    for run in ("good", "other"):
        tab_to(page, f"document.activeElement.value === '{run}'")
        page.keyboard.press("Space")
    tab_to(page, "document.activeElement.type === 'submit'")
    page.keyboard.press("Enter")
    page.wait_for_url("**/run?run=good&run=other")
    page.wait_for_selector("text=Settings in which the runs differ")
    tab_to(page, "document.activeElement.id === 'text'")
    page.keyboard.press("Space")
    page.wait_for_selector("#charts table")
    assert not said
    page.context.close()


def test_the_form_shows_the_command_and_what_is_wrong(chromium, address):
    said: list[str] = []
    page = opened(chromium, address, said)
    settled(page, address + "/start")
    page.select_option("#verb", "dpo")
    page.wait_for_selector("[name=beta]")
    page.fill("[name='data.path']", "builtin:toytalk")
    page.fill("[name='model.name']", "builtin:tiny")
    until(page, "document.getElementById('command').textContent.startsWith('concordant dpo')")
    page.fill("[name=beta]", "-1")
    until(page, "document.getElementById('command').textContent.includes('expected a number in (0, ∞)')")
    assert not said
    page.context.close()


def until(page, condition, seconds=20):
    """Wait for a condition. Playwright's own way evaluates text inside the page, which the policy forbids."""
    for _ in range(seconds * 20):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never: {condition}")


def tab_to(page, condition, most=60):
    for _ in range(most):
        if page.evaluate(condition):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"the keyboard does not reach {condition}")
