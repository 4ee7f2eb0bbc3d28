"""Shapes of models by their names on the hub, from the public config.json of each."""

from __future__ import annotations

from concordant.planning.shapes import Shape


def _qwen3(hidden: int, layers: int, heads: int, mlp: int, tied: bool) -> Shape:
    return Shape(
        kind="qwen3", vocabulary=151_936, hidden=hidden, layers=layers, heads=heads, kv_heads=8, head_size=128, mlp=mlp,
        tied=tied,
    )  # fmt: skip


def _llama(hidden: int, layers: int, heads: int, mlp: int, tied: bool) -> Shape:
    return Shape(
        kind="llama", vocabulary=128_256, hidden=hidden, layers=layers, heads=heads, kv_heads=8,
        head_size=hidden // heads, mlp=mlp, tied=tied,
    )  # fmt: skip


KNOWN: dict[str, Shape] = {
    "HuggingFaceTB/SmolLM2-135M": Shape(
        kind="llama", vocabulary=49_152, hidden=576, layers=30, heads=9, kv_heads=3, head_size=64, mlp=1_536, tied=True
    ),
    "openai-community/gpt2": Shape(
        kind="gpt2", vocabulary=50_257, hidden=768, layers=12, heads=12, kv_heads=12, head_size=64, mlp=3_072,
        tied=True, positions=1_024,
    ),
    "Qwen/Qwen2.5-0.5B": Shape(
        kind="qwen2", vocabulary=151_936, hidden=896, layers=24, heads=14, kv_heads=2, head_size=64, mlp=4_864,
        tied=True,
    ),
    "Qwen/Qwen3-0.6B": _qwen3(1_024, 28, 16, 3_072, True),
    "Qwen/Qwen3-1.7B": _qwen3(2_048, 28, 16, 6_144, True),
    "Qwen/Qwen3-4B": _qwen3(2_560, 36, 32, 9_728, True),
    "Qwen/Qwen3-8B": _qwen3(4_096, 36, 32, 12_288, False),
    "Qwen/Qwen3-14B": _qwen3(5_120, 40, 40, 17_408, False),
    "Qwen/Qwen3-32B": _qwen3(5_120, 64, 64, 25_600, False),
    "google/gemma-3-1b": Shape(
        kind="gemma3_text", vocabulary=262_144, hidden=1_152, layers=26, heads=4, kv_heads=1, head_size=256, mlp=6_912,
        tied=True,
    ),
    "meta-llama/Llama-3.2-1B": _llama(2_048, 16, 32, 8_192, True),
    "meta-llama/Llama-3.2-3B": _llama(3_072, 28, 24, 8_192, True),
    "meta-llama/Llama-3.1-8B": _llama(4_096, 32, 32, 14_336, False),
    "meta-llama/Llama-3.1-70B": _llama(8_192, 80, 64, 28_672, False),
}  # fmt: skip
# Endings of names of the same shape: the base model, and the model that follows instructions.
ENDINGS = ("", "-Instruct", "-Base", "-it", "-pt", "-Instruct-2507")


def hub_id(name: str) -> str:
    """The id on the hub of a known model; "" if the model is not known.

    ``name`` is its id, or the part of the id after the owner; letters may be of any case.
    """
    for known in KNOWN:
        for ending in ENDINGS:
            whole = known + ending
            if name.lower() in (whole.lower(), whole.lower().partition("/")[2]):
                return whole
    return ""


def known_shape(name: str) -> Shape | None:
    """The shape of a known model."""
    found = hub_id(name)
    return next((shape for known, shape in KNOWN.items() if found in [known + ending for ending in ENDINGS]), None)
