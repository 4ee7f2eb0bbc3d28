"""What a start gives to answers, prompts and ends, by hand: each fault is told from the others."""

import pytest
import torch

from concordant.core.objective import BranchOutputs
from concordant.core.trees import Branch, PromptTree
from concordant.doctor.preflight_start import Asked, check_start
from concordant.engines.protocol import Done

END, VOCABULARY = 2, 1000  # a guess is 6.9 nats


class Start:
    """``nats(prompt, number of the answer)`` a token, and ``end`` for the end token."""

    def __init__(self, nats, end=0.1):
        self.nats, self.end = nats, end

    def forward(self, trees, want):
        rows = []
        for tree in trees:
            for side, branch in enumerate(tree.branches):
                nats = self.nats(int(tree.prompt_T[0]), int(branch.ids_T[0]), side)
                rows += [nats] * (branch.response_length - 1) + [self.end]
        return Done(BranchOutputs(logprob_N=-torch.tensor(rows)))


def trees(sides=1):
    branches = tuple(Branch.response([0, 5, 6, END]) for _ in range(sides))
    made = []
    for i in range(40):
        for branch in branches:
            branch.ids_T[0] = i
        own = tuple(Branch.response([i, 5, 6, END]) for _ in range(sides))
        made.append(PromptTree(torch.tensor([i, 3]), own))
    return made


def found(start, sides=1, **expected):
    return check_start(Asked(start=start, vocabulary=VOCABULARY, end_ids=[END], **expected), trees(sides))


CASES = {
    "untrained_start": Start(lambda prompt, answer, side: 6.9, end=6.9),
    "foreign_text": Start(lambda prompt, answer, side: 9.0, end=9.0),
    "start_knows_little": Start(lambda prompt, answer, side: 3.0 + 2.0 * (prompt != answer)),
    "end_unknown": Start(lambda prompt, answer, side: 0.3 + (prompt != answer), end=12.0),
    "prompts_unused": Start(lambda prompt, answer, side: 0.9),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_is_found(name):
    (finding,) = found(CASES[name])
    assert finding.rule == name


def test_a_start_that_knows_its_text_is_left_in_peace():
    assert found(Start(lambda prompt, answer, side: 0.4 + (prompt != answer))) == []


def test_sft_of_all_weights_may_teach_an_end():
    assert found(CASES["end_unknown"], learns_text=True, learns_ends=True) == []


def test_one_side_of_the_pairs_is_foreign():
    (finding,) = found(Start(lambda prompt, answer, side: 0.4 + 20 * (side == 0)), sides=2)
    assert finding.rule == "foreign_text" and finding.cause.startswith("the chosen answers")


def test_a_part_of_the_answers_is_foreign():
    (finding,) = found(Start(lambda prompt, answer, side: 12.0 if answer % 3 == 0 else 0.4), learns_text=True)
    assert finding.cause.startswith("a part of the answers") and finding.severity == "warning"
