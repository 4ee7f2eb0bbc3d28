"""A state that several ranks wrote is read by any other number of ranks."""

from functools import partial

import pytest
import torch

from concordant.engines.local.rows import rows_of
from concordant.engines.ranks import Alone
from concordant.engines.state_files import read_state, write_state


class Rank(Alone):
    sharded = True

    def __init__(self, rank, size):
        super().__init__()
        self.rank, self.size = rank, size


def state_of(ranks, weight, bias):
    def own(tensor):
        return tensor[rows_of(len(tensor), ranks)]

    return {"version": 3, "weights": {"w": own(weight), "b": own(bias)}, "step": torch.tensor(2.0)}


@pytest.mark.parametrize("writers", [1, 2, 3, 4])
def test_any_number_of_ranks_reads_what_another_number_wrote(writers, tmp_path):
    """Seven rows over three ranks are 3, 3 and 1; one row over four ranks leaves three of them without a row."""
    weight, bias = torch.arange(21.0).view(7, 3), torch.tensor([5.0])
    for rank in range(writers):
        write_state(tmp_path, state_of(Rank(rank, writers), weight, bias), rank, writers)
    whole = read_state(tmp_path)
    assert torch.equal(whole["weights"]["w"], weight) and torch.equal(whole["weights"]["b"], bias)
    assert whole["version"] == 3 and whole["step"] == 2
    for readers in (2, 3, 5):
        parts = [read_state(tmp_path, partial(rows_of, ranks=Rank(rank, readers))) for rank in range(readers)]
        assert torch.equal(torch.cat([part["weights"]["w"] for part in parts]), weight)
        assert torch.equal(torch.cat([part["weights"]["b"] for part in parts]), bias)
        assert [part["weights"]["w"].shape[1] for part in parts] == [3] * readers


def test_the_rows_of_a_rank_are_those_of_pytorchs_chunks():
    for rows in range(1, 12):
        for size in range(1, 6):
            chunks = [list(c) for c in torch.arange(rows).chunk(size)]
            ours = [list(range(rows)[rows_of(rows, Rank(rank, size))]) for rank in range(size)]
            assert [o for o in ours if o] == chunks
