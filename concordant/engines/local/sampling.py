"""From logits to a token and its log-probability, one uniform random number a token.

A sample's uniforms depend on the seed, its prompt's ids and its own number alone, so the tokens it
gets do not depend on batch mates, slots, the order of the prompts or how many of them there are.
Tokens are drawn by inverting the cumulative distribution in two levels (chunks, then tokens of a
chunk), in double precision: no sort of the vocabulary, and no loss of rare tokens in a long sum.

R rows (responses decoded side by side), V vocabulary, K candidates kept by top-k or top-p,
C chunks of the vocabulary, W tokens of a chunk.
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from concordant.config.sampling import SamplingConfig
from concordant.core.errors import UserError
from concordant.core.seeding import torch_stream
from concordant.kernels.softmax import row_blocks

CHUNK = 128  # tokens summed at once; about √V for the vocabularies in use
NUCLEUS_PREFIX = 256  # candidates looked at before a nucleus is worth a longer look; most hold fewer
BELOW_ONE = 1.0 - 2.0**-52  # u · total < total holds in double precision for every u up to this


def check_sampling(sampling: SamplingConfig) -> None:
    """Raises UserError naming the field that is out of range."""
    counts = [("n", sampling.n, 1), ("top_k", sampling.top_k, 0), ("slots", sampling.slots, 1)]
    for name, value, least in [*counts, ("max_new_tokens", sampling.max_new_tokens, 1)]:
        if value < least:
            raise UserError(f"sampling.{name} is {value}; expected a whole number of at least {least}")
    if not (sampling.temperature >= 0 and math.isfinite(sampling.temperature)):
        raise UserError(f"sampling.temperature is {sampling.temperature}; expected 0 (most likely token) or more")
    if not 0 < sampling.top_p <= 1:
        raise UserError(f"sampling.top_p is {sampling.top_p}; expected a share in (0, 1]; 1 is off")


def prompt_key(prompt: Tensor) -> str:
    """Names a prompt by its ids, the same in every process."""
    return hashlib.sha256(prompt.to(torch.int64).cpu().contiguous().numpy().tobytes()).hexdigest()


def uniforms(seed: int, key: str, occurrence: int, sample: int, count: int) -> list[float]:
    """The random numbers in [0, 1) of one response, one a token.

    ``occurrence`` tells equal prompts of one call apart. A longer ``count`` begins with the shorter one's numbers.
    """
    stream = torch_stream(seed, "sample", key, occurrence, sample)
    return torch.rand(count, dtype=torch.float64, generator=stream).tolist()


def sample_tokens(logits_RV: Tensor, uniform_R: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Draw a token a row; returns its id (R,), int64, and its log-probability (R,), nats, float32.

    The log-probability is the temperature-scaled distribution's: of the whole vocabulary with top_p = 1 and
    top_k = 0, renormalised over the kept tokens otherwise. At temperature 0 the most likely token is taken and its
    log-probability is that at temperature 1, for a point mass has none to learn from.
    """
    logits_RV = logits_RV.float()
    if sampling.temperature == 0:
        id_R = logits_RV.argmax(-1)
        return id_R, logits_RV.gather(1, id_R[:, None]).squeeze(1) - logits_RV.logsumexp(-1)
    if sampling.temperature != 1:
        logits_RV = logits_RV / sampling.temperature
    if sampling.top_k == 0 and sampling.top_p == 1:
        return _draw(logits_RV, uniform_R)
    logits_RK, candidate_RK = _keep(logits_RV, sampling.top_k, sampling.top_p)
    place_R, logprob_R = _draw(logits_RK, uniform_R)
    return candidate_RK.gather(1, place_R[:, None]).squeeze(1), logprob_R


def _keep(logits_RV: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Logits (R, K) in falling order and their token ids; -inf where not kept.

    A token is kept while those above it hold less than ``top_p``, of what ``top_k`` left.
    """
    vocabulary = logits_RV.shape[1]
    size = min(top_k or NUCLEUS_PREFIX, vocabulary)
    while True:
        kept_RK, candidate_RK = logits_RV.topk(size, dim=1)
        if top_p == 1:
            return kept_RK, candidate_RK
        total_R1 = (kept_RK if top_k else logits_RV).logsumexp(1, keepdim=True)
        p_RK = (kept_RK - total_R1).double().exp()
        until_RK = p_RK.cumsum(1)
        if top_k or size == vocabulary or bool((until_RK[:, -1] >= top_p).all()):
            return kept_RK.masked_fill(until_RK - p_RK >= top_p, -math.inf), candidate_RK
        size = min(8 * size, vocabulary)


def _draw(logits_RV: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    """A token from softmax(logits), by inverting the cumulative distribution at ``uniform_R`` (float64)."""
    rows, vocabulary = logits_RV.shape
    highest_R1 = logits_RV.amax(1, keepdim=True)
    width = min(CHUNK, vocabulary)
    if vocabulary % width:
        logits_RV = F.pad(logits_RV, (0, -vocabulary % width), value=-math.inf)
    logits_RCW = logits_RV.view(rows, -1, width)
    sum_RC = logits_RV.new_empty(logits_RCW.shape[:2])
    for block in row_blocks(logits_RV):  # weights are not kept: writing them all takes longer than a chunk's once more
        sum_RC[block] = (logits_RCW[block] - highest_R1[block, :, None]).exp_().sum(2)
    until_RC = sum_RC.double().cumsum(1)
    total_R = until_RC[:, -1]
    target_R1 = (uniform_R.clamp(max=BELOW_ONE) * total_R)[:, None]
    chunk_R = (until_RC <= target_R1).sum(1)  # the first chunk that reaches past the target: its sum is not 0
    row_R = torch.arange(rows, device=chunk_R.device)
    before_R1 = until_RC[row_R, chunk_R - 1].masked_fill(chunk_R == 0, 0.0)[:, None]
    within_RW = (logits_RCW[row_R, chunk_R] - highest_R1).exp_().double().cumsum(1)
    # The two sums round differently: without the bound a target at a chunk's very end would find no token.
    target_R1 = torch.minimum(target_R1 - before_R1, BELOW_ONE * within_RW[:, -1:])
    id_R = chunk_R * width + (within_RW <= target_R1).sum(1)
    logprob_R = logits_RV[row_R, id_R] - highest_R1[:, 0] - total_R.log().float()
    return id_R, logprob_R
