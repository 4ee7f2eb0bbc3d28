from __future__ import annotations

import io
import os

import pytest
from rich.console import Console

from concordant.core.alive import sign_of_life
from concordant.training import progress
from concordant.training.progress import Display, ProgressConsole, current, duration, numbers, use


def lines(seconds_between_lines=0.0, **options):
    stream = io.StringIO()
    return Display(Console(file=stream, width=200, **options), seconds_between_lines), stream


def test_plain_lines_when_not_a_terminal():
    display, stream = lines()
    with display.task("sft", 4) as bar:
        bar.update(1, {"loss": 0.6931, "objective/kl": 1.5, "other": 3.0})
    first = stream.getvalue().splitlines()[0]
    assert first.startswith("sft  1/4  loss 0.6931  KL 1.5  0s left")
    assert "\x1b" not in stream.getvalue()


def test_plain_lines_come_every_few_seconds_and_the_last_one_always():
    display, stream = lines(seconds_between_lines=60.0)
    with display.task("sft", 100) as bar:
        for step in range(1, 101):
            bar.update(step)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/100", "100/100"]


def test_the_last_line_is_not_said_twice():
    display, stream = lines()
    with display.task("sft", 1) as bar:
        bar.update(1)
    assert len(stream.getvalue().splitlines()) == 1


def test_live_bars_on_a_terminal_stop_with_the_last_task():
    display, stream = lines(force_terminal=True)
    with display.task("outer", 2) as outer, display.task("inner [x]", 2) as inner:
        inner.update(1, {"loss": 0.5})
        outer.update(1)
        assert display.live is not None
    assert display.live is None
    assert "inner [x]" in stream.getvalue() and "loss 0.5" in stream.getvalue()
    with display.task("again", 1) as bar:
        bar.advance()
    assert "again" in stream.getvalue()


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    display, stream = lines(force_terminal=True, color_system="truecolor")
    with display.task("sft", 2) as bar:
        bar.update(1, {"loss": 0.5})
    assert "\x1b[3" not in stream.getvalue()  # 30-37 and 38;5 are colours


def test_markup_in_a_message_is_text():
    display, stream = lines()
    display.message("[red]reward[/red] of <img onerror=1>")
    assert stream.getvalue() == "[red]reward[/red] of <img onerror=1>\n"


def test_stages_share_the_display_in_use():
    display, stream = lines()
    with use(display):
        assert current() is display
        current().prefix = "[2/3]"
        with current().task("dpo", 1) as bar:
            bar.advance()
    assert stream.getvalue().startswith("[2/3] dpo  1/1")
    assert current() is not display


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.4, "59s"), (59.6, "1m00s"), (187, "3m07s"), (7500, "2h05m")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_only_known_numbers_are_shown():
    assert numbers({"loss": 0.123456, "secret": 1.0}) == "loss 0.1235"


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_counts_what_this_process_did(clock):
    """Half of a hundred steps were done before: ten steps in ten seconds leave forty seconds for forty steps."""
    display, stream = lines()
    bar = display.task("sft", 100, done=50)
    clock[0] += 10.0
    bar.update(60)
    assert stream.getvalue().split() == ["sft", "60/100", "40s", "left"]


def test_a_long_step_shows_how_far_its_work_is(clock):
    display, stream = lines(seconds_between_lines=5.0)
    with display.task("ppo", 10) as bar:
        bar.update(1, {"loss": 0.5})
        clock[0] += 1.0
        sign_of_life("micro-batches", 1, 12)
        assert stream.getvalue().count("\n") == 1, "a short step says nothing"
        clock[0] += 6.0
        sign_of_life("micro-batches", 3, 12)
    sign_of_life("micro-batches", 4, 12)
    said = stream.getvalue().splitlines()
    assert len(said) == 2 and said[1].startswith("ppo  1/10  loss 0.5  3/12 micro-batches")


def test_a_long_step_moves_the_bar_of_a_terminal(clock):
    display, stream = lines(force_terminal=True)
    with display.task("ppo", 10) as bar:
        bar.update(1, {"loss": 0.5})
        clock[0] += 3.0
        sign_of_life("micro-batches", 3, 12)
        assert display.live is not None and display.live.tasks[0].fields["numbers"] == "loss 0.5  3/12 micro-batches"
        bar.update(2, {"loss": 0.4})
        assert display.live.tasks[0].fields["numbers"] == "loss 0.4"


def test_other_work_becomes_a_task_when_it_is_long(clock):
    display, stream = lines()
    with display.watched("score"):
        sign_of_life("forward passes", 1, 4)
        assert stream.getvalue() == ""
        clock[0] += 3.0
        sign_of_life("forward passes", 2, 4)
    said = stream.getvalue().splitlines()
    assert said[0].startswith("score  2/4  forward passes") and said[-1].startswith("score  4/4")
    with display.watched("short"):
        sign_of_life("forward passes", 1, 4)
    assert stream.getvalue().splitlines() == said


def test_a_terminal_is_restored_when_other_work_fails(clock):
    display, _ = lines(force_terminal=True)
    with pytest.raises(ValueError), display.watched("score"):
        clock[0] += 3.0
        sign_of_life("forward passes", 2, 4)
        assert display.live is not None
        raise ValueError
    assert display.live is None


def test_work_goes_on_where_nobody_reads_its_lines():
    """Behind `2>&1 | head` rich would end the process in the middle of a run."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        display = Display(ProgressConsole(file=file))
        for line in ("first", "second"):
            display.message(line)
        assert display.console.quiet
