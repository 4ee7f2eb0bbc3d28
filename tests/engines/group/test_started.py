"""How ranks find out that they are ranks: the environments of torchrun, of srun and of a driver."""

import hashlib
import os
from pathlib import Path

import pytest
import torch

from concordant.cli import main
from concordant.config.cluster import ClusterConfig
from concordant.config.model import ModelConfig
from concordant.core.errors import UserError
from concordant.engines.group import everywhere, started
from concordant.engines.group.everywhere import working_together
from concordant.engines.local.precision import device_of, on_the_cpu

STEP = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def given(monkeypatch):
    """Sets the environment of a process that nothing started, with the given variables beside."""
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "MASTER_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)

    def given(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return given


def test_one_process_is_alone():
    assert started.world() == (0, 1) and started.number_on_host() == 0


@pytest.mark.parametrize(("variables", "place"), [(STEP, (3, 8)), (TORCHRUN, (1, 4)), (STEP | TORCHRUN, (1, 4))])
def test_a_rank_knows_its_place_and_torchrun_inside_of_a_slurm_step_counts(given, variables, place):
    given(**variables)
    assert started.world() == place


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "5", "SLURM_NODELIST": "node[1-2]"},  # a shell that salloc opened
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # the script of a job
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # a shell that is itself a step
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "MASTER_ADDR": "node1"},
    ],
)
def test_one_process_of_a_job_with_many_tasks_is_alone(given, variables):
    given(**variables)
    assert started.world() == (0, 1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, "RANK is 0 in the environment, and WORLD_SIZE is not set; torchrun sets both"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 in the environment, and RANK is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "expected a rank from 0 to WORLD_SIZE - 1"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is one and WORLD_SIZE is 2; expected whole numbers"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "there is no MASTER_ADDR and no MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "there is no MASTER_PORT, so"),
        ({"SLURM_PROCID": "1"}, "SLURM_PROCID is 1 in the environment, and SLURM_STEP_NUM_TASKS is not set; srun"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS is 4 in the environment, and SLURM_PROCID is not set"),
        ({"SLURM_PROCID": "4", "SLURM_STEP_NUM_TASKS": "4"}, "expected a rank from 0"),
    ],
)
def test_half_an_environment_is_refused_by_name(given, variables, message, capsys):
    given(**variables)
    assert main(["sft"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node7", "node7"),
        ("node[003-007,011],gpu1", "node003"),
        ("node[12,14-16]", "node12"),
        ("a1,b[1-2]", "a1"),
        ("rack[2-3]-n[08-09].local", "rack2-n08.local"),
    ],
)
def test_the_first_host_of_slurms_lists(hosts, first):
    assert started.first_host(hosts) == first


def test_the_ranks_of_a_step_meet_on_its_first_host_at_a_port_of_the_step(given):
    given(**STEP, SLURM_STEP_NODELIST="n[1-2]", SLURM_LAUNCH_NODE_IPADDR="10.0.0.1", SLURM_JOB_ID="77")
    host, port = started.meeting_place()
    given(SLURM_STEP_ID="1")
    assert host == "n1" and started.meeting_place() == (host, port + 1) and 10_000 <= port < 30_000
    given(MASTER_ADDR="other", MASTER_PORT="4000")
    assert started.meeting_place() == ("other", 4000)
    given(MASTER_PORT="a port")
    with pytest.raises(UserError, match="MASTER_PORT is a port"):
        started.meeting_place()


def test_a_step_that_does_not_say_where_it_runs_is_refused(given):
    given(**STEP)
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST is not set.*set MASTER_ADDR"):
        started.meeting_place()


@pytest.mark.parametrize("starter", ["srun", "torchrun"])
def test_two_processes_that_srun_or_torchrun_started_give_the_hash_of_one(starter, python, small_run, tmp_path):
    one = small_run(verb="sft", output=str(tmp_path / "one"), steps=2, cluster={"workers": 1, "shards": 2})
    python(
        *("-m", "tests.engines.group.slurm", starter, "sft", "--output", tmp_path / "two", "--cluster.shards", "2"),
        *("--data.path", "builtin:toytalk", "--data.max_samples", "80", "--model.name", "builtin:tiny"),
        *("--model.device", "cpu", "--model.precision", "fp32", "--train.max_steps", "2", "--train.batch_size", "8"),
        *("--train.tensorboard", "false", "--train.save_every", "2", "--train.learning_rate", "1e-3"),
    )
    [file] = (tmp_path / "two" / "model").glob("*.safetensors")
    assert hashlib.sha256(Path(file).read_bytes()).hexdigest() == one


def test_ranks_that_were_started_and_ray_exclude_each_other(given):
    given(**{**TORCHRUN, "RANK": "0"})
    with pytest.raises(UserError, match="cluster.ray places the workers.*4 ranks were started"):
        working_together(ClusterConfig(ray="local"), 1).__enter__()


@pytest.mark.parametrize(
    ("variables", "gpu"),
    [({}, 0), (STEP | {"SLURM_LOCALID": "3"}, 3), (TORCHRUN | {"LOCAL_RANK": "1"}, 1), ({"LOCAL_RANK": "2"}, 0)],
)
def test_every_rank_of_a_host_has_a_gpu_of_its_own(given, variables, gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    given(**variables)
    assert device_of(ModelConfig(device="auto")) == torch.device("cuda", gpu)
    with on_the_cpu():
        assert device_of(ModelConfig(device="cuda")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # each task sees its own alone
    assert device_of(ModelConfig(device="cuda")) == torch.device("cuda", 0)


def test_workers_that_would_share_a_gpu_are_refused(monkeypatch):
    """NCCL takes one rank for each GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("auto", "cuda"):
        with pytest.raises(
            UserError, match="3 workers need a GPU each, and PyTorch sees 2 GPUs; lower cluster.workers"
        ):
            working_together(ClusterConfig(workers=3), 1, device).__enter__()
    monkeypatch.setattr(everywhere, "_assembled", lambda *_: 1 / 0)
    for workers, device in ((2, "cuda"), (3, "cpu")):
        with pytest.raises(ZeroDivisionError):  # it would start them
            working_together(ClusterConfig(workers=workers), 1, device).__enter__()


def test_gpus_speak_by_nccl_and_processors_by_gloo(monkeypatch):
    assert started.backend() == "gloo"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert started.backend() == "cpu:gloo,cuda:nccl"
