"""The strange set is as large and as mixed as it says, and every case and healthy run has a config that is taken."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from bench.doctor_strange import CASES, HEALTHY, MADE, run, seed_of
from bench.doctor_strange_tools import FILES, RUN
from bench.doctor_world import PRESETS, SIZES, World
from concordant.config.checks import validate
from concordant.core.errors import UserError
from concordant.models import builtin

THINGS = ("owl", "hen", "frog", "lemon", "hammer", "key", "brush", "cheese")
PLACES = ("wood", "farm", "pond", "garden", "shed", "kitchen")


OPENERS = ("", "Hi! ", "Hello. ", "Please: ")


def row(opener, thing, place):
    return {
        "prompt": [{"role": "user", "content": f"{opener}Where is the {thing}, near the {place}?"}],
        "chosen": f"Good question! You can find the {thing} in the {place}. Have a nice day!",
        "rejected": f"The {thing} is outdoors.",
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What bench/doctor_world.py makes, with untrained models and 192 pairs."""
    made = World(tmp_path_factory.mktemp("world"))
    rows = [row(opener, thing, place) for opener in OPENERS for thing in THINGS for place in PLACES]
    pairs = {f"{preset} {side}": rows for preset in PRESETS for side in ("train", "held-out")}
    (made.folder / "pairs.json").write_text(json.dumps(pairs))
    with patch.dict(builtin.SIZES, SIZES):
        for size in SIZES:
            policy, tokenizer = builtin.build(size, [r["chosen"] for r in rows], 0)
            policy.save_pretrained(made.sft(size))
            tokenizer.save_pretrained(made.sft(size))
            config = AutoConfig.from_pretrained(made.sft(size), num_labels=1)
            AutoModelForSequenceClassification.from_config(config).save_pretrained(made.reward(size))
            tokenizer.save_pretrained(made.reward(size))
    return made


def test_there_are_at_least_sixty_cases_of_kinds_that_nobody_named_before():
    assert len([case for case in CASES if not case.named]) >= 60
    assert {case.stage for case in CASES} == {"sft", "reward", "dpo", "ppo"}
    for key in ("name", "story", "cause", "right"):
        assert len({getattr(case, key) for case in CASES}) == len(CASES), key


def test_every_case_has_a_public_thread():
    assert all(case.source.startswith("https://github.com/") for case in CASES)
    assert len({case.source for case in CASES}) == len(CASES)


REFUSED = {"sft-warmup-longer-than-run": "would never reach its learning rate"}  # before a step is made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_writes_its_files_and_a_config_that_is_taken(case, world, tmp_path):
    folder = tmp_path / case.name
    state = torch.random.get_rng_state()
    config = case.make(world, folder, seed_of(case.name))
    torch.random.set_rng_state(state)
    if case.name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[case.name]):
            validate(config)
        return
    validate(config)
    assert config.data.path.startswith(str(folder / FILES)) and config.output == str(folder / RUN)
    rows = [json.loads(line) for line in Path(config.data.path).read_text(encoding="utf-8").splitlines()]
    assert rows and not any({"gold", "extra", "probability"} & row.keys() for row in rows)


def test_healthy_runs_are_taken_and_use_the_users_files(world, tmp_path):
    kinds = set()
    for number in range(24):
        config = HEALTHY(number, world, tmp_path / f"healthy-{number:03d}")
        validate(config)
        assert config.data.path.startswith(str(tmp_path))
        kinds.add(type(config).__name__)
    assert kinds == {"SFTConfig", "RewardConfig", "DPOConfig", "PPOConfig"}


def test_a_run_that_ends_with_an_error_keeps_its_words_and_is_not_repeated(world, tmp_path):
    case = next(case for case in CASES if case.name == "sft-html")

    def refuse(config):
        raise UserError("no rows")

    with patch.dict("bench.doctor_strange.STAGES", sft=refuse):
        made = run(tmp_path / "a", lambda: case.make(world, tmp_path / "a", 1))
    assert made["error"] == "UserError: no rows"
    assert run(tmp_path / "a", lambda: pytest.fail("made again")) == json.loads((tmp_path / "a" / MADE).read_text())
