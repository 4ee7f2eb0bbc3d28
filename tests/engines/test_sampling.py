"""One token from logits: the right distribution, the right log-probability, one random number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from concordant.config.sampling import SamplingConfig
from concordant.core.seeding import torch_stream
from concordant.engines.local.sampling import penalised, prompt_key, sample_tokens, uniforms, without

STREAM = "test/sampling"


def draws(logits_V: Tensor, sampling: SamplingConfig, count: int) -> tuple[Tensor, Tensor]:
    uniform = torch.rand(count, dtype=torch.float64, generator=torch_stream(0, STREAM))
    return sample_tokens(logits_V.expand(count, -1), uniform, sampling)


def grid(logits_V: Tensor, sampling: SamplingConfig, count: int = 4000) -> Tensor:
    """Share of each token over evenly spaced uniforms: the exact distribution to 1/count."""
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    ids, _ = sample_tokens(logits_V.expand(count, -1), uniform, sampling)
    return torch.bincount(ids, minlength=len(logits_V)) / count


def test_tokens_follow_the_distribution() -> None:
    """χ² with 9 degrees of freedom stays below 27.9 in 999 of 1,000 draws."""
    p = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.04, 0.03, 0.02, 0.01])
    n = 20_000
    ids, _ = draws(p.log() + 3, SamplingConfig(), n)
    chi2 = ((torch.bincount(ids, minlength=10) - n * p) ** 2 / (n * p)).sum()
    assert chi2 < 27.9


@pytest.mark.parametrize("vocabulary", [1, 2, 127, 128, 129, 1000])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_every_vocabulary_size_is_sampled_exactly(vocabulary: int, temperature: float) -> None:
    logits = torch.randn(vocabulary, generator=torch_stream(1, STREAM)) * 2
    share = grid(logits, SamplingConfig(temperature=temperature))
    torch.testing.assert_close(share, (logits / temperature).softmax(0), atol=1 / 4000, rtol=0)


def test_temperature_sharpens_as_it_falls() -> None:
    """Odds of 4 become 4² at temperature ½."""
    share = grid(torch.tensor([math.log(4.0), 0.0]), SamplingConfig(temperature=0.5), 17_000)
    torch.testing.assert_close(share, torch.tensor([16 / 17, 1 / 17]), atol=1e-4, rtol=0)


def test_logprob_is_of_the_whole_distribution_at_the_temperature() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    ids, logprob = draws(logits, SamplingConfig(temperature=0.7), 50)
    torch.testing.assert_close(logprob, (logits / 0.7).log_softmax(0)[ids])


def test_truncation_restricts_the_support_and_renormalises() -> None:
    p = torch.tensor([0.1, 0.4, 0.2, 0.3])
    third = torch.tensor([0.0, 0.4, 0.0, 0.3]) / 0.7
    torch.testing.assert_close(grid(p.log(), SamplingConfig(top_k=2)), third, atol=1e-3, rtol=0)
    torch.testing.assert_close(grid(p.log(), SamplingConfig(top_p=0.65)), third, atol=1e-3, rtol=0)
    nucleus = torch.tensor([0.0, 0.4, 0.2, 0.3]) / 0.9
    torch.testing.assert_close(grid(p.log(), SamplingConfig(top_p=0.75)), nucleus, atol=1e-3, rtol=0)
    ids, logprob = draws(p.log(), SamplingConfig(top_k=2), 20)
    torch.testing.assert_close(logprob, (third[ids]).log())
    # top_p counts what top_k left: 4/7 < 0.65 keeps both, 4/7 ≥ 0.5 keeps one
    torch.testing.assert_close(grid(p.log(), SamplingConfig(top_k=2, top_p=0.65)), third, atol=1e-3, rtol=0)
    assert grid(p.log(), SamplingConfig(top_k=2, top_p=0.5)).tolist() == [0, 1, 0, 0]


def test_top_k_keeps_k_of_equals() -> None:
    assert (grid(torch.zeros(50), SamplingConfig(top_k=3)) > 0).sum() == 3


def test_a_nucleus_larger_than_the_first_look_is_found() -> None:
    share = grid(torch.zeros(3000), SamplingConfig(top_p=0.49999), 3000)
    assert (share > 0).sum() == 1500


def test_rows_with_small_and_large_nuclei_do_not_disturb_each_other() -> None:
    logits = torch.stack([torch.zeros(600), torch.cat([torch.tensor([20.0]), torch.zeros(599)])])
    ids, logprob = sample_tokens(
        logits, torch.tensor([0.999, 0.999], dtype=torch.float64), SamplingConfig(top_p=0.8999)
    )
    assert ids[1] == 0 and logprob[1] == 0
    torch.testing.assert_close(logprob[0], torch.tensor(-math.log(540)))


@pytest.mark.parametrize("possible", [[1, 126, 130, 257], [130, 257], [299]])
def test_the_ends_of_the_unit_interval_give_possible_tokens(possible: list[int]) -> None:
    """Tokens of probability 0 at both ends, around every chunk and filling the first chunk are never drawn."""
    logits = torch.full((2, 300), -math.inf)
    logits[:, possible] = torch.linspace(0.1, 0.4, len(possible))
    ids, logprob = sample_tokens(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), SamplingConfig())
    assert ids.tolist() == [possible[0], possible[-1]]
    assert torch.isfinite(logprob).all()


def test_huge_logits_stay_finite() -> None:
    ids, logprob = sample_tokens(
        torch.tensor([[1e4, -1e4, 1e4 - 1]]), torch.tensor([0.9], dtype=torch.float64), SamplingConfig()
    )
    torch.testing.assert_close(logprob, torch.tensor([-1 - math.log1p(math.exp(-1))]))
    assert ids.item() == 2


def test_temperature_zero_takes_the_most_likely_token_and_ignores_chance() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]]).expand(5, -1)
    ids, logprob = sample_tokens(logits, torch.linspace(0, 0.99, 5, dtype=torch.float64), SamplingConfig(temperature=0))
    assert ids.tolist() == [1] * 5
    torch.testing.assert_close(logprob, torch.full((5,), -math.log(1 + math.exp(-1) + math.exp(-2))))


def test_uniforms_are_named_by_seed_prompt_occurrence_and_sample() -> None:
    a, b = prompt_key(torch.tensor([1, 2])), prompt_key(torch.tensor([1, 2, 0]))
    first = uniforms(0, a, 0, 0, 8)
    assert first == uniforms(0, prompt_key(torch.tensor([1, 2], dtype=torch.int32)), 0, 0, 8)
    assert first[:3] == uniforms(0, a, 0, 0, 3)
    others = [uniforms(1, a, 0, 0, 8), uniforms(0, b, 0, 0, 8), uniforms(0, a, 1, 0, 8), uniforms(0, a, 0, 1, 8)]
    assert all(x != first for x in others)
    assert all(0 <= u < 1 for x in others for u in x)


# -- beside transformers' processors ------------------------------------------------------------------

VOCABULARY, ENDS = 300, (2, 5, 299)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [1.0, 0.7, 1.8])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (30, 1.0), (0, 0.8), (30, 0.8)])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.4, 1.0])
def test_the_distribution_is_that_of_transformers_processors(
    seed: int, penalty: float, top_k: int, top_p: float, min_p: float
) -> None:
    """Random logits behind random tokens: the same tokens are possible, and each has the same log-probability."""
    stream = torch_stream(seed, STREAM)
    logits_RV = 3 * torch.randn(2, VOCABULARY, generator=stream)
    past_RJ = torch.randint(0, VOCABULARY, (2, 40), generator=stream)
    peers = [
        RepetitionPenaltyLogitsProcessor(penalty), MinNewTokensLengthLogitsProcessor(38, 3, list(ENDS)),
        TemperatureLogitsWarper(0.8), *([TopKLogitsWarper(top_k)] if top_k else []),
        *([TopPLogitsWarper(top_p)] if top_p < 1 else []), *([MinPLogitsWarper(min_p)] if min_p else []),
    ]  # fmt: skip
    expected_RV = LogitsProcessorList(peers)(past_RJ, logits_RV.clone()).log_softmax(-1)  # two tokens so far, of three
    shaped_RV = without(penalised(logits_RV, past_RJ, penalty), [0, 1], ENDS)
    sampling = SamplingConfig(temperature=0.8, top_k=top_k, top_p=top_p, min_p=min_p)
    for shaped_V, expected_V in zip(shaped_RV, expected_RV, strict=True):
        uniform = (torch.arange(3000, dtype=torch.float64) + 0.5) / 3000
        ids, logprob = sample_tokens(shaped_V.expand(3000, -1), uniform, sampling)
        torch.testing.assert_close(logprob, expected_V[ids], atol=1e-5, rtol=0)
        share = torch.bincount(ids, minlength=VOCABULARY) / 3000
        torch.testing.assert_close(share, expected_V.exp(), atol=1 / 3000 + 1e-6, rtol=0)


def test_min_p_by_hand() -> None:
    """A quarter of 0.4 is 0.1, which stays; 0.0999 goes. Of equals all stay at 1."""
    p = torch.tensor([0.4, 0.2, 0.1001, 0.0999, 0.2])
    kept = torch.tensor([0.4, 0.2, 0.1001, 0.0, 0.2]) / 0.9001
    torch.testing.assert_close(grid(p.log(), SamplingConfig(min_p=0.25)), kept, atol=1e-3, rtol=0)
    assert grid(torch.tensor([1.0, 3.0, 3.0, 2.0]), SamplingConfig(min_p=1.0)).tolist() == [0, 0.5, 0.5, 0]


def test_the_penalty_and_the_shortest_length_act_on_the_most_likely_token_too() -> None:
    logits = torch.tensor([[4.0, 3.0, -1.0]])
    greedy, uniform = SamplingConfig(temperature=0), torch.zeros(1, dtype=torch.float64)
    shaped = penalised(logits, torch.tensor([[0, 2, 0]]), 2.0)
    assert shaped.tolist() == [[2.0, 3.0, -2.0]]
    assert sample_tokens(shaped, uniform, greedy)[0].item() == 1
    assert sample_tokens(without(logits, [0], [0, 7]), uniform, greedy)[0].item() == 1
    assert logits.tolist() == [[4.0, 3.0, -1.0]], "what was given is left alone"


def test_only_the_rows_that_are_named_lose_their_ends() -> None:
    shaped = without(torch.zeros(3, 4), [0, 2], [1, 3])
    assert shaped.isinf().tolist() == [[False, True] * 2, [False] * 4, [False, True] * 2]
