"""One side of ``bench.vllm``: samples everything once a turn. Runs in its own process, vLLM's in vLLM's environment."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from bench.generation import SMALL, prompts_like_hh
from bench.sides import Clock
from bench.turns import Turns
from concordant.config.sampling import SamplingConfig
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.weights import LocalWeights
from concordant.kernels.allocator import freed_memory_kept
from concordant.kernels.products import multiply
from concordant.kernels.put_on import put_on
from concordant.models.load import make_deterministic

MODELS = {
    "13.8 M": SMALL,
    "110 M": LlamaConfig(
        vocab_size=32_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=12, tie_word_embeddings=True,
    ),
}  # fmt: skip
Work = Callable[[], list[int]]  # samples everything; returns the length of each response


def model_of(name: str) -> PreTrainedModel:
    """The same random weights in every process."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MODELS[name], dtype=torch.float32).eval()
    make_deterministic(model)
    return model


def ours(settings: dict[str, Any], prompts: Sequence[Tensor]) -> Work:
    model = model_of(settings["model"])
    put_on(model)
    precision = torch.bfloat16 if settings["precision"] == "bf16" else None
    generator, seeds = LocalGenerator(model, (), precision=precision), iter(range(10**6))
    sampling = SamplingConfig(max_new_tokens=settings["new_tokens"])
    return lambda: [len(c.ids_T) for (c,) in generator.generate(prompts, sampling, next(seeds)).result()]


def through_our_generator(settings: dict[str, Any], prompts: Sequence[Tensor]) -> Work:
    """vLLM as PPO uses it: a seed for each response, log-probs of the processed distribution.

    Each turn sends the weights first, as each step does. So nothing is left in the cache of prompts.
    """
    from concordant.engines.vllm.engine import VllmSettings
    from concordant.engines.vllm.generator import VllmGenerator
    from concordant.engines.vllm.weights import write_config

    model, seeds = model_of(settings["model"]), iter(range(10**6))
    longest = max(map(len, prompts)) + settings["new_tokens"]
    precision = torch.bfloat16 if settings["precision"] == "bf16" else None
    with tempfile.TemporaryDirectory() as folder:
        write_config(model, folder)
        generator = VllmGenerator(folder, (), VllmSettings(longest=longest, precision=precision))
    sampling = SamplingConfig(max_new_tokens=settings["new_tokens"])

    def work() -> list[int]:
        seed = next(seeds)
        generator.load_weights(LocalWeights(model, seed))
        return [len(c.ids_T) for (c,) in generator.generate(prompts, sampling, seed).result()]

    return work


def vllm_alone(settings: dict[str, Any], prompts: Sequence[Tensor]) -> Work:
    """vLLM by its own front and defaults, compiled, without log-probs and without seeds: the least that it can do."""
    from concordant.engines.vllm.engine import device_type

    device_type()  # sets the environment that vLLM reads
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        model_of(settings["model"]).save_pretrained(folder)
        engine = LLM(
            model=folder,
            skip_tokenizer_init=True,
            dtype="bfloat16" if settings["precision"] == "bf16" else "float32",
            max_model_len=max(map(len, prompts)) + settings["new_tokens"],
            max_num_seqs=64,
            kv_cache_memory_bytes=2**31,
            enable_prefix_caching=False,  # the same prompts come in every turn
        )
    parameters = SamplingParams(max_tokens=settings["new_tokens"], ignore_eos=True, detokenize=False)
    given = [{"prompt_token_ids": prompt.tolist()} for prompt in prompts]
    return lambda: [len(o.outputs[0].token_ids) for o in engine.generate(given, parameters, use_tqdm=False)]


SIDES = {"ours": ours, "vLLM": vllm_alone, "vLLM as our generator": through_our_generator}


def flops(config: LlamaConfig, prompts: Sequence[Tensor], lengths: Sequence[int]) -> float:
    """Multiply-adds × 2 of prefill and decoding: 2 a weight and token, the head for sampled tokens alone, attention to
    what is visible; no embedding look-up."""
    width, layers = config.hidden_size, config.num_hidden_layers
    backbone = layers * (4 * width * width + 3 * width * config.intermediate_size)
    read = sum(len(p) + n - 1 for p, n in zip(prompts, lengths, strict=True))  # the last sampled token is not read
    pairs = sum((len(p) + n - 1) * (len(p) + n) / 2 for p, n in zip(prompts, lengths, strict=True))
    return 2.0 * (backbone * read + width * config.vocab_size * sum(lengths)) + 4.0 * layers * width * pairs


def gemm_rate(dtype: torch.dtype, threads: int) -> float:
    """Floating-point operations a second of processor time, of a square product of 2,048 rows by the faster library."""
    size, times = 2048, []
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    for product in (torch.mm, multiply):
        product(a, b)
        for _ in range(3):
            start = time.process_time()
            product(a, b)
            times.append((time.process_time() - start) / threads)
    return 2.0 * size**3 / min(times)


def main(settings: dict[str, Any]) -> None:
    clock = Clock(Turns())
    torch.set_num_threads(settings["threads"])
    config = MODELS[settings["model"]]
    prompts = prompts_like_hh(settings["prompts"], config.vocab_size)
    with freed_memory_kept():
        work = SIDES[settings["side"]](settings, prompts)
        clock.turns.report(torch=torch.__version__)
        while True:
            clock.wait()
            start = time.process_time()
            lengths = work()
            busy, seconds = (time.process_time() - start) / settings["threads"], clock.seconds()
            rate = gemm_rate(torch.bfloat16 if settings["precision"] == "bf16" else torch.float32, settings["threads"])
            numbers = {"tokens": sum(lengths), "flops": flops(config, prompts, lengths), "gemm_flops": rate}
            clock.report(seconds=seconds, busy_seconds=busy, **numbers)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
