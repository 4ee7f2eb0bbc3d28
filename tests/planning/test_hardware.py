"""Assumptions: every machine has each of them, with a source; a user replaces any of them by name."""

from __future__ import annotations

import typing

import pytest

from concordant.config.names import HardwareName
from concordant.core.errors import UserError
from concordant.planning.hardware import ASSUMPTIONS, GIVEN, HARDWARE, machine


def test_every_machine_has_every_assumption_with_its_source():
    assert set(HARDWARE) == set(typing.get_args(HardwareName))
    for numbers in HARDWARE.values():
        assert list(numbers) == list(ASSUMPTIONS)
        assert all(n.source and n.value >= 0 for n in numbers.values())


def test_a_machines_own_numbers_are_in_the_range_that_a_user_may_give():
    for name, numbers in HARDWARE.items():
        machine(name, [f"{key}={n.value!r}" for key, n in numbers.items()])


def test_a_given_number_replaces_one_and_says_so():
    found = machine("h100-80gb", ["price=1.5", "reached=0.4"])
    assert (found["price"], found["reached"]) == (1.5, 0.4)
    assert found.numbers["price"].source == GIVEN
    assert found["bandwidth"] == HARDWARE["h100-80gb"]["bandwidth"].value
    assert HARDWARE["h100-80gb"]["price"].value != 1.5


def test_room_is_the_memory_that_is_not_left_free():
    assert machine("a100-40gb", ["memory=100", "free=0.25"]).room == 75


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("reachd=0.4", 'unknown assumption "reachd". Did you mean "reached"'),
        ("x=1", "Known: memory, free"),
        ("reached=fast", 'reached is "fast"; expected a number, share'),
        ("reached=0", "reached is 0; expected a number above 0 and at most 1"),
        ("reached=1.1", "at most 1"),
        ("free=1", "free is 1"),
        ("free=-0.1", "free is -0.1"),
        ("bandwidth=0", "bandwidth is 0"),
        ("peak_bf16=0", "peak_bf16 is 0"),
        ("node=0.5", "node is 0.5"),
        ("price=nan", "price is nan"),
        ("memory=inf", "memory is inf"),
        ("base=-1", "base is -1"),
    ],
)
def test_a_wrong_assumption_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        machine("cpu", [given])
