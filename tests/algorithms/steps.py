"""Answers with scores that are known, for one step of PPO."""

from concordant.config.stages import KLConfig

NO_KL = KLConfig(coefficient=0.0)
# gamma = lambda = 0 and a critic that says 0: a token's advantage is its own reward, to be looked at.
BARE = {"whiten": "none", "reward_normalize": "none", "gamma": 0.0, "lam": 0.0}
ENDED_AND_CUT = [([8, 9, 10], True), ([11, 12], False)]


def scores(*values):
    return lambda answers: list(values)[: len(answers)]
