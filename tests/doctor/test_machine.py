"""What the machine says of itself, with faults put in its mouth."""

import types

import pytest
import torch

from concordant.doctor import machine
from concordant.doctor.finding import Finding


def test_this_machine_has_its_facts():
    diagnosis = machine.diagnose_machine()
    assert {"cores", "memory", "disk", "arithmetic", "GPU", "libraries"} <= set(diagnosis.facts)
    assert f"PyTorch uses {torch.get_num_threads()} thread" in diagnosis.facts["cores"]
    assert all(isinstance(finding, Finding) for finding in diagnosis.findings)


def test_speed_is_measured():
    assert machine.gemm_speed(torch.float32) > 0.1
    assert 0 < machine.available_memory() <= machine.total_memory()
    assert machine.usable_cores() >= 0.1


def test_threads_without_cores():
    finding = machine.too_many_threads(8, 2.5)
    assert finding is not None and "--train.threads 2" in finding.cure
    assert machine.too_many_threads(2, 2.5) is machine.too_many_threads(1, 0.5) is None


def test_arithmetic_that_is_too_slow(monkeypatch):
    assert machine.slow_arithmetic(9.0, 2).rule == "slow_arithmetic" and machine.slow_arithmetic(40.0, 2) is None
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: True)
    assert "--model.precision fp32" in machine.slow_bf16(100.0, 30.0).cure
    assert machine.slow_bf16(100.0, 300.0) is None
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: False)  # auto takes fp32 then
    assert machine.slow_bf16(100.0, 30.0) is None


def test_little_room(tmp_path):
    assert machine.little_memory(10**9).rule == "memory" and machine.little_memory(10**10) is None
    assert machine.little_disk(10**9, tmp_path).rule == "disk" and machine.little_disk(10**10, tmp_path) is None


@pytest.mark.parametrize(("cuda", "cause"), [(None, "for CPUs only"), ("13.0", "CUDA_VISIBLE_DEVICES")])
def test_a_gpu_that_pytorch_does_not_see(monkeypatch, cuda, cause):
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.torch.version, "cuda", cuda)
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert cause in machine.gpu_not_seen().cause


def test_versions_against_requirements_and_constraints(monkeypatch, tmp_path):
    have = {"torch": "2.4.0+cpu", "rich": "15.0.0", "numpy": "2.4.6"}
    monkeypatch.setattr(machine, "_version", have.get)
    needs = ["torch>=2.11", "rich>=13.9", "absent>=1", "vllm>=1; extra == 'vllm'", "winonly; sys_platform == 'win32'"]
    monkeypatch.setattr(machine, "metadata", types.SimpleNamespace(requires=lambda name: needs))
    assert machine.unmet_requirements() == ["torch 2.4.0+cpu, needs >=2.11", "absent is missing, needs >=1"]
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# tested\nnumpy==2.4.6\ntorch==2.4.0\nrich==14.0.0\nnot-installed==1.0\n")
    assert machine.other_than_tested(constraints) == ["rich 15.0.0 (14.0.0)"]
    monkeypatch.setattr(machine, "other_than_tested", lambda: ["rich 15.0.0 (14.0.0)"])
    assert [f.severity for f in machine.versions()] == ["error", "info"]
