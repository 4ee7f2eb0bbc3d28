"""The model card: what a hub reads, a title that says something, and no folder of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from concordant.models.card import front_matter, is_hub_id, model_card, origin_of, section, short


def test_the_model_card_has_what_the_hub_reads() -> None:
    card = {"base_model": "org/base", "datasets": ["org/data"], "tags": ["dpo"], "how_it_was_trained": {"beta": 0.1}}
    about = {"title": "Base, trained\non data", "metrics": {"win | rate": 0.751234}, "description": "Kind."}
    text = model_card(card | about)
    front = yaml.safe_load(text.split("---")[1])
    assert front == {
        "library_name": "transformers",
        "base_model": "org/base",
        "datasets": ["org/data"],
        "tags": ["concordant", "dpo"],
    }
    assert "\n# Base, trained on data\n" in text
    assert "Kind." in text and "## How it was trained" in text and "| win \\| rate | 0.7512 |" in text


def test_the_card_of_an_adapter_names_peft() -> None:
    assert yaml.safe_load(model_card({}, "peft").split("---")[1])["library_name"] == "peft"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("runs/sft/model", "sft"),
        ("/home/somebody/runs/lora/adapter", "lora"),
        ("/home/somebody/secret-project/pairs.jsonl", "pairs.jsonl"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("builtin:tiny", "builtin:tiny"),
        ("model", "model"),
    ],
)
def test_a_name_is_short_and_says_something(name: str, shown: str) -> None:
    assert short(name) == shown


def test_a_chain_of_local_models_leads_to_the_hub(tmp_path: Path) -> None:
    assert origin_of("org/base") == "org/base" and origin_of(str(tmp_path)) == "" and origin_of("builtin:tiny") == ""
    (tmp_path / "README.md").write_text(model_card({"base_model": "org/base"}))
    assert origin_of(str(tmp_path)) == "org/base"
    (tmp_path / "README.md").write_text("---\nbase_model: /home/somebody/base\n---\n")
    assert origin_of(str(tmp_path)) == ""


def test_a_folder_of_that_name_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("runs/sft")
    (tmp_path / "runs/sft").mkdir(parents=True)
    assert not is_hub_id("runs/sft")


@pytest.mark.parametrize("text", ["", "no front matter", "---\n: [\n---\n", "---\n- a\n---\n"])
def test_a_card_that_cannot_be_read_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert front_matter(tmp_path) == {}


def test_a_section_is_a_table_or_a_text() -> None:
    assert section("held_out", {"a": 1}) == "## Held out\n\n| | |\n|---|---|\n| a | 1 |"
    assert section("use", "Read it.") == "## Use\n\nRead it."
