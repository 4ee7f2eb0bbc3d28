"""Answers of several turns for tests: environments of a few lines, and a generator that says what it is told."""

import torch

from concordant.algorithms.conversations import Conversing
from concordant.algorithms.environments import Environments
from concordant.config.environment import EnvironmentConfig
from concordant.data.chat import ChatEncoder, Limits
from concordant.data.tokens import ids_of
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.protocol import Completion, Done
from tests.engines.tiny import tiny_policy

ENDS = range(0, 100)  # end tokens that come by chance, a third of the vocabulary, so that turns end


class Twice:
    """Replies to two turns and then ends the answer."""

    role = "user"

    def __init__(self):
        self.heard = []

    def reply(self, said):
        self.heard.append(said)
        return None if len(self.heard) > 2 else f"owl {len(self.heard)}"

    def score(self):
        return float(len(self.heard))


class Endless:
    def reply(self, said):
        return "go on"


class Crashing:
    """Fails in its second turn where the first turn had an odd number of letters."""

    def __init__(self):
        self.odd = None

    def reply(self, said):
        if self.odd is None:
            self.odd = len(said) % 2
            return "more"
        if self.odd:
            raise KeyError("no such shop")
        return None


class Loud:
    """Replies what it was made with."""

    def __init__(self, words):
        self.words = words

    def reply(self, said):
        return self.words


class Scripted:
    """A generator that says the next of its texts, whoever asks."""

    def __init__(self, encoder, *texts):
        self.encoder, self.texts = encoder, list(texts)
        self.read = []  # the ids behind which it spoke

    def generate(self, prompts, sampling, seed, on_token=None):
        self.read += [prompt.tolist() for prompt in prompts]
        return Done([[self._say() for _ in range(sampling.n)] for _ in prompts])

    def _say(self):
        (ids,) = ids_of(self.encoder.tokenizer, [self.texts.pop(0)])
        ids = torch.tensor([*ids, self.encoder.end_id])
        return Completion(ids_T=ids, logprob_T=torch.zeros(len(ids)), finish_reason="stop", version=0)


def conversing(name, policy=None, total=256, generator=None, **settings):
    """A sampler of a tiny policy with random weights that speaks with the environment ``name`` of this file."""
    policy = policy or tiny_policy()
    encoder = ChatEncoder(policy.tokenizer, Limits(total=total))
    place = name if ":" in name or name in ("calculator", "guess") else f"tests.algorithms.talks:{name}"
    environments = Environments(EnvironmentConfig(name=place, **settings))
    generator = generator or LocalGenerator(policy.model, ENDS, tokenizer=policy.tokenizer)
    return Conversing(generator, encoder, environments)


class Hanging:
    def reply(self, said):
        while True:
            pass
