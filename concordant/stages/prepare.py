"""``concordant prepare``: turn raw preference data into sft, rm and rl sets, with a data card."""

from __future__ import annotations

import os
from pathlib import Path

from concordant.config.checks import checked
from concordant.config.stages import PrepareConfig
from concordant.core.errors import UserError
from concordant.data.card import CountTokens
from concordant.data.prepare import prepare as prepare_data
from concordant.data.tokens import ids_of
from concordant.runs.writable import check_folder


@checked
def prepare(config: PrepareConfig) -> Path:
    """Write the sets and the data card to ``output``, and show the card."""
    check_folder(Path(os.path.expanduser(config.output)))
    prepare_data(config, _token_counter(config)).show()
    return Path(config.output)


def _token_counter(config: PrepareConfig) -> CountTokens | None:
    """A function that counts tokens with the named model's tokenizer; None without a model's name."""
    if not config.model.name:
        return None
    if config.model.name.startswith("builtin:"):
        raise UserError(
            "a built-in model's tokenizer is made from the data, so it cannot count tokens yet: "
            "name a model folder, or leave --model.name empty to count words"
        )
    from concordant.models.load import load_tokenizer  # imported here, because torch takes seconds
    from concordant.models.locate import locate

    tokenizer = load_tokenizer(locate(config.model.name), config.model.trust_remote_code)

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in ids_of(tokenizer, texts)]

    return count
