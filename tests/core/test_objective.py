"""Objectives that are added to one another keep what each says of its own terms."""

import torch

from concordant.core.objective import Evaluated, Metric, Outputs, Scaled, Term


class Two:
    """A term that counts whole and one that counts a fifth, as the loss of a critic beside its policy's."""

    want = Outputs(logprob=True)

    def weights(self, batch):
        return {"whole": 3.0, "part": 7.0}

    def __call__(self, out, batch):
        terms = {"whole": Term(torch.tensor(1.0)), "part": Term(torch.tensor(2.0), 0.2)}
        return Evaluated(terms, {"seen": Metric(torch.tensor(5.0))})


def test_a_scaled_objective_keeps_the_proportions_of_its_terms():
    scaled = Scaled(Two(), 0.5, "mix/")
    made = scaled(None, None)
    found = {name: (float(term.sum), term.coefficient) for name, term in made.terms.items()}
    assert found == {"mix/whole": (1.0, 0.5), "mix/part": (2.0, 0.1)}
    assert scaled.weights(None) == {"mix/whole": 3.0, "mix/part": 7.0} and scaled.want == Two.want
    assert list(made.metrics) == ["mix/seen"]
