"""``concordant doctor`` without a target: what this machine has, how fast it multiplies, and what is wrong with it."""

from __future__ import annotations

import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from concordant.core.counted import counted
from concordant.doctor.finding import Diagnosis, Finding
from concordant.doctor.preflight_memory import gigabytes
from concordant.engines.local.precision import cpu_has_bf16
from concordant.engines.memory import available_memory, total_memory
from concordant.kernels.products import multiply
from concordant.training.disk import disk_free

SIZE = 768  # rows and columns of the matrices that are multiplied: 0.9 GFLOP, past the caches' flattery
TRIES = 4
SLOW = 5.0  # fp32 GFLOPS a thread that any CPU of the last ten years exceeds several times
LITTLE_MEMORY, LITTLE_DISK = 2 * 2**30, 2 * 2**30  # bytes: the smallest runs need so much
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")  # whose versions are worth a line


def diagnose_machine(folder: Path = Path(".")) -> Diagnosis:
    """``folder``: where runs would be written."""
    threads, usable = torch.get_num_threads(), usable_cores()
    speed, half = gemm_speed(torch.float32), gemm_speed(torch.bfloat16)
    free_memory, free_disk = available_memory(), disk_free(folder)
    facts = {
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "cores": f"{usable:g} usable of {os.cpu_count()}, PyTorch uses {counted(threads, 'thread')}",
        "memory": f"{gigabytes(free_memory)} available of {gigabytes(total_memory())}",
        "disk": f"{gigabytes(free_disk)} free at {folder.absolute()}",
        "arithmetic": f"fp32 {speed:.0f} GFLOPS, bf16 {half:.0f} GFLOPS ({_units()})",
        "GPU": _gpu(),
        "libraries": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES),
    }
    found = [
        too_many_threads(threads, usable),
        slow_arithmetic(speed, threads),
        slow_bf16(speed, half),
        little_memory(free_memory),
        little_disk(free_disk, folder),
        gpu_not_seen(),
        *versions(),
    ]
    return Diagnosis(facts, [finding for finding in found if finding is not None])


# -- what there is --------------------------------------------------------------------------------


def usable_cores() -> float:
    """Cores this process may use: its affinity, or its container's share of time."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        time_allowed, _, period = quota.read_text().partition(" ")
        if time_allowed != "max":
            cores = min(cores, int(time_allowed) / int(period))
    return cores


def gemm_speed(dtype: torch.dtype) -> float:
    """GFLOPS of our matrix products on the CPU, the best of a few: another process may be busy."""
    a, best = torch.ones(SIZE, SIZE, dtype=dtype), float("inf")
    for _ in range(TRIES):
        started = time.perf_counter()
        multiply(a, a)
        best = min(best, time.perf_counter() - started)
    return 2 * SIZE**3 / best / 1e9


def _units() -> str:
    amx = "AMX" if torch.cpu._is_amx_tile_supported() else "bf16 units" if cpu_has_bf16() else "no bf16 units"
    return f"{'MKL' if torch.backends.mkl.is_available() else 'no MKL'}, {amx}"


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that PyTorch sees"
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{p.name} {gigabytes(p.total_memory)}" for p in properties)


# -- what is wrong with it ------------------------------------------------------------------------


def too_many_threads(threads: int, usable: float) -> Finding | None:
    if threads <= max(1.0, usable):
        return None
    seen = f"PyTorch uses {counted(threads, 'thread')} on {usable:g} cores"
    cause = "a container or a batch system grants fewer cores than the machine has"
    cure = f"Set --train.threads {max(1, int(usable))}, or OMP_NUM_THREADS={max(1, int(usable))}"
    return Finding("too_many_threads", "warning", seen, cause, cure, numbers={"threads": threads, "cores": usable})


def slow_arithmetic(speed: float, threads: int) -> Finding | None:
    """``speed``: fp32 GFLOPS."""
    if speed >= SLOW * threads:
        return None
    seen = f"matrices are multiplied at {speed:.1f} GFLOPS with {counted(threads, 'thread')}"
    cause = "the machine is busy with something else, or PyTorch was built without a fast BLAS"
    cure = "See what else runs; install PyTorch's own wheel, which brings MKL or OpenBLAS"
    return Finding("slow_arithmetic", "warning", seen, cause, cure, numbers={"gflops": speed, "threads": threads})


def slow_bf16(speed: float, half: float) -> Finding | None:
    """Both in GFLOPS; ``model.precision auto`` believes the processor's word, this measures."""
    if not cpu_has_bf16() or half >= speed or torch.cuda.is_available():
        return None
    seen = f"the processor says it has bf16 units, yet multiplies at {half:.0f} GFLOPS in bf16 and {speed:.0f} in fp32"
    cause = "a virtual machine that hides the units, or a build of PyTorch that does not use them"
    cure = "Set --model.precision fp32"
    return Finding("slow_bf16", "warning", seen, cause, cure, numbers={"fp32": speed, "bf16": half})


def little_memory(free: int) -> Finding | None:
    if free >= LITTLE_MEMORY:
        return None
    seen = f"{gigabytes(free)} of memory are available"
    cause = "something else holds the memory, or the container has little"
    cure = "End what holds it; or set --train.micro_batch_tokens 512 and --model.lora.rank 16"
    return Finding("memory", "warning", seen, cause, cure, numbers={"free": free}, weight=0.9)


def little_disk(free: int, folder: Path) -> Finding | None:
    if free >= LITTLE_DISK:
        return None
    seen = f"{gigabytes(free)} are free at {folder.absolute()}"
    cause = "a full disk or a small quota"
    cure = "Set --output on another disk, and --train.keep_last 1"
    return Finding("disk", "warning", seen, cause, cure, numbers={"free": free})


def gpu_not_seen() -> Finding | None:
    if torch.cuda.is_available() or not (Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi")):
        return None
    cause = (
        "PyTorch was installed for CPUs only"
        if torch.version.cuda is None
        else f"the driver is older than CUDA {torch.version.cuda} needs, or CUDA_VISIBLE_DEVICES hides the GPU"
    )
    seen = f"there is an NVIDIA driver, and PyTorch {torch.__version__} sees no GPU"
    cure = "Install PyTorch's wheel for the driver's CUDA version, or unset CUDA_VISIBLE_DEVICES"
    return Finding("gpu_not_seen", "warning", seen, cause, cure)


def versions() -> list[Finding]:
    """Libraries too old to work, and libraries other than those the tests were run with."""
    found, unmet, other = [], unmet_requirements(), other_than_tested()
    if unmet:
        found.append(
            Finding(
                "versions",
                "error",
                f"requirements are not met: {'; '.join(unmet)}",
                "another package pinned an older version in this environment",
                "Give the project an environment of its own: `make test` makes .venv",
                numbers={"unmet": len(unmet)},
            )
        )
    if other:
        found.append(
            Finding(
                "versions",
                "info",
                f"{len(other)} libraries are other than those tested with: {', '.join(other[:4])}",
                "newer versions were installed without constraints.txt",
                "pip install -c constraints.txt -e . for the very numbers of the docs",
                numbers={"other": len(other)},
            )
        )
    return found


def unmet_requirements(distribution: str = "concordant") -> list[str]:
    """``torch 2.4.0, needs >=2.11`` for each that the package asks for and does not find."""
    unmet = []
    for text in _requires(distribution):
        need = Requirement(text)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        have = _version(need.name)
        if have is None or not need.specifier.contains(have, prereleases=True):
            unmet.append(f"{need.name} {have or 'is missing'}, needs {need.specifier}")
    return unmet


def other_than_tested(constraints: Path | None = None) -> list[str]:
    """``name version (tested)`` for each library installed in another version than the source tree's constraints."""
    file = constraints or Path(__file__).resolve().parents[2] / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    installed = {name: _version(name) for name in pinned}
    return [
        f"{name} {have} ({pinned[name]})"
        for name, have in installed.items()
        if have is not None and have.partition("+")[0] != pinned[name]
    ]


def _requires(distribution: str) -> list[str]:
    try:
        return metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
