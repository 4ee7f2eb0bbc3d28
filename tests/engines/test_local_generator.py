"""How the generator of this process decodes: slots, rows in groups, a prompt computed once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from concordant.config.sampling import SamplingConfig
from concordant.core.alive import heard_by
from concordant.engines.local import decoding, running
from concordant.engines.local import generator as local_generator
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.weights import LocalWeights
from concordant.kernels.ragged_attention import row_groups
from tests.engines.conformance.test_generator import END, MODELS, build, plain_logprobs, random_prompts
from tests.engines.tiny import tiny_policy


@pytest.mark.parametrize("name", MODELS)
def test_slots_are_used_where_the_architecture_allows_them(name: str) -> None:
    assert LocalGenerator(build(name), END).uses_slots == (name not in ("bloom", "mamba"))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3, one layer of two sliding"])
def test_rows_in_groups_of_similar_length_give_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = build(name), random_prompts(*range(40, 3, -2), *range(1, 6))
    sampling = SamplingConfig(max_new_tokens=10, slots=20)
    groups = []
    step = decoding.SlotDecoder.step

    def watched(self: decoding.SlotDecoder, last: list[int]) -> Tensor:
        groups.append([(r.first, r.last) for r in self.row_groups])
        return step(self, last)

    monkeypatch.setattr(decoding.SlotDecoder, "step", watched)
    out = LocalGenerator(model, END).generate(prompts, sampling, 0).result()
    assert max(map(len, groups)) > 1
    for prompt, (c,) in zip(prompts, out, strict=True):
        torch.testing.assert_close(c.logprob_T, plain_logprobs(model, prompt, c.ids_T, 1.0), atol=1e-4, rtol=0)
    assert model.config._attn_implementation == "sdpa"


def test_row_groups_are_split_where_reading_on_costs_more_than_a_call() -> None:
    """Four rows of 10 read to column 100 are 360 cells for nothing, to column 70 they are 240."""
    assert [(r.first, r.last, r.span) for r in row_groups([100] * 4 + [10] * 4)] == [(0, 4, 100), (4, 8, 10)]
    assert [(r.first, r.last, r.span) for r in row_groups([70] * 4 + [10] * 4)] == [(0, 8, 70)]
    assert [(r.first, r.last, r.span) for r in row_groups([10, 9, 8, 7, 30])] == [(0, 5, 30)]
    assert [(r.first, r.last, r.span) for r in row_groups([5] * 5, allowed=0)] == [(0, 5, 5)]
    assert row_groups([]) == []


def test_a_model_whose_cache_is_off_by_a_little_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    assert decoding.slots_are_exact(model)
    masks = decoding.SlotDecoder._masks

    def stale_key_in_sight(self: decoding.SlotDecoder, position_R: Tensor) -> Tensor | dict[str, Tensor]:
        return masks(self, position_R + 1)

    monkeypatch.setattr(decoding.SlotDecoder, "_masks", stale_key_in_sight)
    assert not decoding.slots_are_exact(model)


def test_a_prompt_is_computed_once_for_all_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    admit = decoding.SlotDecoder.admit

    def counted(self: decoding.SlotDecoder, prompts: list[Tensor], copies: list[int]) -> None:
        rows.append((len(prompts), list(copies)))
        admit(self, prompts, copies)

    generator = LocalGenerator(build("llama"), ())
    assert generator.uses_slots
    monkeypatch.setattr(decoding.SlotDecoder, "admit", counted)
    generator.generate(random_prompts(5, 8), SamplingConfig(n=4, max_new_tokens=3, slots=8), 0).result()
    assert rows == [(2, [4, 4])]


@pytest.mark.parametrize("slots", [1, 3])
def test_an_answer_that_meets_a_stop_string_frees_its_slot_at_once(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of every decoding step gives a token that somebody gets."""
    rows = []
    step = decoding.SlotDecoder.step

    def counted(self: decoding.SlotDecoder, last: list[int]) -> Tensor:
        rows.append(len(last))
        return step(self, last)

    policy = tiny_policy()
    generator = LocalGenerator(policy.model.eval(), (), tokenizer=policy.tokenizer)
    assert generator.uses_slots
    monkeypatch.setattr(decoding.SlotDecoder, "step", counted)
    sampling = SamplingConfig(n=4, max_new_tokens=20, slots=slots, stop_strings=["owl", "e"])
    out = generator.generate(random_prompts(5, 9), sampling, 0).result()
    answers = [c for group in out for c in group]
    assert {c.finish_reason for c in answers} == {"stop_string", "length"}
    assert sum(rows) == sum(len(c.ids_T) for c in answers) and max(rows) == slots


def test_options_that_are_off_do_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **settings: object) -> None:
        raise AssertionError("called for nothing")

    monkeypatch.setattr(local_generator, "StopStrings", never)
    for name in ("penalised", "without", "_filled_up", "_noted", "_together", "choosing", "by_row"):
        monkeypatch.setattr(running, name, never)
    LocalGenerator(build("llama"), END).generate(random_prompts(5), SamplingConfig(max_new_tokens=4), 0).result()


def test_a_shared_model_samples_from_the_weights_as_they_are_now() -> None:
    model, prompts = build("llama"), random_prompts(6)
    generator = LocalGenerator(model, ())
    generator.generate(prompts, SamplingConfig(max_new_tokens=2), 0).result()
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    generator.load_weights(LocalWeights(model, 1))
    ((c,),) = generator.generate(prompts, SamplingConfig(max_new_tokens=6), 0).result()
    torch.testing.assert_close(c.logprob_T, plain_logprobs(model, prompts[0], c.ids_T, 1.0), atol=1e-4, rtol=0)


def test_sampling_gives_signs_of_life_that_reach_the_end() -> None:
    """A response that ends early leaves its room unused, and the unused room counts as done."""
    signs: list[tuple[int, int]] = []
    sampling = SamplingConfig(max_new_tokens=12, n=2, slots=3)
    with heard_by(lambda counted, done, total: signs.append((done, total))):
        out = LocalGenerator(build("llama"), END).generate(random_prompts(3, 5, 9), sampling, 0).result()
    done = [done for done, _ in signs]
    assert {total for _, total in signs} == {6 * 12} and done == sorted(set(done)) and done[0] == 0
    assert any(c.finish_reason == "stop" for row in out for c in row), "no response ended early: the test shows nothing"
    assert 6 * 12 - sampling.slots <= done[-1] < 6 * 12, "the last sign comes before the last token of each live row"
