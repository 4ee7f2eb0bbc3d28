"""The one reader of JSON lines: whatever a kill or a bad disk has left, the rest is read, and the loss counted."""

from __future__ import annotations

import json
import random

import pytest

from concordant.runs.logs import Follower, json_line, json_lines, read_json, read_log, read_whole_lines


def steps(rows):
    return [row["step"] for row in rows]


def test_a_missing_file_is_an_empty_one(tmp_path):
    log = read_log(tmp_path / "none")
    assert (log.rows, log.damaged, log.ends_torn) == ([], [], False)


def test_a_torn_last_line_is_no_damage_for_its_writer_may_be_at_work(tmp_path):
    (tmp_path / "x").write_text('{"step": 1}\n{"step": 2, "lo')
    log = read_log(tmp_path / "x")
    assert (steps(log.rows), log.damaged, log.ends_torn) == ([1], [], True)


def test_a_whole_last_line_counts_without_its_newline(tmp_path):
    (tmp_path / "x").write_text('{"step": 1}\n{"step": 2}')
    assert steps(read_log(tmp_path / "x").rows) == [1, 2]


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', '{"step": 2, "prompt": [{"role": "user", "con', '{"step"', "{"])
def test_a_row_behind_a_torn_line_is_found(tmp_path, torn):
    row = {"step": 3, "prompt": [{"role": "user", "content": "x"}]}
    (tmp_path / "x").write_text('{"step": 1}\n' + torn + json_line(row) + '{"step": 4}\n')
    log = read_log(tmp_path / "x", "step")
    assert log.rows == [{"step": 1}, row, {"step": 4}]
    assert log.damaged == [2]
    assert log.complaint(tmp_path / "x").endswith("x: 1 line is damaged and left out (line 2)")


@pytest.mark.parametrize("line", [b"", b"   ", b"\r"])
def test_an_empty_line_is_nothing(tmp_path, line):
    (tmp_path / "x").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    assert (steps(read_log(tmp_path / "x").rows), read_log(tmp_path / "x").damaged) == ([1, 2], [])


@pytest.mark.parametrize(
    "line", [b"[2]", b"null", b"3", b'"text"', b"\x00\x00", b"\xff\xfe{", b"{]", b"[" * 9999, b"{1: 2}", b'{"st": 1}']
)
def test_a_line_that_is_no_row_is_counted_and_costs_nothing_else(tmp_path, line):
    (tmp_path / "x").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    log = read_log(tmp_path / "x", "step")
    assert (steps(log.rows), log.damaged) == ([1, 2], [2])


def test_a_file_cut_anywhere_gives_its_whole_lines(tmp_path):
    rows = [{"step": i, "text": "ü\u2028" * i, "nested": [{"step": 99}]} for i in range(1, 6)]
    whole = json_lines(rows).encode()
    for length in range(len(whole) + 1):
        (tmp_path / "x").write_bytes(whole[:length])
        log = read_log(tmp_path / "x", "step")
        ended = whole[:length].count(b"\n")
        assert log.rows[:ended] == rows[:ended] and len(log.rows) - ended in (0, 1) and not log.damaged
        assert log.rows == rows[: len(log.rows)]


def test_noise_never_raises(tmp_path):
    random.seed(0)
    whole = bytearray(json_lines([{"step": i, "a": {"b": [1, "x"]}} for i in range(20)]).encode())
    for _ in range(300):
        noisy = bytearray(whole)
        for _ in range(8):
            noisy[random.randrange(len(noisy))] = random.randrange(256)
        (tmp_path / "x").write_bytes(noisy)
        assert len(read_log(tmp_path / "x", "step").rows) <= 21


# -- following ------------------------------------------------------------------------------------


def test_a_follower_gives_each_row_once_however_the_bytes_come(tmp_path):
    rows = [{"step": i, "text": "ü" * i} for i in range(30)]
    whole, path = json_lines(rows).encode(), tmp_path / "x"
    path.touch()
    follower, seen = Follower(path), []
    for start in range(0, len(whole), 7):
        with path.open("ab") as file:
            file.write(whole[start : start + 7])
        new = follower.read()
        assert not new.restarted and not new.damaged
        seen += new.rows
    assert seen == rows and follower.read().rows == []


def test_a_file_that_a_resume_cut_back_is_read_again(tmp_path):
    path = tmp_path / "x"
    path.write_text(json_lines([{"step": i} for i in range(1, 6)]))
    follower = Follower(path)
    assert steps(follower.read().rows) == [1, 2, 3, 4, 5]
    path.write_text(json_lines([{"step": 1}, {"step": 2}]))
    new = follower.read()
    assert new.restarted and steps(new.rows) == [1, 2]
    assert not follower.read().restarted


def test_a_file_that_was_cut_back_and_grew_longer_than_before_is_read_again(tmp_path):
    path = tmp_path / "x"
    path.write_text(json_lines([{"step": i, "seconds": 0.1} for i in range(1, 4)]))
    follower = Follower(path)
    follower.read()
    path.write_text(json_lines([{"step": i, "seconds": 0.2} for i in range(1, 9)]))
    new = follower.read()
    assert new.restarted and steps(new.rows) == list(range(1, 9))


def test_a_file_that_goes_and_comes_is_read_again(tmp_path):
    path = tmp_path / "x"
    follower = Follower(path)
    assert not follower.read().restarted
    path.write_text('{"step": 1}\n')
    assert steps(follower.read().rows) == [1]
    path.unlink()
    gone = follower.read()
    assert gone.restarted and gone.rows == []
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert steps(follower.read().rows) == [1, 2]


def test_line_numbers_run_on(tmp_path):
    path = tmp_path / "x"
    path.write_text("{}\n{}\n")
    follower = Follower(path)
    follower.read()
    with path.open("a") as file:
        file.write("bad\n")
    assert follower.read().damaged == [3]


def test_a_file_can_be_cut_behind_each_row_up_to_the_first_damage(tmp_path):
    path = tmp_path / "x"
    path.write_text('{"a": 1}\n{"a": "ü"}\nxx\n{"a": 3}\n')
    assert read_whole_lines(path) == [({"a": 1}, 9), ({"a": "ü"}, 21)]
    path.write_text('{"a": 1}\n{"a": 2}')
    assert read_whole_lines(path) == [({"a": 1}, 9)]
    assert read_whole_lines(tmp_path / "none") == []


def test_one_object(tmp_path):
    assert read_json(tmp_path / "none") is None
    (tmp_path / "x").write_text('{"a":')
    assert read_json(tmp_path / "x") is None
    (tmp_path / "x").write_text(json.dumps({"a": 1}, indent=2))
    assert read_json(tmp_path / "x") == {"a": 1}
