"""A name that may be of a hub: asked once and not waited for long, and never where nothing needs to be asked."""

import time

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from concordant.core import hub
from concordant.core.errors import UserError
from concordant.models.locate import locate


class Response:
    """What an error of the hub holds."""

    headers, request, status_code, text = {}, None, 404, ""  # noqa: RUF012


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The names that were asked for, and the answer to give: an exception, or a function."""
    found = {"names": [], "answer": lambda: None}

    def repo_info(self, name, *, repo_type, timeout):
        found["names"].append((name, repo_type))
        answer = found["answer"]
        if isinstance(answer, Exception):
            raise answer
        answer()

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    hub.ask.cache_clear()
    yield found
    hub.ask.cache_clear()


def test_a_name_that_the_hub_has_is_asked_for_once(asked):
    assert locate("me/model") == locate("me/model") == "me/model"
    assert asked["names"] == [("me/model", "model")]


def test_a_name_that_the_hub_does_not_have_names_what_is_here(asked, tmp_path):
    (tmp_path / "me" / "sft").mkdir(parents=True)
    asked["answer"] = RepositoryNotFoundError("404", response=Response())
    with pytest.raises(UserError, match='"me/nope" is no folder here, and the hub has no public .*"me" here holds sft'):
        locate("me/nope")


def test_a_hub_that_does_not_answer_is_not_waited_for(asked, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    for answer in (lambda: time.sleep(5), ConnectionError("no route"), OSError("no name server")):
        asked["answer"] = answer
        started = time.monotonic()
        with pytest.raises(UserError, match="does not answer. Without a network, .*: --model.name PATH"):
            locate("me/nope")
        assert time.monotonic() - started < 2


def test_another_answer_of_the_hub_is_left_to_whoever_loads(asked):
    asked["answer"] = HfHubHTTPError("503", response=Response())
    assert locate("me/model") == "me/model"


def test_nothing_is_asked_offline_or_of_what_the_cache_has(asked, monkeypatch, tmp_path):
    (tmp_path / "cache" / "models--me--kept").mkdir(parents=True)
    assert locate("me/kept") == "me/kept"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert locate("me/other") == "me/other" and asked["names"] == []
