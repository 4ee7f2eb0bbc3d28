"""Each model's presets train a tiny random model of its architecture. All settings but those of size, data and device
are the preset's own. The real weights are on a hub, which no test reaches.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

import concordant
from concordant.config.names import METHODS
from concordant.config.parse import parse_command
from concordant.data.tokenizer import CHAT_TEMPLATE, train_tokenizer
from concordant.models.load import Policy, save_policy
from concordant.models.traits import prepare_model
from concordant.stages import common
from concordant.verbs import VERBS, call
from tests.stages.preset_memory import FACTS
from tests.stages.small import metrics_of

# Templates that read what the real ones read: Qwen3 a thought, Llama 3.2 the day, Gemma turns that take turns.
THOUGHT = "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}"
TEMPLATES = {
    "smollm2-135m": CHAT_TEMPLATE,
    "qwen3-0.6b": CHAT_TEMPLATE + THOUGHT + "{% endif %}",
    "qwen3-4b": CHAT_TEMPLATE + THOUGHT + "{% endif %}",
    "llama-3.2-1b": "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}" + CHAT_TEMPLATE,
    "gemma-3-1b": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHAT_TEMPLATE,
}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
PRESETS = ["smollm2-135m/cpu", "qwen3-0.6b/24gb", "qwen3-4b/24gb", "llama-3.2-1b/24gb", "gemma-3-1b/80gb"]
SMALLER = [
    "--model.device=cpu", "--train.max_steps=2", "--train.tensorboard=false",
    "--data.test_fraction=0.3", "--data.max_prompt_tokens=64",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pairs whose questions have two messages of the user in a row, as merge_turns joins them."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"prompt": [{"role": "user", "content": "good day"}, {"role": "user", "content": f"where is owl {i}"}],
         "chosen": f"the owl {i} is in a tree", "rejected": "no"}
        for i in range(16)
    ]  # fmt: skip
    rows = [row | {"prompt": row["prompt"][i % 2 :]} for i, row in enumerate(rows)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "pairs.jsonl")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a tiny random model for each preset's model, with its architecture and a template like its own."""
    folders = {}
    tokenizer = train_tokenizer(["where is the owl in a tree no good day 0123456789"] * 5, 320)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    for name, facts in FACTS.items():
        layers = 6 if facts.kind == "gemma3_text" else 2  # Gemma 3: five layers with a window, one without
        config = facts.config(**SIZES, **ends, num_hidden_layers=layers, vocab_size=len(tokenizer))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        tokenizer.chat_template = TEMPLATES[name]
        folders[name] = tmp_path_factory.mktemp("models") / name
        save_policy(Policy(model=model, tokenizer=tokenizer, traits=prepare_model(model), name=name), folders[name])
    return folders


@pytest.mark.parametrize("method", [m for m in METHODS if m != "distill"])  # which needs a second model
@pytest.mark.parametrize("name", PRESETS)
def test_two_steps_with_a_preset(name, method, data, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "PROBE_PROMPTS", 2)
    sampled, probe_of = [], common.probe_of
    monkeypatch.setattr(common, "probe_of", lambda *given: sampled.append(given[5]) or probe_of(*given))
    model = name.partition("/")[0]
    arguments = ["--preset", name, "--data", data, "--output", str(tmp_path / "run"), *SMALLER]
    arguments += ["--model.name", str(tiny[model])]
    if method == "ppo":
        arguments += ["--reward", "tests.stages.small:letters", "--sampling.max_new_tokens=6"]
    else:
        arguments += ["--data.max_response_tokens=16"]
    config, _ = parse_command(method, VERBS[method].config_class(), arguments)
    folder = call(method, config)
    rows = metrics_of(folder)
    assert len(rows) == 2 and all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    assert not any(row.get("skipped") for row in rows)
    if method == "dpo":
        assert [sampling.slots for sampling in sampled] == [config.evaluation_slots]
    if method != "reward":
        assert concordant.load_policy(str(folder / "model")).model.config.model_type == FACTS[model].kind
