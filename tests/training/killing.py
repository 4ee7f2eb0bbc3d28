"""Real processes, really killed, without three seconds of imports each: a server that has imported everything forks one
process a command. ``Server`` starts it; ``world`` makes data and models so small that a run takes a second.

Used by tests/training/test_resume_bitwise.py, tests/engines/group and bench/chaos.py.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Kill:
    """When a process gets ``signal``: ``seconds`` after its start, or before the ``time``-th call of ``call`` (a dotted
    name; with ``argument`` as its first argument where that is given)."""

    seconds: float = 0.0
    call: str = ""
    argument: str = ""
    time: int = 1
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    code: int  # exit code; minus the signal's number where one ended the process
    seconds: float
    out: str
    errors: str

    @property
    def said(self) -> str:
        return self.out + self.errors


@dataclass
class Command:
    """``concordant ARGUMENTS``, the function ``world`` of this module, or with ``-m`` first what ``python -m …`` does;
    ``patch``: values by dotted name."""

    arguments: list[str]
    log: str  # of stdout; that of stderr has ``.errors`` after it
    kill: Kill | None = None
    patch: dict[str, Any] = field(default_factory=dict)
    memory: int = 0  # bytes of address space beyond what the process starts with; 0: no limit
    files: int = 0  # bytes a file may grow to; 0: no limit
    environment: dict[str, str] = field(default_factory=dict)  # beside that of the server
    forks_helpers: bool = False  # the workers that it starts are forked too, in place of a new Python each


class Server:
    """A context manager; ``folder`` holds logs. ``modules`` are imported beside those that every stage needs."""

    def __init__(self, folder: Path, modules: Sequence[str] = ()) -> None:
        self.folder, self.count = folder, 0
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT}/tests/training",  # the latter for the reward below
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def __call__(self, *arguments: object, kill: Kill | None = None, **settings: Any) -> Ended:
        """Run one command to its end."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.count += 1
        log = self.folder / f"log-{self.count:04d}.txt"
        command = Command([str(a) for a in arguments], str(log), kill, **settings)
        self.process.stdin.write(json.dumps(asdict(command)) + "\n")
        self.process.stdin.flush()
        code, seconds = json.loads(self.process.stdout.readline())
        out, errors = (Path(name).read_text(encoding="utf-8") for name in (command.log, f"{command.log}.errors"))
        return Ended(code, seconds, out, errors)


# -- inside the server --------------------------------------------------------------------------


def serve() -> None:
    for name in ("stages.sft", "stages.reward", "stages.dpo", "stages.ppo", "stages.best_of_n", "pipeline.runner"):
        importlib.import_module(f"concordant.{name}")
    for name in ("transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto", "jsonargparse"):
        importlib.import_module(name)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        given = json.loads(line)
        command = Command(**{**given, "kill": Kill(**given["kill"]) if given["kill"] else None})
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _do(command)
        code = _wait(child, command.kill.seconds if command.kill else 0.0, command.kill)
        print(json.dumps([code, time.monotonic() - started]), flush=True)


def _wait(child: int, seconds: float, kill: Kill | None) -> int:
    if kill and seconds:
        ended = os.pidfd_open(child)
        readable, _, _ = select.select([ended], [], [], seconds)
        os.close(ended)
        if not readable:
            os.kill(child, kill.signal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _do(command: Command) -> None:
    """In the child; does not return."""
    code = 1
    try:
        for number, name in ((1, command.log), (2, f"{command.log}.errors")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for name, value in command.patch.items():
            _assign(name, value)
        if command.kill and command.kill.call:
            _kill_before(command.kill)
        _limit(command)
        os.environ |= command.environment
        if command.forks_helpers:
            from tests.training.forked import fork_helpers

            fork_helpers()
        if command.arguments[0] == "-m":
            code = _run_module(*command.arguments[1:])
        elif command.arguments[0] == "world":
            _make_world(Path(command.arguments[1]))
            code = 0
        else:
            from concordant.cli import main

            code = main(command.arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_module(name: str, *arguments: str) -> int:
    """``python -m NAME ARGUMENTS``, to the end of a process; returns the exit code."""
    import atexit

    sys.argv = [name, *arguments]
    sys.modules.pop(name, None)
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        atexit._run_exitfuncs()  # a team is closed there
    return 0


def _place(name: str) -> tuple[Any, str]:
    """The object that has the dotted name's last part: a module, or a class in one."""
    owner, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(owner), attribute
    except ModuleNotFoundError:
        inside, last = _place(owner)
        return getattr(inside, last), attribute


def _assign(name: str, value: Any) -> None:
    owner, attribute = _place(name)
    assert hasattr(owner, attribute), name
    setattr(owner, attribute, value)


def _kill_before(kill: Kill) -> None:
    owner, attribute = _place(kill.call)
    real, calls = getattr(owner, attribute), [0]

    def deadly(*arguments: Any, **named: Any) -> Any:
        calls[0] += not kill.argument or kill.argument == arguments[0]
        if calls[0] == kill.time:
            calls[0] += 1
            os.kill(os.getpid(), kill.signal)
        return real(*arguments, **named)

    setattr(owner, attribute, deadly)


def _limit(command: Command) -> None:
    import resource

    if command.memory:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + command.memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if command.files:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails as it does on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (command.files, command.files))


# -- a world in which a run takes a second -------------------------------------------------------

COLOURS, THINGS = ("red", "blue", "green", "black"), ("hat", "cup", "door", "bird", "boat", "lamp")
STEPS = 4


def noisy_length(prompt: Any, response: str, **extra: Any) -> float:
    """A reward of the kind nobody can checkpoint: it draws from Python's own generator."""
    return len(response) + random.random()


REWARD = f"--reward={Path(__file__).stem}:noisy_length"
PIPELINE = """
seed: 3
data: {path: WORLD/pairs.jsonl, max_response_tokens: 16}
stages:
  sft: {model: {name: WORLD/model, device: cpu, precision: fp32}}
  best:
    verb: best-of-n
    model: {name: "${sft}", device: cpu, precision: fp32}
    reward: ["killing:noisy_length"]
    sampling: {n: 2, max_new_tokens: 6}
  judge: {verb: reward, model: {name: "${sft}", device: cpu, precision: fp32}}
"""


def _make_world(folder: Path) -> None:
    """pairs.jsonl, pipeline.yaml, and random models in model/ and reward/."""
    import torch

    from concordant.config.model import ModelConfig
    from concordant.models import builtin
    from concordant.models.load import load_policy, save_policy

    folder.mkdir(parents=True)
    rows = [
        {"prompt": f"what colour is the {t} not {d}", "chosen": f"the {t} is {c}", "rejected": f"{c} or {d}"}
        for t in THINGS
        for c, d in zip(COLOURS, COLOURS[1:] + COLOURS[:1], strict=True)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pipeline.yaml").write_text(PIPELINE.replace("WORLD", str(folder)))
    builtin.SIZES["tiny"] = builtin.Size(vocabulary=300, hidden=32, layers=2, heads=2, mlp=64)
    torch.manual_seed(0)
    texts = [text for row in rows for text in row.values()]
    save_policy(load_policy(ModelConfig(name="builtin:tiny", device="cpu"), texts, 0), folder / "model", {})


# SFT draws dropout, has several micro-batches a step, and its last steps are in the second epoch.
TRAINERS: dict[str, list[str]] = {
    "sft": ["--model.lora.rank=4", "--model.lora.dropout=0.2", "--train.batch_size=16",
            "--train.micro_batch_tokens=256"],
    "reward": ["--validation_fraction=0.3", "--train.learning_rate=0.1"],  # its best weights are not the last
    "dpo": ["--data.max_response_tokens=16", "--model.lora.rank=4", "--model.lora.dropout=0.2"],
    "ppo": [REWARD, "--kl.controller=adaptive", "--kl.horizon=20", "--reward_normalize=running",
            "--sampling.max_new_tokens=6", "--train.learning_rate=0.1"],
}  # fmt: skip


def command_of(name: str, world: Path, output: Path, resume: bool = False) -> list[str]:
    """The command line of a trainer, of ``best-of-n`` or of the ``pipeline``."""
    going_on = ["--resume=auto"] if resume else []
    train = ["--train.tensorboard=false", f"--train.max_steps={STEPS}", "--train.batch_size=4", "--train.save_every=1",
             "--train.evaluate_every=2", "--train.learning_rate=0.01", "--train.schedule=constant"]  # fmt: skip
    if name == "pipeline":
        return ["run", str(world / "pipeline.yaml"), f"--output={output}", *train]
    model = [f"--model.name={world}/model", "--model.device=cpu", "--model.precision=fp32"]
    shared = [f"--data={world}/pairs.jsonl", f"--output={output}", "--seed=3", *model, *going_on]
    if name == "best-of-n":
        return [name, *shared, REWARD, "--sampling.n=2", "--sampling.max_new_tokens=6"]
    return [name, *shared, *train, *TRAINERS[name]]


# -- what must be equal ----------------------------------------------------------------------------


def results(folder: Path) -> dict[str, bytes]:
    """Everything a run leaves that must be the same to the bit, by name: weights, optimizer, best weights, metrics,
    samples, the exported model. Left out: timings, and lengths of logs, which depend on how timings are written."""
    import torch

    from concordant.engines.state_files import read_state
    from concordant.training import checkpoint

    found: dict[str, bytes] = {}
    here = str(folder).encode()  # model cards name what a model was made from
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "checkpoints":
            newest = checkpoint.newest_valid(path)[0]
            assert newest is not None, path
            state = {"loop.json": checkpoint.load(newest)}
            del state["loop.json"]["offsets"]
            state |= {role.name: read_state(role) for role in newest.iterdir() if role.is_dir()}
            found |= {f"{name}/{newest.name}{where}": value for where, value in _leaves(state, torch)}
        elif path.name == "metrics.jsonl":
            found[name] = _timeless(path)
        elif path.suffix == ".jsonl" and path.name != "events.jsonl" or path.parent.name == "model":
            found[name] = path.read_bytes().replace(here, b"OUTPUT")
    return found


def _leaves(value: Any, torch: Any, where: str = "") -> list[tuple[str, bytes]]:
    if isinstance(value, torch.Tensor):
        return [(where, value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())]
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    )
    if items is None:
        return [(where, repr(value).encode())]
    return [leaf for key, item in items for leaf in _leaves(item, torch, f"{where}/{key}")]


def _timeless(path: Path) -> bytes:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if "second" not in key} for row in rows]
    return json.dumps(kept).encode()


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def bits(found: dict[str, bytes]) -> int:
    return 8 * sum(map(len, found.values()))


if __name__ == "__main__":
    serve()
