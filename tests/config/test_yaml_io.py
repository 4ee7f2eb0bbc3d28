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
    with pytest.raises(UserError, match="evil.yaml is not plain YAML.*could not determine a constructor"):
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
