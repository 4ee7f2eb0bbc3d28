"""What a reward model starts from: a policy, an encoder, an adapter; and what it adds of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
)

from concordant.config.model import LoraConfig, ModelConfig
from concordant.core.errors import UserError
from concordant.core.trees import Branch, Layout, PromptTree, lay_out
from concordant.engines.reward_model import RewardModel
from concordant.models.load import load_policy, save_policy
from concordant.models.lora import lora_layers
from concordant.models.peft_files import save_adapter
from tests.engines.scored import DIALOGUES, check_saved, plain_scores, rows_of
from tests.models import zoo


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
    assert again == pytest.approx(made.score(DIALOGUES), rel=1e-5)  # bits follow memory's alignment


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
