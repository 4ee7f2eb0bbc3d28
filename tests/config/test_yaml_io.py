from __future__ import annotations

import pytest

from concordant.config.yaml_io import dump_yaml, load_yaml, parse_yaml
from concordant.core.errors import UserError


def test_scientific_notation_is_a_number():
    assert parse_yaml("[1e-4, 2E3, .5e1, 1.0e-4, -3e-2]", "x") == [1e-4, 2e3, 5.0, 1e-4, -3e-2]


def test_words_that_look_like_numbers_stay_words():
    assert parse_yaml("[e5, 1e, 1-4, v1e4]", "x") == ["e5", "1e", "1-4", "v1e4"]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/object/apply:pathlib.Path.touch", "!x"])
def test_a_yaml_tag_runs_nothing(tmp_path, tag):
    canary, file = tmp_path / "canary", tmp_path / "evil.yaml"
    file.write_text(f'train: {tag} ["touch {canary}"]\n')
    with pytest.raises(UserError, match="evil.yaml is not plain YAML: line 1 column 8: a tag"):
        load_yaml(file)
    assert not canary.exists()


def test_a_key_given_twice_is_an_error():
    with pytest.raises(UserError, match='key "seed" is given twice'):
        parse_yaml("seed: 1\nseed: 2\n", "x.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"- a\n", "holds list; expected a mapping"), (b"\xff\xfe", "is not UTF-8"), (b"a: [", "is not plain YAML")],
)
def test_a_file_that_is_not_a_config_is_refused(tmp_path, content, message):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(UserError, match=f"x.yaml {message}"):
        load_yaml(tmp_path / "x.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot read .*nowhere.yaml: No such file"):
        load_yaml(tmp_path / "nowhere.yaml")


def test_what_is_written_is_read_back():
    mapping = {"verb": "sft", "train": {"learning_rate": 1e-5, "keep": True}, "reward": ["ä=1"], "path": "on"}
    assert parse_yaml(dump_yaml(mapping), "x") == mapping


WRONG = [
    ("a: b: c", 'line 1 column 5: a ": " that cannot stand here'),
    ("a: 1\n b: 2\n", 'line 2 column 3: a ": " that cannot stand here'),
    ("a: [1, 2\n", "line 2 column 1: a list in brackets that is not closed"),
    ("a:\n\tb: 1", "line 2 column 1: a tab; indent with spaces"),
    ("a: @x", "line 1 column 4: a text cannot begin with this character"),
    ("a: *b", 'line 1 column 4: a "*" with a name that no "&" has given'),
    ("a: 'abc", "line 1 column 8: the end, within a text; a quote is not closed"),
    ("a: 1\nb\nc: 2", "line 3 column 1: a line without a colon after its key"),
    ("? [a]\n: 2", "line 1 column 3: a list or a mapping as a key"),
    ("a: 1\n---\nb: 2", "line 2 column 1: a second document"),
    ('{"a": 1}\n{"b": 2}', "line 2 column 1: something behind the end of the only value"),
    ('a: "\\q"', "line 1 column 6: an unknown escape"),
    ("a: - b", "line 1 column 4: a list on the line of its key"),
    ("b: 1\na: \x00", "line 2 column 4: a character that no YAML file may hold"),
    ("a: !!bool x", 'line 1 column 4: "x" is no bool'),
    ("a: !!timestamp x", 'line 1 column 4: "x" is no timestamp'),
    ("a: !!set [1]", "line 1 column 4: expected a mapping node"),
    ("!!map 3", "line 1 column 1: "),
    ("a: " + "9" * 5000, "line 1 column 4: "),
    ("[" * 5000, "it is nested too deeply"),
    ("a: &a [*a]", "line 1 column 4: an alias stands for something that holds the alias itself"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_an_error_says_the_place_and_what_is_wrong_there(text, message):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "x.yaml")
    assert str(caught.value).startswith(f"x.yaml is not plain YAML: {message}") and "\n" not in str(caught.value)


def test_aliases_are_read_but_no_bomb():
    assert parse_yaml("a: &x {b: 1}\nc:\n  <<: *x\n  d: 2", "x")["c"] == {"b": 1, "d": 2}
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdef", "bcdefg", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    with pytest.raises(UserError, match="its aliases stand for more than 100,000 values"):
        parse_yaml("\n".join(lines), "x")
    assert parse_yaml("\n".join(lines[:4]), "x")["d"][9][9][9][9] == "x"


def test_a_date_is_a_text_as_it_is_on_the_command_line():
    assert parse_yaml("{output: 2026-11-28, at: 2026-99-99}", "x") == {"output": "2026-11-28", "at": "2026-99-99"}
