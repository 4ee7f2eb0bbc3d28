"""Mistakes in the file of a pipeline, and in the options beside it, are named before any stage runs."""

import pytest

from concordant.core.errors import UserError
from tests.test_pipeline import FILE, plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("${taste}", "${tastre}"), 'stage ppo.*reward: unknown stage "tastre". Did you mean "taste"'),
        (("${ppo.run}", "${ppo.folder}"), r"expected \$\{ppo\} or \$\{ppo.run\}, given \$\{ppo.folder\}"),
        (("model: builtin:tiny", 'model: "${ppo}"'), "name one another in a circle: sft -> ppo -> sft"),
        (("verb: reward", "verb: rewards"), 'stage taste: unknown verb "rewards". Did you mean "reward"'),
        (("verb: reward, ", ""), 'stage taste needs "verb: NAME"'),
        (("max_steps: 2", "max_step: 2"), 'stage taste.*"train.max_step". Did you mean "train.max_steps"'),
        (("max_steps: 2", "max_steps: two"), 'stage taste.*train.max_steps: expected a whole number.*"two"'),
        (("seed: 5", "sede: 5"), 'unknown key "sede". Did you mean "seed"'),
        (("verb: reward,", "verb: chat,"), "chat writes no folder and cannot be a stage"),
        (("sft: {model", "../sft: {model"), "cannot name a stage"),
        (("verb: reward,", "verb: reward, output: elsewhere,"), "a stage cannot set output"),
        (("verb: reward,", "verb: reward, resume: auto,"), "a stage cannot set resume"),
    ],
)
def test_mistakes_in_the_file(change, message):
    with pytest.raises(UserError, match=message):
        plan(FILE.replace(*change))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("stages.pop.clip", 'unknown stage "pop". Did you mean "ppo"'),
        ("stages.ppo.clipp", 'unknown option "--clipp". Did you mean "--clip"'),
        ("stages.ppo", "needs a key of the stage"),
        ("sede", 'unknown option "--sede". Did you mean "--seed"'),
    ],
)
def test_mistakes_in_options(option, message):
    with pytest.raises(UserError, match=message):
        plan(FILE, (option, "1"))
