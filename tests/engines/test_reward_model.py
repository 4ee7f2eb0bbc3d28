"""A reward model's numbers: where they are read, that nothing around them counts, and that others read the same."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch

from concordant.config.model import LoraConfig, ModelConfig
from concordant.core.errors import UserError
from concordant.core.losses import compute_preference_loss
from concordant.core.trees import Layout, lay_out
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message
from concordant.engines.reward_model import RewardModel
from concordant.models.load import save_policy
from concordant.models.lora import lora_layers
from tests.engines.scored import DIALOGUES, MINILM, check_saved, rows_of, say
from tests.models import zoo

# -- the numbers ----------------------------------------------------------------------------------


def test_plain_transformers_gives_the_same_numbers(decoder: RewardModel, tmp_path: Path) -> None:
    check_saved(decoder, tmp_path)


def test_plain_transformers_gives_the_same_numbers_with_a_real_encoder(tmp_path: Path) -> None:
    made = RewardModel.from_backbone(ModelConfig(name=MINILM))
    assert made.is_encoder and made.layout is Layout.FLAT
    check_saved(made, tmp_path)


def test_the_last_response_token_is_scored(decoder: RewardModel) -> None:
    """By hand: the head on the backbone's state at the end of a row without padding."""
    for dialogue, score in zip(DIALOGUES, decoder.score(DIALOGUES), strict=True):
        (row,) = rows_of(decoder, [dialogue])
        with torch.no_grad():
            last_H = decoder.model.base_model(row[None]).last_hidden_state[0, -1]
            expected = decoder.model.score.weight[0] @ last_H
        assert expected.item() == pytest.approx(score, abs=1e-5)


def test_score_of_a_batch_equals_score_of_one(either: RewardModel) -> None:
    together = either.score(DIALOGUES)
    alone = [either.score([d])[0] for d in DIALOGUES]
    reversed_ = either.score(DIALOGUES[::-1])[::-1]
    assert together == pytest.approx(alone, abs=1e-5) == reversed_


def test_a_text_is_scored_as_it_is(decoder: RewardModel) -> None:
    """The rendered dialogue as a string has the dialogue's ids, EOS included, once."""
    text = decoder.tokenizer.decode(rows_of(decoder, DIALOGUES[:1])[0])
    expected = decoder.score(DIALOGUES[:1])[0]
    assert decoder.score(text) == pytest.approx(expected, abs=1e-6)
    assert decoder.score([text.removesuffix("<|end|>")]) == pytest.approx([expected], abs=1e-6)


def test_texts_dialogues_and_dicts_mix_in_order(either: RewardModel) -> None:
    rows = [{"role": m.role, "content": m.content} for m in DIALOGUES[1]]
    mixed = either.score(["water the plant", DIALOGUES[0], "the owl", rows])
    wanted = [*either.score(["water the plant"]), *either.score(DIALOGUES[:1]), either.score("the owl")]
    assert mixed == pytest.approx([*wanted, *either.score(DIALOGUES[1:2])], abs=1e-5)


def test_responses_that_share_a_prompt_score_as_alone(either: RewardModel) -> None:
    prompt, answers = DIALOGUES[0][:1], ["brown", "blue", "the owl is old"]
    (row,) = either.score_responses([prompt], [answers])
    assert row == pytest.approx([either.score([[*prompt, Message("assistant", a)]])[0] for a in answers], abs=1e-5)


def test_the_same_call_twice_and_lora_dropout_off(tmp_path: Path) -> None:
    save_policy(zoo.policy("Llama"), tmp_path / "sft")
    made = RewardModel.from_backbone(ModelConfig(name=str(tmp_path / "sft"), lora=LoraConfig(rank=2, dropout=0.5)))
    for layer in lora_layers(made.model).values():
        torch.nn.init.normal_(layer.adapter("default").lora_B)
    assert made.model.training
    assert made.score(DIALOGUES) == made.score(DIALOGUES)
    assert made.model.training


def test_what_is_too_long_loses_its_start(either: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 48
    monkeypatch.setattr(either.tokenizer, "model_max_length", limit)
    answer = "it sleeps"
    long, longer = (say("old oak " * n, answer) for n in (3 * limit, 4 * limit))
    assert either.score([long]) == pytest.approx(either.score([longer]), abs=1e-5)
    sibling = either.score_responses([long[:1]], [[answer, "by day " * limit]])[0][0]
    assert sibling == pytest.approx(either.score([long])[0], abs=1e-5)
    assert math.isfinite(either.score("owl " * 3 * limit)) and math.isfinite(
        either.score([say("a", "owl " * limit)])[0]
    )


# -- comparing ------------------------------------------------------------------------------------


def test_confidence_is_a_probability(either: RewardModel) -> None:
    a, b = DIALOGUES[0], DIALOGUES[1]
    score_a, score_b = either.score([a, b])
    forth, back = either.compare(a, b), either.compare(b, a)
    assert forth["score_diff"] == forth["score_a"] - forth["score_b"] == -back["score_diff"]
    assert forth["score_diff"] == pytest.approx(score_a - score_b, abs=1e-5)
    assert forth["preference"] == ("a" if score_a > score_b else "b")
    assert {forth["preference"], back["preference"]} == {"a", "b"}
    for verdict in (forth, back):
        assert verdict["confidence"] == pytest.approx(1 / (1 + math.exp(-abs(score_a - score_b))), abs=1e-5)
    same = either.compare(a, a)
    assert (same["preference"], same["confidence"], same["score_diff"]) == ("tie", 0.5, 0.0)


def test_confidence_stays_within_bounds_and_softens_with_temperature() -> None:
    made = RewardModel.from_backbone(zoo.policy("Llama"))
    with torch.no_grad():
        made.model.score.weight *= 1e5
    assert made.compare(DIALOGUES[0], DIALOGUES[1])["confidence"] == 1.0
    made.temperature = 1e9
    assert made.compare(DIALOGUES[0], DIALOGUES[1])["confidence"] == pytest.approx(0.5, abs=1e-3)


def test_preference_loss_by_hand() -> None:
    """Scores 2.0, 1.5 against 0.5, 0.3: -ln σ(1.5) = 0.20141, -ln σ(1.2) = 0.26328."""
    chosen, rejected = torch.tensor([2.0, 1.5]), torch.tensor([0.5, 0.3])
    loss, metrics = compute_preference_loss(chosen, rejected)
    assert loss.item() == pytest.approx((0.20141 + 0.26328) / 2, abs=1e-5)
    assert metrics["accuracy"] == 1.0
    assert metrics["margin"] == pytest.approx(1.35)
    # Rewards 0.73 and 0.21: P = 0.627, loss 0.467.
    loss, _ = compute_preference_loss(torch.tensor([0.73]), torch.tensor([0.21]))
    assert (loss.item(), math.exp(-loss.item())) == pytest.approx((0.467, 0.627), abs=1e-3)
    # (1.5 - 0.5) / 2 = 0.5: -ln σ(0.5) = 0.47408
    loss, _ = compute_preference_loss(chosen[:1], rejected[:1], margin=0.5, temperature=2.0)
    assert loss.item() == pytest.approx(0.47408, abs=1e-5)
    assert compute_preference_loss(chosen, chosen)[1]["accuracy"] == 0.5


def test_the_preference_loss_trains_head_and_backbone() -> None:
    """A constant in its place trained nothing, elsewhere."""
    made = RewardModel.from_backbone(zoo.policy("Llama"))
    pair = ChatEncoder(made.tokenizer).trees([DIALOGUES[0][:1]], [["brown", "blue"]]).trees
    batch = lay_out(pair, made.layout)
    optimizer = torch.optim.SGD(made.model.parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        score_B = made.scores(batch)[batch.caller_B.argsort()]
        loss, _ = compute_preference_loss(score_B[:1], score_B[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.model.score.parameters())
    assert made.model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


# -- what is refused ------------------------------------------------------------------------------


def test_pad_that_is_eos_is_said_and_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = RewardModel.from_backbone(zoo.policy("Llama"))
    expected = made.score(DIALOGUES)
    made.tokenizer.pad_token = made.tokenizer.eos_token
    made.model.config.pad_token_id = made.tokenizer.eos_token_id
    made.save(tmp_path / "rm")
    with caplog.at_level(logging.WARNING):
        assert RewardModel.from_pretrained(tmp_path / "rm").score(DIALOGUES) == pytest.approx(expected, rel=1e-6)
    assert "pad is the same as EOS" in caplog.text


def test_texts_that_cannot_be_scored(encoder: RewardModel) -> None:
    with pytest.raises(UserError, match="an empty text"):
        encoder.score(["a kind owl", " "])
    with pytest.raises(UserError, match="dialogue 1: expected at least two messages, the last the assistant's"):
        encoder.score(["a kind owl", [Message("user", "hello")]])


def test_one_dialogue_without_its_list_says_what_is_expected(either: RewardModel) -> None:
    dialogue = DIALOGUES[0]
    as_dicts = [{"role": m.role, "content": m.content} for m in dialogue]
    for given in (dialogue, as_dicts, dialogue[-1], as_dicts[-1], [as_dicts[-1]]):
        with pytest.raises(UserError, match=r"a single message was given.*For one dialogue: score\(\[messages\]\)"):
            either.score(given)
    with pytest.raises(UserError, match="expected a list of messages with role and content; found"):
        either.score([[{"role": "user"}, {"text": "hi"}]])
    with pytest.raises(UserError, match="expected a list of messages with role and content; found"):
        either.score([3])
    with pytest.raises(UserError, match="a single message was given"):
        either.compare(as_dicts[0], as_dicts[1])
