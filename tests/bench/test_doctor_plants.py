"""Every planted fault of the doctor's bench still finds the object that it breaks."""

import pytest

from bench.doctor import SETS

FAULTS = [fault for faults in SETS.values() for fault in faults]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted_and_taken_out(fault):
    with fault.plant():
        pass
