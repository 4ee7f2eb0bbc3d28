from __future__ import annotations

import random

import numpy as np
import torch

from concordant.core.seeding import derive, generators_put_back, reseed


def draws():
    return (
        random.random(),
        float(np.random.rand()),
        float(torch.rand(())),
        float(torch.nn.Dropout(0.5)(torch.ones(64)).sum()),
    )


def test_all_generators_of_the_process_start_at_the_named_stream():
    with generators_put_back():
        reseed(0, "loop/step", 3)
        first = draws()
        draws()
        reseed(0, "loop/step", 3)
        assert draws() == first
        for seed, step in ((1, 3), (0, 4)):
            reseed(seed, "loop/step", step)
            assert not set(draws()[:3]) & set(first[:3])


def test_a_notebooks_own_draws_go_on_as_if_nothing_had_been():
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    with generators_put_back():
        reseed(7, "x")
        draws()
    assert states == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def test_names_that_read_alike_when_joined_are_streams_of_their_own():
    """Epoch 1 of step 12 is not epoch 11 of step 2, and seed 1 with step 12 is not seed 11 with step 2."""
    assert len({derive(0, "x", 12, 1), derive(0, "x", 1, 21), derive(0, "x", 121), derive(0, "x", 1, 2, 1)}) == 4
    assert derive(1, 12) != derive(11, 2)
