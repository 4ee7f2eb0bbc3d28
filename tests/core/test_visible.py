"""What steers a terminal is shown and never sent."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from concordant.cli import main
from concordant.core.visible import all_messages_visible, say, visible
from concordant.training.progress import Display

TITLE = "\x1b]0;owned\x07"
STEERS = [*map(chr, [*range(0x20), *range(0x7F, 0xA0)]), "\u202e", "\u2066", "\ud800"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("character", [c for c in STEERS if c not in "\n\t"], ids=ascii)
def test_every_character_that_steers_becomes_its_escape(character: str) -> None:
    assert visible(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"


def test_text_of_all_languages_stays_as_it_is() -> None:
    text = "Grüße, 世界 שלום 🦉\n\tzwei 100 %"
    assert visible(text) == text


@pytest.mark.parametrize("coloured", [False, True])
def test_messages_and_bars_send_nothing(coloured: bool) -> None:
    file = io.StringIO()
    display = Display(Console(file=file, force_terminal=coloured, width=200), seconds_between_lines=0)
    display.message(f"column {TITLE}")
    display.message(Text(f"column {TITLE}", style="red"))
    with display.task(f"name {TITLE}", 2) as task:
        task.update(2)
    assert "\x1b]0" not in file.getvalue() and "\x07" not in file.getvalue()
    assert file.getvalue().count("\\x1b]0;owned") >= 3


def test_an_error_message_sends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", f"--{TITLE}=1"]) == main(["doctor", f"no{TITLE}"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and said.count("\\x1b]0;owned\\x07") >= 2


def test_answers_are_made_visible_on_a_terminal_and_kept_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, shown in (
        (Terminal(), "answer \\x1b]0;owned\\x07 \\ud800\n"),
        (io.StringIO(), f"answer {TITLE} \\ud800\n"),
    ):
        monkeypatch.setattr(sys, "stdout", stream)
        say(f"answer {TITLE} \ud800")
        assert stream.getvalue() == shown


def test_logs_and_warnings_of_other_libraries_send_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("a.library")
    handler = logging.StreamHandler(sys.stderr)
    log.addHandler(handler)
    with all_messages_visible():
        log.warning("unknown kind %s", TITLE)
        assert "\x1b" not in warnings.formatwarning(TITLE, UserWarning, "file.py", 1)  # type: ignore[arg-type]
    assert "\x1b" in warnings.formatwarning(TITLE, UserWarning, "file.py", 1)  # type: ignore[arg-type]
    log.warning("unknown kind %s", TITLE)
    log.removeHandler(handler)
    inside, _, outside = capsys.readouterr().err.rpartition("unknown kind")
    assert "\x1b" not in inside and "\\x1b]0;owned" in inside and "\x1b" in outside


def test_a_stream_that_cannot_hold_a_letter_gets_its_escape() -> None:
    """A text in another script, on a terminal of ASCII."""
    command = [sys.executable, "-m", "concordant", "sft", "--output", "größe", "--print_config"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, env=environment, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "gr\\xf6\\xdfe" in done.stdout


def test_a_key_of_a_file_sends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(f'"{TITLE.encode("unicode_escape").decode()}": 1\nverb: sft\n')
    assert main(["run", str(tmp_path / "x.yaml")]) == main(["sft", "--config", str(tmp_path / "x.yaml")]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and said.count("\\x1b]0;owned") == 2


def test_a_printed_config_sends_nothing_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML itself leaves the marks that change the direction of text."""
    for stream, shown in ((Terminal(), "runs/\\u202eabc"), (io.StringIO(), "runs/\u202eabc")):
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["sft", "--output", "runs/\u202eabc", "--print_config"]) == 0
        assert shown in stream.getvalue()
