"""What ``concordant push`` sends, and what it refuses to send. The hub's client is a fake: no test asks a hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

import concordant
from concordant.cli import main
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.stages import PushConfig
from concordant.core.errors import RunFailed, UserError
from concordant.engines.reward_model import RewardModel
from concordant.models.load import load_policy, save_policy, save_policy_adapter
from tests.engines.tiny import tiny_policy

CARD = {"title": "A policy for a test", "tags": ["sft"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder with a merged model and an adapter over it, and a reward model."""
    run = tmp_path_factory.mktemp("run")
    policy = tiny_policy()
    save_policy(policy, run / "model", CARD)
    over = load_policy(ModelConfig(name=str(run / "model"), device="cpu", lora=LoraConfig(rank=2)))
    save_policy_adapter(over, run / "adapter", CARD)
    RewardModel.from_backbone(policy).save(run / "reward", {"title": "A reward model for a test"})
    (run / "config.yaml").write_text("verb: sft\n")
    return run


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the policy, to be spoilt."""
    return copied(made / "model", tmp_path / "policy")


def copied(source, target):
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


class Hub:
    """Stands for ``HfApi``: keeps what it is sent, and refuses as it is told."""

    def __init__(self, public=(), refuses=None):
        self.public, self.refuses = public, refuses
        self.asked, self.sent = [], {}

    def __call__(self):
        return self

    def repo_exists(self, name):
        self.asked.append("repo_exists")
        return name in self.public

    def repo_info(self, name):
        return SimpleNamespace(private=name not in self.public)

    def create_repo(self, name, private=None, exist_ok=False):
        self.asked.append(("create_repo", name, private, exist_ok))

    def create_commit(self, name, operations, commit_message):
        if self.refuses:
            raise self.refuses
        for operation in operations:
            what = operation.path_or_fileobj
            self.sent[operation.path_in_repo] = what if isinstance(what, bytes) else Path(what).read_bytes()
        return SimpleNamespace(commit_url=f"https://hub/{name}/commit/1")


@pytest.fixture
def hub(monkeypatch):
    """A function that puts a fake in the hub's place; there is a token unless it is told otherwise."""

    def use(fake=None, token="x", offline=False):
        fake = fake or Hub()
        monkeypatch.setattr(huggingface_hub, "HfApi", fake)
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        return fake

    return use


def push(folder, name="owner/name", **settings):
    concordant.push(PushConfig(folder=str(folder), id=name, **settings))


# -- what is sent ---------------------------------------------------------------------------------


def test_of_a_run_folder_the_model_is_sent_whole_and_nothing_else(made, hub, capsys):
    fake = hub()
    assert main(["push", str(made), "owner/name"]) == 0
    assert fake.sent == {path.name: path.read_bytes() for path in (made / "model").iterdir()}
    assert fake.asked == [("create_repo", "owner/name", None, True)]
    assert capsys.readouterr().out == "https://hub/owner/name/commit/1\n"


def test_a_reward_model_is_sent(made, hub):
    fake = hub()
    push(made / "reward", private=True)
    assert "model.safetensors" in fake.sent and ("create_repo", "owner/name", True, True) in fake.asked


def test_a_run_that_wrote_only_its_adapter_has_this_sent(made, hub, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    copied(made / "adapter", run / "adapter")
    (run / "config.yaml").write_text("verb: sft\n")
    fake = hub()
    push(run, base="owner/base")
    assert "adapter_model.safetensors" in fake.sent


def test_an_adapter_names_the_hubs_base_where_its_own_is_a_local_folder(made, hub):
    fake = hub()
    with pytest.raises(UserError, match="nobody else has: push the base first.*--base OWNER/NAME"):
        push(made / "adapter")
    before = (made / "adapter" / "adapter_config.json").read_bytes()
    push(made / "adapter", base="owner/base")
    sent = json.loads(fake.sent["adapter_config.json"])
    assert sent["base_model_name_or_path"] == "owner/base"
    assert sent == json.loads(before) | {"base_model_name_or_path": "owner/base"}
    assert b"\nbase_model: owner/base\n---\n" in fake.sent["README.md"] and b"# A policy" in fake.sent["README.md"]
    assert (made / "adapter" / "adapter_config.json").read_bytes() == before
    with pytest.raises(UserError, match="is a whole model and has no base"):
        push(made / "model", base="owner/base")


def test_another_base_takes_the_place_of_the_one_that_the_adapter_names(made, hub, tmp_path):
    """A base may have moved on the hub. The card that is sent names one base."""
    fake, adapter = hub(), copied(made / "adapter", tmp_path / "adapter")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "old/base"}))
    card = (adapter / "README.md").read_text()
    (adapter / "README.md").write_text(card.replace("library_name", "base_model: old/base\nlibrary_name", 1))
    push(adapter)
    assert b"base_model: old/base\n" in fake.sent["README.md"]
    push(adapter, base="new/base")
    assert json.loads(fake.sent["adapter_config.json"])["base_model_name_or_path"] == "new/base"
    assert [line for line in fake.sent["README.md"].splitlines() if b"base_model" in line] == [b"base_model: new/base"]


def test_other_files_stay_here_and_are_listed(folder, hub, capsys):
    (folder / "samples.jsonl").write_text('{"prompt": "private"}\n')
    (folder / "notes").mkdir()
    (folder / ".secret").write_text("hf_" + "a" * 30)
    fake = hub()
    push(folder, dry_run=True)
    assert fake.asked == [] and fake.sent == {}
    shown = capsys.readouterr().out
    assert "left out: .secret, notes, samples.jsonl" in shown and "nothing was sent" in shown
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size:,} bytes  model.safetensors" in shown
    push(folder)
    assert not {".secret", "samples.jsonl", "notes"} & fake.sent.keys() and "config.json" in fake.sent


def test_a_dry_run_needs_no_token_and_no_network(folder, hub):
    hub(token=None, offline=True)
    push(folder, dry_run=True)


# -- what is refused before anything is sent -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pytorch_model.bin", "x", "pytorch_model.bin: a pickle can run code"),
        ("optimizer.pt", "x", "optimizer.pt: a pickle can run code"),
        ("model.safetensors", "x", "is damaged or no safetensors file"),
        ("README.md", "# no front matter\n", "no model card that names its library"),
        ("README.md", "---\nlibrary_name: x\n---\nhf_" + "a" * 30, r"README.md holds an access token \(hf_aaa…\)"),
        ("generation_config.json", '{"a": "https://me:word@host/"}', "a password in an address"),
        ("tokenizer_config.json", '{"a": "/home/me/runs/x"}', "a folder of this machine .*/home/me/runs/x"),
        ("config.json", '{"model_type": "llama", "auto_map": {"AutoModel": "m.M"}}', "Python code of its own"),
        ("chat_template.jinja", "-----BEGIN PRIVATE KEY-----", "a private key"),
    ],
)
def test_a_folder_with_this_in_it_is_not_sent(name, text, message, folder, hub):
    fake = hub()
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        push(folder)
    assert fake.asked == [] and "hf_" + "a" * 30 not in str(refused.value)


def test_a_link_out_of_the_folder_is_not_followed(folder, hub, made, tmp_path):
    fake = hub()
    (tmp_path / "private.json").write_text("{}")
    (folder / "vocab.json").symlink_to(tmp_path / "private.json")
    with pytest.raises(UserError, match="symlink that leads out"):
        push(folder)
    adapter = copied(made / "adapter", tmp_path / "adapter")
    (adapter / "vocab.json").symlink_to(tmp_path / "private.json")
    with pytest.raises(UserError, match="symlink that leads out"):
        push(adapter, base="owner/base")
    assert fake.asked == []


def test_a_folder_without_weights_or_card_or_model(folder, hub, tmp_path):
    hub()
    os.remove(folder / "README.md")
    with pytest.raises(UserError, match="no model card"):
        push(folder)
    os.remove(folder / "model.safetensors")
    with pytest.raises(UserError, match="holds no \\*.safetensors"):
        push(folder)
    (tmp_path / "config.yaml").write_text("verb: sft\n")
    with pytest.raises(UserError, match=r"has no model/ or adapter/ yet"):
        push(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        push(tmp_path / "nothing")


# -- the hub says no ------------------------------------------------------------------------------


def test_without_token_or_offline_nothing_is_asked(folder, hub):
    fake = hub(token=None)
    with pytest.raises(UserError, match="no token for the hub: log in with `hf auth login`, or set HF_TOKEN"):
        push(folder)
    fake = hub(offline=True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push(folder)
    assert fake.asked == []


def test_private_never_goes_into_a_public_repository(folder, hub):
    fake = hub(Hub(public=["owner/name"]))
    with pytest.raises(UserError, match="owner/name exists and is public"):
        push(folder, private=True)
    assert fake.sent == {}
    push(folder)
    assert fake.sent


def refusal(status):
    error = OSError("Forbidden: no rights\nmore")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


def test_a_refusal_of_the_hub_is_a_sentence(folder, hub):
    hub(Hub(refuses=refusal(403)))
    with pytest.raises(UserError, match=r"does not let this token write to owner/name \(Forbidden: no rights\)"):
        push(folder)
    for problem in (refusal(500), ConnectionError("no route to host")):
        hub(Hub(refuses=problem))
        with pytest.raises(RunFailed, match="owner/name was not sent .* whole or not at all"):
            push(folder)
