"""``concordant prepare``: raw preferences to sft, rm and rl sets, with a data card."""

from __future__ import annotations

from pathlib import Path

from concordant.config.checks import checked
from concordant.config.stages import PrepareConfig
from concordant.core.errors import UserError
from concordant.data.card import CountTokens
from concordant.data.prepare import prepare as prepare_data
from concordant.runs.writable import check_folder


@checked
def prepare(config: PrepareConfig) -> Path:
    """Write the sets and the data card to ``output``, and show the card."""
    check_folder(Path(config.output).expanduser())
    prepare_data(config, _token_counter(config)).show()
    return Path(config.output)


def _token_counter(config: PrepareConfig) -> CountTokens | None:
    """Counts with the model's tokenizer where one is named; a built-in model has none before it has data."""
    if not config.model.name:
        return None
    if config.model.name.startswith("builtin:"):
        raise UserError("a built-in model's tokenizer is made from the data: name a model folder, or count words")
    from concordant.models.load import load_tokenizer  # with torch: seconds that counting words need not wait for
    from concordant.models.locate import locate

    tokenizer = load_tokenizer(locate(config.model.name), config.model.trust_remote_code)

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    return count
