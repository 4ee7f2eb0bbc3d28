"""Plain text without a dialogue: a file is read, and its tokens become windows of equal length."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from concordant.core.errors import UserError
from concordant.core.trees import Branch, PromptTree
from concordant.data.tokens import ids_of

WINDOW = 256  # tokens


def read_text(path: str, key: str, characters: int) -> str:
    """The first ``characters`` of the UTF-8 file ``path``, which the setting ``key`` names.

    Raises UserError if there is no such text.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(characters)
    except OSError as problem:
        raise UserError(f"{key}: cannot read {path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{key}: {path} is not UTF-8 text") from None
    if not text.strip():
        raise UserError(f"{key}: {path} is empty")
    return text


def windows(tokenizer: PreTrainedTokenizerBase, text: str, longest: int) -> list[PromptTree]:
    """``text`` as trees of ``WINDOW`` tokens, or of ``longest`` if that is less. Each tree's first token is its prompt.

    A last window of one token, which predicts nothing, is left out.
    """
    ids = torch.tensor(ids_of(tokenizer, [text])[0])
    pieces = [piece for piece in ids.split(min(WINDOW, longest)) if len(piece) > 1]
    return [PromptTree(piece[:1], (Branch.response(piece[1:]),)) for piece in pieces]
