"""Which examples a step sees: every one once an epoch, from the seed and the step alone."""

from hypothesis import given
from hypothesis import strategies as st

from concordant.data.loader import batch_of, steps_of


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_an_epoch_holds_every_example_once(count, batch_size, seed):
    steps = 3 * count  # three epochs and more, batches lying across their borders
    seen = [i for step in range(steps) for i in batch_of(step, count, batch_size, seed)]
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 20))
def test_a_step_needs_no_memory_of_those_before(count, batch_size, step):
    alone = batch_of(step, count, batch_size, 7)
    for earlier in range(step):
        batch_of(earlier, count, batch_size, 7)
    assert batch_of(step, count, batch_size, 7) == alone


def test_orders_differ_by_epoch_and_by_seed():
    assert sorted(batch_of(0, 50, 50, 0)) == sorted(batch_of(1, 50, 50, 0))
    orders = [tuple(batch_of(epoch, 50, 50, seed)) for seed in range(4) for epoch in range(3)]
    assert len(set(orders)) == len(orders)


def test_steps_by_hand():
    assert steps_of(10, 4, 1.0, 0) == 3
    assert steps_of(10, 4, 2.0, 0) == 5
    assert steps_of(10, 4, 0.1, 0) == 1
    assert steps_of(10, 4, 1.0, 7) == 7
