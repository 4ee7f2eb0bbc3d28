"""``make parity``: our losses, gradients and masks beside TRL's, in an environment of their own.

Runs with any Python 3.11 or later and nothing else. Makes .venv-parity once: torch first, by its exact version, then
this package and TRL, and in a folder beside it TRL 1.12.0, which still has PPO. Each TRL writes its numbers in its own
process; then they are compared. Exit code 1 where something is apart; ``--write-goldens`` keeps TRL's numbers for
``make test``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-parity"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
TORCH, TRL, TRL_WITH_PPO = "2.13.0", "1.16.0", "1.12.0"
PPO_FOLDER = VENV / f"trl-{TRL_WITH_PPO}"
STAMP = VENV / ".installed"
QUIET = {
    "CUDA_VISIBLE_DEVICES": "",  # fp32 on the CPU, the same everywhere
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


def main(options: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 (whatever python3 is, it comes this far)
        print(f"error: Python {sys.version.split()[0]}; 3.11 or later is needed", file=sys.stderr)
        return 2
    unknown = set(options) - {"--write-goldens"}
    if unknown:
        print(f"error: unknown option {sorted(unknown)[0]}; known: --write-goldens", file=sys.stderr)
        return 2
    install()
    trainers, ppo = VENV / "numbers" / "trl", VENV / "numbers" / "ppo"
    python("-m", "tests.parity.trl_trainers", str(trainers))
    reason = install_ppo()
    if reason:
        print(f"PPO is skipped: {reason}")
    else:
        python("-m", "tests.parity.trl_ppo", str(ppo), path=PPO_FOLDER)
    compared = python("-m", "tests.parity.compare", str(trainers), "-" if reason else str(ppo), *options, check=False)
    masks = python("-m", "tests.parity.templates", check=False)
    return compared.returncode or masks.returncode


def install() -> None:
    wanted = hashlib.sha256((ROOT / "constraints.txt").read_bytes() + f"{TORCH} {TRL}".encode()).hexdigest()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted:
        return
    print(f"making {VENV.name}: torch {TORCH}, trl {TRL}", flush=True)
    if not PYTHON.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    pip("install", "-q", f"torch=={TORCH}")
    pip("install", "-q", "-c", "constraints.txt", f"trl=={TRL}", "-e", ".")
    STAMP.write_text(wanted, encoding="utf-8")


def install_ppo() -> str:
    """Why there is no PPO trainer to compare with, or ''. Its dependencies are TRL's, and here already."""
    if not (PPO_FOLDER / "trl" / "experimental" / "ppo").is_dir():
        done = pip("install", "-q", "--no-deps", "--target", str(PPO_FOLDER), f"trl=={TRL_WITH_PPO}", check=False)
        if done.returncode:
            return f"trl {TRL_WITH_PPO} could not be installed"
    return ""


def pip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(PYTHON), "-m", "pip", *arguments], cwd=ROOT, check=check)


def python(*arguments: str, path: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | QUIET | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, [path, ROOT])))}
    return subprocess.run([str(PYTHON), *arguments], cwd=ROOT, env=environment, check=check)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))} ended with {error.returncode}", file=sys.stderr)
        sys.exit(1)
