"""The second strange set is as large and as mixed as it says, and every case and healthy run can be planted."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from bench import doctor_strange2_tools
from bench.doctor_strange import CASES, CASES_2, SETS, seed_of
from bench.doctor_strange2_healthy import KINDS, healthy
from bench.doctor_strange2_tools import FILES, RUN, Desk
from concordant.config.checks import validate
from concordant.core.errors import UserError
from tests.bench.test_doctor_strange import world  # noqa: F401

REFUSED = {  # before a step is made, by the settings alone
    "sft-warmup-steps-fraction": "warmup_steps",
    "dpo-beta-zero": "beta",
    "ppo-top-k": "top_k",
    "grpo-one-sample": "sampling.n",
}
LATER = {"sft-role-hummany", "sft-zero3-empty-weights", "ppo-reward-is-a-language-model"}  # by the files


def test_there_are_at_least_sixty_new_cases_of_every_stage():
    assert len([case for case in CASES_2 if not case.named]) >= 60
    assert {case.stage for case in CASES_2} == {"sft", "reward", "dpo", "ppo"}
    assert len(REFUSED) + len(LATER) <= 8
    for key in ("name", "story", "cause", "right"):
        assert len({getattr(case, key) for case in CASES_2}) == len(CASES_2), key


def test_every_case_has_a_public_thread_of_its_own_that_the_first_set_does_not_have():
    sources = [case.source for case in CASES_2]
    assert all(source.startswith("https://") for source in sources)
    assert len(set(sources)) == len(sources)
    assert not set(sources) & {case.source for case in CASES}
    assert not {case.name for case in CASES_2} & {case.name for case in CASES}


@pytest.fixture
def no_runs_before():
    """A run that the user made before leaves its start as it was: what is tested is the files of the sick run."""

    def untrained(config):
        folder = Path(config.output)
        for name in ("model", "adapter"):
            (folder / name).mkdir(parents=True)
        return folder

    with patch.object(doctor_strange2_tools, "train_before", untrained):
        yield


@pytest.mark.parametrize("case", CASES_2, ids=lambda case: case.name)
def test_a_case_can_be_planted(case, world, tmp_path, no_runs_before):  # noqa: F811
    folder = tmp_path / case.name
    state = torch.random.get_rng_state()
    config = case.make(world, folder, seed_of(case.name))
    torch.random.set_rng_state(state)
    assert config.data.path.startswith(str(folder / FILES)) and config.output == str(folder / RUN)
    rows = [json.loads(line) for line in Path(config.data.path).read_text(encoding="utf-8").splitlines()]
    assert rows and not any({"gold", "extra", "probability"} & row.keys() for row in rows)
    if case.name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[case.name]):
            validate(config)
    else:
        validate(config)


def test_the_twelve_healthy_runs_are_taken(world, tmp_path):  # noqa: F811
    for number in range(len(KINDS)):
        config = healthy(number, world, tmp_path / f"healthy-{number:03d}")
        validate(config)
        assert config.data.path.startswith(str(tmp_path))
    assert len(KINDS) == 12 and SETS[2].healthy is healthy


def test_a_misspelt_key_of_a_case_is_an_error(world, tmp_path):  # noqa: F811
    desk = Desk(world, tmp_path, 1)
    with pytest.raises(KeyError, match="train.max_step"):
        desk.sft(desk.answers(5), train__max_step=3)
