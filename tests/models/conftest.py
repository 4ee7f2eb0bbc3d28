"""A saved policy, for the tests that load it and for those that break a copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from concordant.data.tokenizer import train_tokenizer
from concordant.models.load import Policy, save_policy
from concordant.models.traits import prepare_model
from tests.models import zoo


@pytest.fixture(scope="module")
def tiny() -> Policy:
    tokenizer = train_tokenizer(zoo.TEXTS, 300)
    model = zoo.make("Llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True)
    return Policy(model=model, tokenizer=tokenizer, traits=prepare_model(model), name="tiny")


@pytest.fixture(scope="module")
def saved(tiny: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "model"
    save_policy(tiny, folder, {"base_model": "builtin:tiny", "metrics": {"loss": 0.25}})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved policy, to be broken."""
    return Path(shutil.copytree(saved, tmp_path / "model"))
