"""A team of Ray actors without Ray: a stand-in with the five functions that the team uses tells of scripted ends."""

import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest

from concordant.core.errors import RunFailed, UserError
from concordant.engines.group import ray_team
from concordant.engines.group.orders import Order, Ref
from concordant.engines.group.ray_rank import HeldWeights, _interface_of
from concordant.engines.group.ray_team import History, RayResult, RayTeam, WorkerEnded, assembled


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(cause)
        self.cause = cause


class GetTimeoutError(RayError):
    pass


def stands_in():
    """Each of a test's references is its value, or the error that fetching it raises; NEVER never comes."""

    def wait(left, num_returns, timeout):
        done = [x for x in left if x is not NEVER][:1]
        return done, [x for x in left if x is not (done[0] if done else None)]

    def get(reference, timeout=None):
        if isinstance(reference, Exception):
            raise reference
        return reference

    errors = SimpleNamespace(RayTaskError=RayTaskError, RayError=RayError, GetTimeoutError=GetTimeoutError)
    return SimpleNamespace(wait=wait, get=get, exceptions=errors, kill=lambda actor: None)


NEVER = "never"
GONE = RayError("The actor died\nand more")


class Team(RayTeam):
    """A team whose actors are names: a life has two of them."""

    def __init__(self, role="generator", restarts=2):
        self.ray, self.workers, self.role, self.life, self.learns = stands_in(), 2, role, 0, False
        self._timeout, self._restarts, self._left, self._history = 0.01, restarts, restarts, History()
        self.repeated = 0
        self._start()

    def _start(self):
        self.actors = [f"{self.life}/{rank}" for rank in range(2)]

    def meet(self):
        pass

    def _repeat(self):
        self.repeated += 1


def error_of(pending, role="policy"):
    with pytest.raises(Exception) as raised:
        Team(role).wait(pending)
    return raised.type, str(raised.value)


def test_the_first_worker_that_fails_is_named_with_its_cause():
    assert error_of(["fine", RayTaskError(ValueError("odd"))]) == (RunFailed, "worker 1: ValueError: odd")
    assert error_of([GONE, "fine"]) == (WorkerEnded, "worker 0 ended: RayError: The actor died")
    assert error_of([GONE, "fine"], "critic")[1].startswith("worker 0 of the critic ended")


def test_an_error_that_a_user_can_cause_stays_this_error():
    assert error_of([RayTaskError(UserError("no such folder")), "fine"]) == (UserError, "no such folder")


def test_a_worker_that_waited_for_another_one_is_not_blamed():
    waited = RayTaskError(RuntimeError("[gloo] Connection closed by peer"))
    assert error_of([waited, GONE])[1] == "worker 1 ended: RayError: The actor died"
    cut_off = RayTaskError(RuntimeError("Application timeout caused pair closure"))
    assert error_of([cut_off, NEVER])[1] == "worker 1 did not answer within 0.01 s"
    assert error_of([waited, RayTaskError(ValueError("odd"))])[1] == "worker 1: ValueError: odd"
    late = RayTaskError(RuntimeError("Timed out"))
    assert error_of([waited, late]) == (RunFailed, "worker 0: RuntimeError: [gloo] Connection closed by peer")


def asked(team, *answers):
    """A question that is answered with one of ``answers`` each time it is asked."""
    left = list(answers)
    return RayResult(team, lambda: [left.pop(0), "fine"])


def test_workers_that_end_start_again_and_are_asked_again():
    team = Team()
    assert asked(team, GONE, GONE, "answer").result() == "answer"
    assert team.life == team.repeated == 2 and team.actors == ["2/0", "2/1"]


def test_two_results_of_one_life_start_the_workers_again_once():
    team = Team()
    first, second = asked(team, GONE, "first"), asked(team, GONE, "second")
    assert (first.result(), second.result(), team.life) == ("first", "second", 1)


def test_the_tries_are_bounded():
    with pytest.raises(RunFailed, match=r"ended: .*; its team was started again 2 times \(cluster.restarts\)"):
        asked(Team(), GONE, GONE, GONE).result()


def test_workers_with_an_optimizers_state_and_those_that_raise_do_not_start_again():
    team = Team()
    team.learns = True
    with pytest.raises(WorkerEnded):
        asked(team, GONE).result()
    with pytest.raises(RunFailed, match="odd"):
        asked(Team(), RayTaskError(ValueError("odd"))).result()


def test_the_history_has_what_new_workers_need_and_only_the_newest_weights():
    history, generator = History(), Ref(2)
    make = Order(verb="m:make", result=2)
    for order in (
        Order(verb="use_mesh", arguments=[2, 1, False, 1]),
        make,
        Order(verb="use_arithmetic", arguments=[1, False]),
        Order(verb="use_arithmetic", arguments=[1, True]),
        Order(verb="generate", of=generator),
        Order(verb="load_weights", of=generator, arguments=[HeldWeights("old", 1, 8)]),
        Order(verb="load_weights", of=generator, arguments=[HeldWeights("new", 2, 8)]),
    ):
        history.add(order)
    shards, arithmetic, made, weights = history.orders()
    assert (shards.arguments, arithmetic.arguments, made) == ([2, 1, False, 1], [1, True], make)
    assert weights.arguments[0].version == 2
    history.add(Order(verb="forget"))
    assert history.orders() == []


ALARM = """
import faulthandler, time
from concordant.engines.group.ray_rank import _Alarm
alarm = _Alarm(1.0)
for _ in range(15):
    time.sleep(0.1)
    alarm.postpone()
print("postponed", flush=True)
def hang():
    time.sleep(60)
hang()
"""


def test_a_rank_ends_itself_and_shows_its_stack_once_it_gives_no_sign_of_life():
    done = subprocess.run([sys.executable, "-c", ALARM], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, "postponed\n")
    assert "in hang" in done.stderr


def test_a_python_that_is_not_on_this_machine_is_named_before_ray_starts():
    with pytest.raises(UserError, match="generator_python /nowhere/python: no such program"):
        assembled({"policy": 1, "generator": 1}, timedelta(1), "local", 0, {"generator": "/nowhere/python"})


def test_the_interface_of_an_address():
    assert _interface_of("127.0.0.1") == "lo" and _interface_of("203.0.113.9") == ""


class Placed:
    """A stand-in for Ray that notes what is asked of it."""

    def __init__(self, gpus=0, has_room=True):
        self.bundles, self.actors, self.gpus = [], [], gpus
        group = SimpleNamespace(wait=lambda seconds: has_room)
        self.util = SimpleNamespace(placement_group=lambda bundles, strategy: self.bundles.append(bundles) or group)

    def remote(self, kind):
        return SimpleNamespace(options=lambda **given: self.actors.append(given) or SimpleNamespace(remote=dict))

    def cluster_resources(self):
        return {"CPU": 8.0} | ({"GPU": float(self.gpus)} if self.gpus else {})

    available_resources = cluster_resources


@pytest.fixture
def strategies(monkeypatch):
    module = SimpleNamespace(PlacementGroupSchedulingStrategy=lambda group, placement_group_bundle_index: None)
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", module)


@pytest.mark.parametrize(
    ("device", "gpus", "each"),
    [("cuda", 0, 1), ("auto", 2, 1), ("auto", 0, 0), ("cpu", 2, 0), ("", 2, 0)],
)
def test_every_worker_gets_a_gpu_of_its_own_where_the_models_go_to_gpus(device, gpus, each, strategies, monkeypatch):
    """Ray hides all GPUs from a worker that asks for none."""
    ray = Placed(gpus)
    monkeypatch.setattr(ray_team, "connected", lambda address, workers: ray)
    monkeypatch.setattr(RayTeam, "meet", lambda self: None)
    assembled({"policy": 2, "generator": 1}, timedelta(1), "auto", 0, {}, device)
    assert [given["num_gpus"] for given in ray.actors] == [each] * 3
    assert ray.bundles == [[{"CPU": 1} | ({"GPU": 1} if each else {})] * n for n in (2, 1)]


def test_a_cluster_without_room_says_what_is_free(strategies):
    words = "no room for 2 workers of one CPU and one GPU each within 120 s, because 8 CPUs and 1 GPUs are free"
    with pytest.raises(UserError, match=words):
        RayTeam(Placed(1, has_room=False), "policy", 2, timedelta(1), 0, {}, on_gpus=True)
