"""The facts of a run folder, also of a damaged one."""

import json
import struct

import pytest

from concordant.runs.facts import is_run, read_facts, weights_of


def tensors(path, **shapes):
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_the_facts_by_hand(tmp_path):
    (tmp_path / "model").mkdir()
    tensors(tmp_path / "model" / "a.safetensors", one=[3, 4], two=[5])
    tensors(tmp_path / "model" / "b.safetensors", three=[2, 2, 2], scalar=[])
    (tmp_path / "config.yaml").write_text("verb: dpo\nmodel: {name: base}\ntrain: {max_steps: 7}\n")
    times = {"started": "2026-11-28T14:27:13+00:00", "updated": "2026-11-29T08:00:00+00:00"}
    (tmp_path / "status.json").write_text(json.dumps(times))
    (tmp_path / "result.json").write_text(json.dumps({"exported_step": 7}))
    facts = read_facts(tmp_path)
    assert is_run(tmp_path) and facts.base == "base"
    assert (facts.settings["verb"], facts.settings["train.max_steps"], facts.result["exported_step"]) == ("dpo", 7, 7)
    assert facts.started == "2026-11-28T14:27:13+00:00" and facts.weights == 12 + 5 + 8 + 1
    assert [path.name for path in facts.files] == ["config.yaml", "result.json", "model"]


@pytest.mark.parametrize(("exported", "after"), [(2, 2.5), (4, 2.75), (None, 2.75), (3, 2.75)])
def test_what_the_text_cost_before_and_after_is_read_from_the_evaluations(tmp_path, exported, after):
    found = {2: 2.5, 3: None, 4: 2.75}
    rows = [
        {"step": step, "loss": 1.0} | ({"eval/retain/nll": nll, "eval/retain/start": 2.0} if nll else {})
        for step, nll in found.items()
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "result.json").write_text(json.dumps({"exported_step": exported}))
    (tmp_path / "config.yaml").write_text("retain: {text: wiki.txt}\n")
    assert read_facts(tmp_path).retained == (2.0, after)
    (tmp_path / "config.yaml").write_text("retain: {text: null}\n")
    assert read_facts(tmp_path).retained is None


def test_an_empty_folder_has_no_facts(tmp_path):
    facts = read_facts(tmp_path)
    assert not is_run(tmp_path) and (facts.base, facts.started, facts.weights, facts.files) == ("", "", None, ())


NOT_TENSORS = (b"null", b'{"a": {}}', b"{")


@pytest.mark.parametrize(
    "content", [b"", b"abc", struct.pack("<Q", 2**60), *(struct.pack("<Q", len(x)) + x for x in NOT_TENSORS)]
)
def test_a_damaged_file_has_no_number_of_weights(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    tensors(tmp_path / "whole.safetensors", one=[3])
    assert weights_of(tmp_path) is None


def test_damaged_settings_raise_nothing(tmp_path):
    (tmp_path / "config.yaml").write_text("{ not: [yaml")
    (tmp_path / "status.json").write_text("[1]")
    (tmp_path / "result.json").write_bytes(b"\xff\x00")
    assert (read_facts(tmp_path).settings, read_facts(tmp_path).result) == ({}, {})
