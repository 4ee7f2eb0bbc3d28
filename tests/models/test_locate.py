"""Where a model is: a name that leads nowhere is told the nearest one that does."""

from __future__ import annotations

import sys
from pathlib import Path

import huggingface_hub
import pytest

from concordant.core.errors import UserError
from concordant.models.locate import locate
from tests.models.policies import message


def test_a_misspelt_folder_is_named_before_a_hub_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='no folder "runs/modle". Did you mean "runs/model"?'):
        locate("runs/modle")
    with pytest.raises(UserError, match='no folder "rums/model". Did you mean "runs/model"?'):
        locate("rums/model")
    assert locate("elsewhere/modle") == "elsewhere/modle" and locate("run") == "run"


def test_a_misspelt_folder_deep_down_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "sft" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='no folder "runs/stf/model". Did you mean "runs/sft/model"?'):
        locate("runs/stf/model")


def test_a_bare_name_is_a_hub_id_unless_a_model_beside_it_has_nearly_this_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("my_model", "gpt2-notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "my_model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='Did you mean "my_model"?'):
        locate("my_modle")
    assert locate("gpt2") == "gpt2"
    assert locate("gpt2-note") == "gpt2-note", "that folder holds no model"


def test_names_that_lead_nowhere(tmp_path: Path, saved: Path) -> None:
    assert "no model given" in message("")
    assert 'no folder "./nowhere"' in message("./nowhere")
    assert f'Did you mean "{saved}"?' in message(saved.with_name("modle"))
    assert message(saved.parent).endswith(f'Did you mean "{saved}"?')
    assert "is a file; expected a folder" in message(saved / "config.json")
    assert 'Did you mean "builtin:tiny"?' in message("builtin:tinny")
    assert "has no training data" in message("builtin:tiny")  # no texts to train its tokenizer on
    assert "it holds nothing" in message(tmp_path)


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    text = message("nobody/no-such-model")
    assert "could not be loaded from the hub" in text and "give its folder in place of the name" in text


def test_a_folder_inside_a_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "weights_for_test"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "out").symlink_to(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("package:weights_for_test/model") == package / "model"
    assert "weights_for_test" not in sys.modules
    assert "it has: model, out" in message("package:weights_for_test/mode")
    assert "by a symlink: refused" in message("package:weights_for_test/out")
    for bad in ("weights_for_test/../x", "weights_for_test/", "weights_for_test", "weights_for_test//etc", "../x/y"):
        assert "expected package:NAME/FOLDER" in message(f"package:{bad}")
    assert 'no Python package "not_here"' in message("package:not_here/model")
