"""A count and its noun agree."""

import pytest

from concordant.core.counted import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (11, "11 steps"), (1_024, "1,024 steps")]
)
def test_one_thing_has_no_plural(number, said):
    assert counted(number, "step") == said


def test_a_plural_of_its_own():
    assert counted(1, "pass", "passes") == "1 pass" and counted(2, "pass", "passes") == "2 passes"
    assert counted(1.5, "pass", "passes") == "1.5 passes"
