"""What makes the doctor's measurement one: faults and seeds that the rules were not made with."""

from itertools import combinations

from bench.doctor import SEEDS, SETS, plan


def names(faults):
    return {fault.name for fault in faults}


def test_no_fault_and_no_run_is_in_two_sets():
    for one, other in combinations(SETS, 2):
        assert not names(SETS[one]) & names(SETS[other])
    runs = [{(stage, seed) for stage, seed, _ in plan(SETS[s], 104, 100, SEEDS[s])} for s in SETS]
    assert all(len(made) == 204 for made in runs)
    assert not any(a & b for a, b in combinations(runs, 2))


def test_what_is_measured_is_as_many_as_was_asked():
    sick = plan(SETS["measure"], 104, 0, SEEDS["measure"])
    assert len({fault.kind for _, _, fault in sick}) >= 25 and len(sick) >= 100
