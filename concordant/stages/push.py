"""``concordant push``: send a policy, a reward model or an adapter to a hub, after its files were looked at."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concordant.config.checks import checked
from concordant.config.specs import ADAPTER_CONFIG
from concordant.config.stages import PushConfig
from concordant.core.counted import counted
from concordant.core.errors import RunFailed, UserError
from concordant.core.visible import say
from concordant.models.card import CARD, is_hub_id
from concordant.models.shareable import Shareable, look_at, secrets_in
from concordant.runs.names import ADAPTER, CONFIG, MODEL
from concordant.training.progress import current

Contents = Mapping[str, Path | bytes]  # by the name on the hub


@checked
def push(config: PushConfig) -> None:
    """Send the model in ``folder`` to ``id`` as one commit; with ``dry_run`` list what would be sent."""
    folder = _model_folder(Path(os.path.expanduser(config.folder)))
    found = look_at(folder)
    contents = _contents(found, config.base, folder)
    texts = [(name, _text(what)) for name, what in contents.items() if not name.endswith(".safetensors")]
    if secrets := secrets_in(texts):
        raise UserError(f"{folder}: not sent, because " + "; ".join(secrets) + ". Remove it from the file")
    if config.dry_run:
        _show(config, folder, contents, found.left_out)
        return
    say(_send(config, contents))


def _model_folder(folder: Path) -> Path:
    """``folder`` itself, or the result inside a run folder."""
    if not folder.is_dir():
        raise UserError(f'no folder "{folder}"; expected a run folder, a model or an adapter')
    if not (folder / CONFIG).is_file():
        return folder
    results = [folder / name for name in (MODEL, ADAPTER) if (folder / name).is_dir()]
    if not results:
        raise UserError(f'the run "{folder}" has no {MODEL}/ or {ADAPTER}/ yet; they are written at its end')
    if len(results) > 1:
        current().message(f"{folder} has a merged model and an adapter: the model is taken; {results[1]} is the other")
    return results[0]


def _contents(found: Shareable, base: str, folder: Path) -> Contents:
    """The files by name; of an adapter, with the hub id of its base in them."""
    contents: dict[str, Path | bytes] = {path.name: path for path in found.files}
    if found.adapter is None:
        if base:
            raise UserError(f"base={base}: {folder} is a whole model and has no base; leave base out")
        return contents
    named = base or found.adapter.base_name or ""
    if not is_hub_id(named):
        raise UserError(
            f'the adapter\'s base is "{named}", which nobody else has: push the base first, then give its id as '
            "--base OWNER/NAME"
        )
    if base:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = base
        contents[ADAPTER_CONFIG] = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
        contents[CARD] = _with_base((folder / CARD).read_text(encoding="utf-8"), base).encode()
    return contents


def _with_base(card: str, base: str) -> str:
    """The card with ``base`` as base_model in its front matter."""
    _, front, body = card.split("---\n", 2)
    lines = [line for line in front.splitlines() if not re.match(r"base_model\s*:", line)]
    return "---\n" + "\n".join([*lines, f"base_model: {base}"]) + f"\n---\n{body}"


def _text(what: Path | bytes) -> str:
    data = what.read_bytes() if isinstance(what, Path) else what
    return data.decode("utf-8", "replace")


def _size(what: Path | bytes) -> int:
    return what.stat().st_size if isinstance(what, Path) else len(what)


def _show(config: PushConfig, folder: Path, contents: Contents, left_out: list[str]) -> None:
    visibility = "private" if config.private else "as the hub's default says, mostly public"
    say(f"{folder} -> {config.id} ({visibility})")
    for name, what in contents.items():
        say(f"  {_size(what):>15,} bytes  {name}")
    if left_out:
        say(f"  left out: {', '.join(left_out)}")
    say("nothing was sent (dry_run)")


def _send(config: PushConfig, contents: Contents) -> str:
    """Send the files as one commit; the commit's address."""
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be sent; unset it, or look with --dry_run")
    if huggingface_hub.get_token() is None:
        raise UserError("no token for the hub: log in with `hf auth login`, or set HF_TOKEN to one that may write")
    current().message(f"sending {counted(len(contents), 'file')} to {config.id}")
    api = huggingface_hub.HfApi()
    try:
        if config.private and api.repo_exists(config.id) and not api.repo_info(config.id).private:
            raise UserError(f"{config.id} exists and is public; make it private on the hub first, or choose another id")
        api.create_repo(config.id, private=config.private or None, exist_ok=True)
        operations = [
            huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=what)
            for name, what in contents.items()
        ]
        commit = api.create_commit(config.id, operations, commit_message="Upload a model with Concordant")
    except UserError:
        raise
    except Exception as problem:  # of the network, the hub or its library, whose classes differ between versions
        raise _refusal(config.id, problem) from problem
    return str(commit.commit_url)


def _refusal(name: str, problem: Exception) -> UserError | RunFailed:
    status = getattr(getattr(problem, "response", None), "status_code", None)
    line: Any = next(iter(str(problem).strip().splitlines()), "")
    if status in (401, 403):
        return UserError(f"the hub does not let this token write to {name} ({line}); see `hf auth whoami`")
    return RunFailed(
        f"{name} was not sent ({type(problem).__name__}: {line}); a commit is there whole or not at all, so the same "
        "command can be repeated"
    )
