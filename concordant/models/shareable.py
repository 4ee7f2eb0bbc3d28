"""What of a model folder may be shown to others: which files are sent, and what must not be in them.

Nothing here loads a tensor or torch.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.models.card import CARD, front_matter
from concordant.models.locate import PICKLES, is_adapter, read_settings, refuse_ways_out
from concordant.models.peft_config import PeftConfig
from concordant.models.settings_files import read_index

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
SETTINGS = ("config.json", "generation_config.json", "adapter_config.json", "chat_template.jinja", "chat_template.json")
TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model")
PAPERS = (CARD, "LICENSE*", "NOTICE*")
SENT = (*WEIGHTS, *SETTINGS, *TOKENIZER, *VOCABULARY, *PAPERS)
_READ = (*SETTINGS, *TOKENIZER, CARD)  # the texts that are searched; a vocabulary holds any word

# Keys of hubs, of clouds and of forges, and a password inside an address.
_SECRETS = {
    "an access token": re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|gh[pousr]_\w{30,}|AKIA[0-9A-Z]{16})"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a password in an address": re.compile(r"\w+://[^\s/:@]+:[^\s/@]+@"),
    "a folder of this machine": re.compile(r"(?<![\w.:/])/(?:home|Users|root|mnt|media|tmp|var|data|scratch|work)/\S+"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shareable:
    """The files of a checked folder."""

    files: list[Path]  # what is sent, by name
    left_out: list[str]  # names of other files and folders, which stay here
    adapter: PeftConfig | None  # of an adapter folder


def look_at(folder: Path) -> Shareable:
    """The files of a policy, a reward model or an adapter that may be sent.

    Raises:
        UserError: the folder is no model, holds a pickle, has damaged weights or no model card, or leads out of itself.
    """
    entries = sorted(folder.iterdir())
    pickles = [path.name for path in entries if path.name.endswith(PICKLES)]
    if pickles:
        raise UserError(
            f'"{folder}" holds {", ".join(pickles[:3])}: a pickle can run code when it is read. Remove it; weights are '
            "sent as *.safetensors alone"
        )
    adapter = None
    if is_adapter(folder) and not (folder / "config.json").is_file():
        adapter = PeftConfig.read(folder / "adapter_config.json")
        refuse_ways_out(folder)
    else:
        read_settings(folder)
    read_headers(folder)
    if not front_matter(folder).get("library_name"):
        raise UserError(
            f'"{folder}" has no model card that names its library ({CARD} with front matter): export it again, or '
            "write one, https://huggingface.co/docs/hub/model-cards"
        )
    files = [path for path in entries if path.is_file() and any(fnmatch.fnmatch(path.name, form) for form in SENT)]
    names = {path.name for path in files}
    return Shareable(files=files, left_out=[path.name for path in entries if path.name not in names], adapter=adapter)


def secrets_in(texts: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each secret in ``texts``, pairs of a file's name and its contents."""
    found = []
    for name, text in texts:
        for what, form in _SECRETS.items():
            match = form.search(text) if any(fnmatch.fnmatch(name, read) for read in _READ) else None
            if match:
                shown = match[0] if what.startswith("a folder") else f"{match[0][:6]}…"
                found.append(f"{name} holds {what} ({shown[:80]})")
    return found


def read_headers(folder: Path) -> dict[str, int]:
    """How many numbers each tensor of the folder has. The headers of the files must fit the files; no tensor is read.

    Raises:
        UserError: a file is damaged, an index names a tensor that no file has, or there are no weights.
    """
    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    sizes[key] = math.prod(file.get_slice(key).get_shape())
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged or no safetensors file: {error}") from error
    for index in folder.glob("*.safetensors.index.json"):
        lost = set(read_index(index)) - set(sizes)
        if lost:
            raise UserError(
                f"{index} names {counted(len(lost), 'tensor')} that no file here has: {', '.join(sorted(lost)[:3])}"
            )
    if not sizes:
        raise UserError(f"{folder} holds no *.safetensors")
    return sizes
