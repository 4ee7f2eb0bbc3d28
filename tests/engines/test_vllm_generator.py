"""What vLLM's generator does around vLLM. The tests with ``installed`` run where vLLM is: `make vllm`."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.core.errors import UserError
from concordant.engines import roles
from concordant.engines.local.weights import LocalWeights
from concordant.engines.vllm import engine as vllm_engine
from concordant.engines.vllm import generator as vllm_generator
from concordant.engines.vllm.engine import VllmSettings, cache_bytes
from concordant.engines.vllm.generator import VllmGenerator
from concordant.engines.vllm.weights import Expected, write_config
from tests.engines.conformance.test_generator import build, random_prompts, same
from tests.engines.tiny import tiny_policy

installed = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")
VLLM = SamplingConfig(engine="vllm")
SETTINGS = VllmSettings(longest=64)


# -- weights ----------------------------------------------------------------------------------------


def test_a_tied_weight_is_sent_once_and_a_foreign_model_is_refused(tmp_path):
    model = build("llama, tied")
    write_config(model, str(tmp_path))
    expected, tensors = Expected(str(tmp_path)), dict(model.state_dict())
    sent = dict(expected.checked(tensors))
    assert "lm_head.weight" in tensors and "lm_head.weight" not in sent
    assert sum(t.numel() for t in sent.values()) == sum(p.numel() for p in model.parameters())
    norm = tensors.pop("model.norm.weight")
    with pytest.raises(ValueError, match=r"missing model.norm.weight \(1 in all\), unknown none"):
        expected.checked(tensors)
    with pytest.raises(ValueError, match="missing none.*unknown model.extra"):
        expected.checked(tensors | {"model.norm.weight": norm, "model.extra": norm})
    with pytest.raises(ValueError, match=r"model.norm.weight has shape \(3,\); expected \(32,\)"):
        expected.checked(tensors | {"model.norm.weight": norm[:3]})


def test_the_cache_holds_every_slot_at_its_longest_and_is_bounded():
    """Two layers, two key/value heads of size 8, fp32: 256 bytes a token. 64 tokens fill one block of 128."""
    config = build("llama").config
    assert cache_bytes(config, VllmSettings(longest=64, slots=10), 2**40) == 12 * 128 * 256
    assert cache_bytes(config, VllmSettings(longest=200, slots=10, precision=torch.bfloat16), 2**40) == 22 * 128 * 128
    assert cache_bytes(config, VllmSettings(longest=64, slots=10), 0) == 3 * 128 * 256, "one response always fits"


def test_settings_can_be_sent_to_an_actor():
    settings = VllmSettings(longest=9, precision=torch.bfloat16, sleeps=True)
    assert pickle.loads(pickle.dumps(settings)) == settings


# -- calls, with an engine that only remembers them -------------------------------------------------


class Remembering:
    """An engine that samples token 7 and, with ``lost_version``, forgets the name of its weights."""

    def __init__(self, lost_version: bool = False) -> None:
        self.calls: list[str] = []
        self.lost_version, self.weight_version = lost_version, "default"
        self.requests: dict[str, int] = {}
        self.most_at_once = 0
        parts = SimpleNamespace(shutdown=lambda: self.calls.append("shutdown"))
        self.engine_core = SimpleNamespace(engine_core=SimpleNamespace(model_executor=parts, scheduler=parts))
        self.model_config = SimpleNamespace(get_vocab_size=lambda: 97)

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> bool:
            self.calls.append(name)
            return True

        return call

    def set_weight_version(self, version: str) -> None:
        self.weight_version = "-5" if self.lost_version else version

    def get_weight_version(self) -> str:
        return self.weight_version

    def add_request(self, name: str, prompt: Any, parameters: int) -> None:
        self.calls.append("add_request")
        self.requests[name] = parameters
        self.most_at_once = max(self.most_at_once, len(self.requests))

    def step(self) -> list[Any]:
        new = SimpleNamespace(token_ids=[7], logprobs=SimpleNamespace(logprobs=[-0.5]))
        outputs = []
        for name in list(self.requests):
            self.requests[name] -= 1
            outputs.append(SimpleNamespace(request_id=name, outputs=[new], finished=self.requests[name] == 0))
            if self.requests[name] == 0:
                del self.requests[name]
        return outputs


@pytest.fixture
def remembering(monkeypatch, tmp_path):
    def make(device: str, **settings: Any) -> tuple[VllmGenerator, Remembering, LlamaForCausalLM]:
        engine, model = Remembering(**settings), build("llama")
        write_config(model, str(tmp_path))
        monkeypatch.setattr(vllm_generator, "start", lambda *args: engine)
        monkeypatch.setattr(vllm_generator, "can_sleep", lambda: device == "cuda")
        monkeypatch.setattr(vllm_generator, "device_type", lambda: device)
        monkeypatch.setattr(vllm_engine, "device_type", lambda: device)
        monkeypatch.setattr(VllmGenerator, "_parameters", lambda self, s, sampling: s.room)
        return VllmGenerator(str(tmp_path), [2], VllmSettings(longest=64, sleeps=True)), engine, model

    return make


def test_nothing_is_sampled_before_the_first_weights(remembering):
    generator, _, _ = remembering("cpu")
    with pytest.raises(RuntimeError, match="call load_weights first"):
        generator.generate(random_prompts(3), SamplingConfig(max_new_tokens=2), 0)


def test_old_keys_and_values_are_dropped_and_the_version_is_read_back(remembering):
    generator, engine, model = remembering("cpu")
    generator.load_weights(LocalWeights(model, 6))
    assert engine.calls == ["collective_rpc", "apply_model", "reset_prefix_cache"] and generator.version == 6
    ((c,),) = generator.generate(random_prompts(3), SamplingConfig(max_new_tokens=2), 0).result()
    assert (c.version, c.ids_T.tolist(), c.finish_reason) == (6, [7, 7], "length")


def test_an_engine_that_names_other_weights_stops_the_run(remembering):
    generator, _, model = remembering("cpu", lost_version=True)
    with pytest.raises(RuntimeError, match="says that its weights are of version -5; sent was 6"):
        generator.load_weights(LocalWeights(model, 6))


def test_on_a_gpu_it_sleeps_between_calls_and_a_cpu_never_sleeps(remembering):
    for device, expected in (("cuda", ["sleep", "wake_up", "sleep", "wake_up"]), ("cpu", [])):
        generator, engine, model = remembering(device)
        generator.load_weights(LocalWeights(model, 0))
        for _ in range(2):
            generator.generate(random_prompts(3), SamplingConfig(max_new_tokens=2), 0).result()
        generator.load_weights(LocalWeights(model, 1))
        assert [call for call in engine.calls if call in ("sleep", "wake_up")] == expected
        assert ("apply_model" in engine.calls) == (device == "cpu"), "only the CPU build keeps packed copies"


def test_a_forgotten_generator_stops_its_engine(remembering):
    generator, engine, _ = remembering("cpu")
    assert "shutdown" not in engine.calls
    del generator
    gc.collect()
    assert engine.calls == ["shutdown"] * 2, "executor and scheduler"


def test_no_more_responses_are_sampled_at_once_than_there_are_slots(remembering):
    generator, engine, model = remembering("cpu")
    generator.load_weights(LocalWeights(model, 0))
    out = generator.generate(random_prompts(3, 5), SamplingConfig(n=4, max_new_tokens=3, slots=3), 0).result()
    assert engine.most_at_once == 3 and [len(group) for group in out] == [4, 4]


# -- what a user can get wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 2.5}, "vLLM takes 0 and temperatures from 0.01 to 2"),
        ({"temperature": 0.001}, "vLLM takes 0 and temperatures from 0.01 to 2"),
        ({"min_p": 0.1, "top_p": 0.9}, "vLLM applies min_p before top_p"),
    ],
)
def test_settings_that_mean_something_else_in_vllm_are_refused(remembering, changes, message):
    generator, _, model = remembering("cpu")
    generator.load_weights(LocalWeights(model, 0))
    with pytest.raises(UserError, match=message):
        generator.generate(random_prompts(3), SamplingConfig(**changes), 0)


def test_without_vllm_the_error_says_how_to_get_it(monkeypatch):
    for name in ("vllm", "vllm.platforms"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"vLLM is not installed.*concordant\[vllm\].*make vllm"):
        roles.generator(tiny_policy(), [3], ModelConfig(device="cpu"), VLLM, 64)


def test_a_build_for_another_device_is_refused(monkeypatch):
    monkeypatch.setattr(roles, "device_type", lambda: "cuda")
    with pytest.raises(UserError, match="computes on cuda, and the policy is on cpu"):
        roles.generator(tiny_policy(), [3], ModelConfig(device="cpu"), VLLM, 64)


@installed
def test_a_head_size_without_code_is_refused_before_vllm_starts():
    with pytest.raises(UserError, match=r"no attention for heads of size 16.*has code for 32, 64.*engine own"):
        roles.generator(tiny_policy(), [3], ModelConfig(device="cpu", precision="fp32"), VLLM, 64)


@installed
def test_a_model_without_attention_is_refused_before_vllm_starts():
    policy = tiny_policy()
    policy.model = MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, state_size=4))
    with pytest.raises(UserError, match="no code for mamba models, which have no attention heads"):
        roles.generator(policy, [3], ModelConfig(device="cpu", precision="fp32"), VLLM, 64)


# -- in this process --------------------------------------------------------------------------------


@installed
def test_the_process_is_left_as_it_was_and_the_weights_are_a_copy():
    policy = tiny_policy(hidden_size=64)
    set_threads, threads, states = (
        torch.set_num_threads,
        torch.get_num_threads(),
        (random.getstate(), torch.get_rng_state()),
    )
    generator = roles.generator(policy, [3], ModelConfig(device="cpu", precision="fp32"), VLLM, 64)
    prompts, sampling = random_prompts(5, 9), SamplingConfig(n=2, max_new_tokens=6)
    before = generator.generate(prompts, sampling, 1).result()
    assert torch.set_num_threads is set_threads and torch.get_num_threads() == threads
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert gc.get_freeze_count() == 0
    kept = copy.deepcopy(policy.model.state_dict())
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.1 * torch.sin(torch.arange(p.numel(), dtype=torch.float32)).view_as(p))
    after = generator.generate(prompts, sampling, 1).result()
    assert all(
        torch.equal(a.logprob_T, b.logprob_T)
        for x, y in zip(before, after, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    generator.load_weights(LocalWeights(policy.model, 1))
    moved = generator.generate(prompts, sampling, 1).result()
    assert moved[0][0].version == 1 and not torch.allclose(moved[0][0].logprob_T[:1], before[0][0].logprob_T[:1])
    policy.model.load_state_dict(kept)
    generator.load_weights(LocalWeights(policy.model, 2))
    assert torch.equal(generator.generate(prompts, sampling, 1).result()[0][0].ids_T, before[0][0].ids_T)


@installed
def test_prompts_that_do_not_fit_into_one_pass_wait_for_the_next(monkeypatch):
    """Six prompts of 50 tokens, 120 tokens a pass: no prompt is read in parts, and no response changes.

    The first generator is forgotten while the second one lives and leaves the second one whole.
    """
    policy = tiny_policy(hidden_size=64)
    prompts, sampling = random_prompts(*[50] * 6), SamplingConfig(n=2, max_new_tokens=5)
    answers = []
    for tokens in (8192, 120):
        monkeypatch.setattr(vllm_engine, "PREFILL_TOKENS", tokens)
        generator = roles.generator(policy, [3], ModelConfig(device="cpu", precision="fp32"), VLLM, 64)
        answers.append(generator.generate(prompts, sampling, 0).result())
    assert same(*answers)


@installed
def test_a_folder_with_weights_needs_no_other(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=97, num_key_value_heads=2, initializer_range=0.3, **sizes))
    model.save_pretrained(tmp_path)
    generator = VllmGenerator(str(tmp_path), (), SETTINGS, version=3)
    (prompt,) = random_prompts(5)
    ((c,),) = generator.generate([prompt], SamplingConfig(max_new_tokens=8), 0).result()
    with torch.no_grad():
        logits = model(torch.cat([prompt, c.ids_T])[None]).logits[0, 4:-1]
    expected = logits.log_softmax(-1).gather(1, c.ids_T[:, None])[:, 0]
    torch.testing.assert_close(c.logprob_T, expected, atol=1e-4, rtol=0)
    assert c.version == 3
