"""A generator of another team: every completion must come from the weights that were sent last."""

import pytest
import torch

from concordant.config.sampling import SamplingConfig
from concordant.core.errors import RunFailed
from concordant.engines.group.handles import GroupGenerator, GroupWeights, Sent
from concordant.engines.group.orders import Published, Ref
from concordant.engines.protocol import Completion, Done


class Team:
    """A stand-in for workers. ``version`` is that of the weights with which they sample."""

    def __init__(self, version):
        self.version, self.orders = version, []

    def look(self, ref, name):
        return "merged"

    def call(self, ref, verb, *given):
        self.orders.append(verb)
        completion = Completion(
            ids_T=torch.tensor([1]), logprob_T=torch.tensor([-0.1]), finish_reason="length", version=self.version
        )
        return Done([[completion]] if verb == "generate" else None)

    def hand_over(self, published):
        return Sent()


def weights(version):
    ref = Ref(0)
    return GroupWeights(Team(version), Published(ref, "merged"), version, version, Sent())


def test_every_call_after_new_weights_is_checked_and_the_weights_are_sent_once():
    team = Team(version=3)
    generator = GroupGenerator(team, Ref(1))
    generator.load_weights(weights(3))
    for _ in range(2):
        assert generator.generate([torch.tensor([5])], SamplingConfig(), 0).result()[0][0].version == 3
    generator.load_weights(weights(3))
    assert team.orders.count("load_weights") == 1
    team.version = 2  # as workers that started again without the newest weights
    with pytest.raises(RunFailed, match="version 2, not 3"):
        generator.generate([torch.tensor([5])], SamplingConfig(), 0).result()
