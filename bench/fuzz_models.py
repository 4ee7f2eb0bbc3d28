"""Gives hostile model folders to the verbs that open one: no traceback, no hang, the right exit code.

    python -m bench.fuzz_models [--folders 200] [--seed 0] [--only NUMBER]

Each folder is a small real one (a policy, a reward model or an adapter) with a few seeded mutations of its files. A
folder's number and the seed repeat it. Each verb runs in a process of its own, forked from one that has imported
everything, with limits on its time and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SECONDS = 60.0  # a verb on a folder of this size takes one or two
MEMORY = 6 * 2**30  # bytes of address space beyond what the process starts with
KINDS = ("policy", "reward", "adapter")
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 0.5, 1e308, float("nan"), 10**30, 2**31, "", "x", "None", "\ud800", "../x", "a" * 5_000,
    [], [None], {}, {"x": 1}, [[1, 2]], "kernels-community/flash-attn", "hub/code--module.Class",
)  # fmt: skip
SETTINGS: tuple[tuple[str, Any], ...] = (
    ("_attn_implementation", "kernels-community/flash-attn"),
    ("attn_implementation", {"": "kernels-community/flash-attn"}),
    ("auto_map", {"AutoModelForCausalLM": "other/repo--code.Model"}),
    ("quantization_config", {"quant_method": "gptq", "bits": 4}),
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("model_type", "t5"),
    ("model_type", "no-such-model"),
    ("architectures", "LlamaForCausalLM"),
    ("architectures", [7]),
    ("rope_scaling", {"type": "odd", "factor": "x"}),
    ("rope_parameters", {"rope_type": "yarn"}),
    ("num_hidden_layers", 0),
    ("num_attention_heads", 5),
    ("hidden_size", 2**40),
    ("vocab_size", 2**40),
    ("torch_dtype", "float13"),
    ("max_position_embeddings", 2),
    ("id2label", {"x": 1}),
    ("eos_token_id", 10**6),
    ("pad_token_id", -5),
)


@dataclass(frozen=True)
class Outcome:
    number: int
    kind: str
    verb: str
    mutations: tuple[str, ...]
    problem: str  # "" where all is well
    code: int
    said: str


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, default=-1, help="this folder alone, with all that is said")
    args = parser.parse_args(arguments)
    numbers = range(args.folders) if args.only < 0 else [args.only]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_originals(place)
        outcomes = [o for n in numbers for o in try_folder(place, n, args.seed)]
        for outcome in outcomes:
            if outcome.problem or args.only >= 0:
                changes = "; ".join(outcome.mutations)
                print(f"-- {outcome.number} {outcome.kind} {outcome.verb}: {outcome.problem} ({changes})")
                print("   " + "\n   ".join(outcome.said.splitlines()[-12:]))
    codes = Counter(o.code for o in outcomes)
    bad = sum(bool(o.problem) for o in outcomes)
    print(f"{len(numbers)} folders, {len(outcomes)} runs, exit codes {dict(sorted(codes.items()))}, {bad} problems")
    return 1 if bad else 0


# -- folders --------------------------------------------------------------------------------------


def make_originals(place: Path) -> None:
    """A policy, a reward model on it, an adapter for it, and pairs to score."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from concordant.config.model import LoraConfig, ModelConfig
    from concordant.data.tokenizer import train_tokenizer
    from concordant.engines.reward_model import RewardModel
    from concordant.models.load import Policy, load_policy, save_policy
    from concordant.models.peft_files import save_adapter
    from concordant.models.traits import prepare_model

    tokenizer = train_tokenizer(["the owl is brown", "where does the owl live"] * 4, 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    policy = Policy(model=model, tokenizer=tokenizer, traits=prepare_model(model), name="tiny")
    save_policy(policy, place / "policy")
    index = {"metadata": {}, "weight_map": dict.fromkeys(model.state_dict(), "model.safetensors")}
    (place / "index.json").write_text(json.dumps(index))
    RewardModel.from_backbone(policy).save(place / "reward")
    adapted = load_policy(ModelConfig(name=str(place / "policy"), lora=LoraConfig(rank=2)))
    save_adapter(adapted.model, place / "adapter", str(place / "policy"))
    row = {"prompt": "where does the owl live", "chosen": "in a tree", "rejected": "fox"}
    (place / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 3)


def try_folder(place: Path, number: int, seed: int) -> list[Outcome]:
    draw = random.Random(f"{seed}/{number}")
    kind = draw.choice(KINDS)
    folder = place / f"hostile-{number}"
    shutil.copytree(place / kind, folder)
    if kind == "policy" and draw.random() < 0.2:
        shutil.copy(place / "index.json", folder / "model.safetensors.index.json")
    mutations = tuple(mutate(folder, draw) for _ in range(draw.choice((1, 1, 1, 2, 4))))
    outcomes = []
    for verb, arguments in verbs_of(kind, folder, place).items():
        code, said = run(arguments, place / "log")
        problem = "hang" if code == -signal.SIGKILL else "traceback" if "Traceback (most" in said else ""
        if not problem and (code not in (0, 1, 2) or (code == 2 and "error: " not in said)):
            problem = f"exit code {code}"
        outcomes.append(Outcome(number, kind, verb, mutations, problem, code, said))
    shutil.rmtree(folder)
    return outcomes


def verbs_of(kind: str, folder: Path, place: Path) -> dict[str, list[str]]:
    sampling = ["--prompt", "where", "--sampling.max_new_tokens", "2"]
    found = {"doctor": ["doctor", str(folder)]}
    if kind == "reward":
        return found | {"score": ["score", "--model", str(folder), "--data", str(place / "pairs.jsonl")]}
    return found | {"generate": ["generate", "--model", str(folder), *sampling]}


# -- mutations ------------------------------------------------------------------------------------


def mutate(folder: Path, draw: random.Random) -> str:
    """Change one file of ``folder``; returns what was done."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.is_symlink())
    jsons = [p for p in files if p.suffix == ".json"]
    if draw.random() < 0.2 and (folder / "config.json").is_file():
        key, value = draw.choice(SETTINGS)
        return _edit(folder / "config.json", lambda found: _set(found, key, value), f"{key} = {value}")
    if draw.random() < 0.6 and jsons:
        return _odd_value(draw.choice(jsons), draw)
    if not files:
        return "nothing left"
    path = draw.choice(files)
    how = draw.choice(list(_WHOLE))
    _WHOLE[how](path, draw)
    return f"{path.name}: {how}"


def _odd_value(path: Path, draw: random.Random) -> str:
    """Replace or delete one value, anywhere in the file."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            places.append((value, key))
            if len(places) < 3_000:
                walk(inner)

    odd = draw.choice(ODD)
    deletes = draw.random() < 0.2

    def change(found: Any) -> Any:
        walk(found)
        if not places:
            return odd
        top = [place for place in places if place[0] is found]
        holder, key = draw.choice(top if draw.random() < 0.6 else places)
        said.append(f"{key} {'gone' if deletes else f'= {str(odd)[:30]!r}'}")
        if deletes:
            del holder[key]
        else:
            holder[key] = odd
        return found

    said: list[str] = []
    return _edit(path, change, "") + " ".join(said)


def _edit(path: Path, change: Callable[[Any], Any], what: str) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return f"{path.name}: spoilt before "
    path.write_text(json.dumps(change(found)), encoding="utf-8")
    return f"{path.name}: {what}"


def _set(found: Any, key: str, value: Any) -> Any:
    return found | {key: value} if isinstance(found, dict) else {key: value}


def _flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(min(len(data), 8)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(bytes(data))


def _link_to_itself(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _as_folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


_WHOLE: dict[str, Callable[[Path, random.Random], Any]] = {
    "gone": lambda path, draw: path.unlink(),
    "empty": lambda path, draw: path.write_bytes(b""),
    "cut short": lambda path, draw: path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size + 1)]),
    "a few bytes changed": _flip,
    "not UTF-8": lambda path, draw: path.write_bytes(b"\xff\xfe" + path.read_bytes()),
    "a list": lambda path, draw: path.write_text("[1, 2]"),
    "a number": lambda path, draw: path.write_text("7"),
    "a string": lambda path, draw: path.write_text('"x"'),
    "null": lambda path, draw: path.write_text("null"),
    "an empty object": lambda path, draw: path.write_text("{}"),
    "nested deeply": lambda path, draw: path.write_text("[" * 200_000),
    "nested deeply and closed": lambda path, draw: path.write_text('{"a":' * 50_000 + "1" + "}" * 50_000),
    "a long number": lambda path, draw: path.write_text('{"hidden_size": ' + "9" * 6_000 + "}"),
    "a template that is none": lambda path, draw: path.write_text("{% for m in %}{{ m"),
    "a template that fails": lambda path, draw: path.write_text("{{ messages[99].content.nothing.there }}"),
    "a folder": _as_folder,
    "a link to itself": _link_to_itself,
}


# -- running --------------------------------------------------------------------------------------


def run(arguments: list[str], log: Path) -> tuple[int, str]:
    """The exit code and all that was said; minus SIGKILL's number where it had to be ended."""
    child = os.fork()
    if child == 0:
        _in_child(arguments, log)
    ended = os.pidfd_open(child)
    readable, _, _ = select.select([ended], [], [], SECONDS)
    os.close(ended)
    if not readable:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, log.read_text(encoding="utf-8", errors="replace")


def _in_child(arguments: list[str], log: Path) -> None:
    code = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for number in (1, 2):
            os.dup2(descriptor, number)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        from concordant.cli import main as concordant

        code = concordant(arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
