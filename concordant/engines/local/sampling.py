"""Draws a token from logits, with its log-probability. Each token uses one uniform random number.

The logits become a distribution in the order of transformers' ``generate``: repetition penalty, no end token before the
shortest length, temperature, top-k, top-p, min-p. A setting that is off costs nothing.

The random numbers of a sample depend only on the seed, the ids of its prompt and the sample's own number. So its tokens
do not depend on the other rows, on slots, or on the order and the number of the prompts. A token is drawn by inverting
the cumulative distribution in two steps, first over sections of the vocabulary and then inside one section. This needs
no sorting. The sums are in double precision, so that rare tokens are not lost in a long sum.

M candidates kept by top-k or top-p, S sections of the vocabulary, W tokens of a section, J tokens of prompt and answer,
E end tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from concordant.config.sampling import SamplingConfig
from concordant.core.errors import UserError
from concordant.core.row_blocks import row_blocks
from concordant.core.seeding import torch_stream
from concordant.core.transfer import to_device

SECTION = 128  # tokens of a section; about √V for usual vocabularies
NUCLEUS_PREFIX = 256  # candidates that are looked at first for top-p; most nuclei are smaller
BELOW_ONE = 1.0 - 2.0**-52  # for every u up to this number, u · total < total holds in double precision


def check_sampling(sampling: SamplingConfig) -> None:
    """Raise ``UserError`` with the name of a field that is out of range."""
    least = {"n": 1, "top_k": 0, "slots": 1, "min_new_tokens": 0, "max_new_tokens": 1}
    for name, fewest in least.items():
        if (value := getattr(sampling, name)) < fewest:
            raise UserError(f"sampling.{name} is {value}; expected a whole number of at least {fewest}")
    if not (sampling.repetition_penalty > 0 and math.isfinite(sampling.repetition_penalty)):
        raise UserError(f"sampling.repetition_penalty is {sampling.repetition_penalty}; expected a number above 0")
    if not 0 <= sampling.min_p <= 1:
        raise UserError(f"sampling.min_p is {sampling.min_p}; expected a share in [0, 1]; 0 is off")
    if not all(sampling.stop_strings):
        raise UserError("sampling.stop_strings has an empty text; every answer contains the empty text")
    if not (sampling.temperature >= 0 and math.isfinite(sampling.temperature)):
        raise UserError(f"sampling.temperature is {sampling.temperature}; expected 0 (most likely token) or more")
    if not 0 < sampling.top_p <= 1:
        raise UserError(f"sampling.top_p is {sampling.top_p}; expected a share in (0, 1]; 1 is off")


def prompt_key(prompt: Tensor) -> str:
    """A key made from the ids of a prompt, the same in every process."""
    return hashlib.sha256(prompt.to(torch.int64).cpu().contiguous().numpy().tobytes()).hexdigest()


def uniforms(seed: int, key: str, occurrence: int, sample: int, count: int) -> list[float]:
    """The random numbers in [0, 1) of one response, one number for each token.

    ``occurrence`` distinguishes equal prompts of one call. A larger ``count`` gives the same numbers and then more.
    """
    stream = torch_stream(seed, "sample", key, occurrence, sample)
    return torch.rand(count, dtype=torch.float64, generator=stream).tolist()


def penalised(logits_RV: Tensor, past_RJ: Tensor, penalty: float) -> Tensor:
    """Logits in which the tokens of ``past_RJ`` (int64, a token may be there several times) are less likely.

    A positive logit is divided by ``penalty`` and a negative one multiplied. Keskar et al. 2019, 1909.05858 §4.1.
    """
    seen_RJ = logits_RV.float().gather(1, past_RJ)
    return logits_RV.float().scatter(1, past_RJ, torch.where(seen_RJ < 0, seen_RJ * penalty, seen_RJ / penalty))


def without(logits_RV: Tensor, rows: Sequence[int], ids: Sequence[int]) -> Tensor:
    """Logits that give the tokens ``ids`` probability 0 in some ``rows``. Ids behind the vocabulary are left alone."""
    known = [i for i in ids if i < logits_RV.shape[1]]
    row_R, id_E = (to_device(torch.tensor(x, dtype=torch.int64), logits_RV.device) for x in (rows, known))
    return logits_RV.index_put((row_R[:, None], id_E), logits_RV.new_full((), -math.inf))


def sample_tokens(logits_RV: Tensor, uniform_R: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Draw one token for each row. Returns its id (R,), int64, and its log-probability (R,), nats, float32.

    The log-probability belongs to the distribution at the sampling temperature: over the whole vocabulary if top_p,
    top_k and min_p are off, and otherwise renormalised over the kept tokens. At temperature 0 the most likely token is
    taken, and its log-probability is the one at temperature 1, because it would otherwise always be 0.
    """
    logits_RV = logits_RV.float()
    if sampling.temperature == 0:
        id_R = logits_RV.argmax(-1)
        return id_R, logits_RV.gather(1, id_R[:, None]).squeeze(1) - logits_RV.logsumexp(-1)
    if sampling.temperature != 1:
        logits_RV = logits_RV / sampling.temperature
    if sampling.top_k == 0 and sampling.top_p == 1:
        return _draw(_likely(logits_RV, sampling.min_p), uniform_R)
    logits_RM, candidate_RM = _keep(logits_RV, sampling.top_k, sampling.top_p)
    place_R, logprob_R = _draw(_likely(logits_RM, sampling.min_p), uniform_R)
    return candidate_RM.gather(1, place_R[:, None]).squeeze(1), logprob_R


def _keep(logits_RV: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Logits (R, M) in falling order and their token ids; the logit of a token that is not kept is -inf.

    Of the tokens that ``top_k`` leaves, a token is kept if the more likely ones together have less than ``top_p``.
    """
    vocabulary = logits_RV.shape[1]
    size = min(top_k or NUCLEUS_PREFIX, vocabulary)
    while True:
        kept_RM, candidate_RM = logits_RV.topk(size, dim=1)
        if top_p == 1:
            return kept_RM, candidate_RM
        total_R1 = (kept_RM if top_k else logits_RV).logsumexp(1, keepdim=True)
        p_RM = (kept_RM - total_R1).double().exp()
        until_RM = p_RM.cumsum(1)
        if top_k or size == vocabulary or bool((until_RM[:, -1] >= top_p).all()):
            return kept_RM.masked_fill(until_RM - p_RM >= top_p, -math.inf), candidate_RM
        size = min(8 * size, vocabulary)


def _likely(logits_RM: Tensor, min_p: float) -> Tensor:
    """Logits in which a token is left out if the most likely one is more than 1 / ``min_p`` times as likely.

    Nguyen et al. 2024, 2407.01082.
    """
    if min_p == 0:
        return logits_RM
    return logits_RM.masked_fill(logits_RM < logits_RM.amax(1, keepdim=True) + math.log(min_p), -math.inf)


def _draw(logits_RV: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    """A token from softmax(logits), by inverting the cumulative distribution at ``uniform_R`` (float64)."""
    rows, vocabulary = logits_RV.shape
    highest_R1 = logits_RV.amax(1, keepdim=True)
    width = min(SECTION, vocabulary)
    if vocabulary % width:
        logits_RV = F.pad(logits_RV, (0, -vocabulary % width), value=-math.inf)
    logits_RSW = logits_RV.view(rows, -1, width)
    sum_RS = logits_RV.new_empty(logits_RSW.shape[:2])
    # Only the sums are kept. Storing all weights takes longer than computing those of one section again.
    for block in row_blocks(logits_RV):
        sum_RS[block] = (logits_RSW[block] - highest_R1[block, :, None]).exp_().sum(2)
    until_RS = sum_RS.double().cumsum(1)
    total_R = until_RS[:, -1]
    target_R1 = (uniform_R.clamp(max=BELOW_ONE) * total_R)[:, None]
    section_R = (until_RS <= target_R1).sum(1)  # the first section whose end lies past the target; its sum is not 0
    row_R = torch.arange(rows, device=section_R.device)
    before_R1 = until_RS[row_R, section_R - 1].masked_fill(section_R == 0, 0.0)[:, None]
    within_RW = (logits_RSW[row_R, section_R] - highest_R1).exp_().double().cumsum(1)
    # The two sums round differently. Without this bound, a target at the end of a section would find no token.
    target_R1 = torch.minimum(target_R1 - before_R1, BELOW_ONE * within_RW[:, -1:])
    id_R = section_R * width + (within_RW <= target_R1).sum(1)
    logprob_R = logits_RV[row_R, id_R] - highest_R1[:, 0] - total_R.log().float()
    return id_R, logprob_R
