from __future__ import annotations

import pytest

from concordant.config.fields import build, comments, flatten, schema
from concordant.config.stages import BestOfNConfig, GenerateConfig, PPOConfig, SFTConfig
from concordant.verbs import VERBS


def test_the_comment_beside_a_field_is_its_help():
    assert (
        comments(SFTConfig)["packing"]
        == "where rows are padded, several dialogues share a row; False: each has its own row"
    )


def test_inherited_fields_keep_their_comment():
    assert comments(SFTConfig)["seed"] == "seed of all random numbers"


def test_a_section_default_of_the_owner_wins_over_the_sections_own():
    assert schema(BestOfNConfig).fields["sampling.n"].default == 4
    assert schema(GenerateConfig).fields["sampling.n"].default == 1


def test_sections_are_found_at_any_depth():
    assert set(schema(PPOConfig).sections) >= {"data", "model", "model.lora", "kl", "critic.lora", "sampling"}


@pytest.mark.parametrize("verb", VERBS)
def test_flatten_and_build_are_inverse(verb):
    config_class = VERBS[verb].config_class()
    assert build(config_class, flatten(config_class())) == config_class()
