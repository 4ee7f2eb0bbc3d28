"""The generator of this process, on one CPU or one GPU. It uses continuous batching and a preallocated cache.

Samples wait in a queue, longest prompts first. As many samples as there are slots are decoded at the same time. When a
sample ends, the next one from the queue takes its slot. The tokens depend on the seed and not on the order.

On a GPU the processor reads the sampled tokens only after every ``STEPS_A_READ`` steps, so that it does not wait for
each token. A response that has ended in between goes on until the read, and what it adds is dropped.

Here R counts the live rows, S the steps of one read and J the tokens of a prompt and its response.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.config.sampling import SamplingConfig
from concordant.core.alive import sign_of_life
from concordant.core.errors import UserError
from concordant.core.shards import share
from concordant.core.transfer import to_device
from concordant.data.stop_strings import StopStrings
from concordant.engines.local.decoding import Decoder, EqualLengthDecoder, SlotDecoder, slots_are_exact
from concordant.engines.local.sampling import check_sampling, penalised, prompt_key, sample_tokens, uniforms, without
from concordant.engines.local.sharding import whole
from concordant.engines.local.weights import LocalWeights, load_tensors
from concordant.engines.memory import enough_memory
from concordant.engines.protocol import Adapters, Completion, Done, FinishReason, Weights
from concordant.engines.ranks import current_ranks, gathered, own_shards
from concordant.models.backbone import positions
from concordant.models.lora import lora_layers
from concordant.models.lora_layer import still

# New prompts join when one slot in ``REFILL`` is free. A small prefill takes nearly as long as a large one.
REFILL = 8
# Steps between two reads on a GPU. A response ends between two reads, so half as many steps of its slot are lost: with
# 8 and responses of 100 tokens about 4 %. With ``on_token`` each step is read at once, because somebody waits for it.
STEPS_A_READ = 8


@dataclass(slots=True, kw_only=True)
class _Sample:
    """One response that is being sampled."""

    prompt: int  # index in the caller's list
    number: int  # index among the n samples of this prompt
    occurrence: int  # how many equal prompts come before this prompt
    last: int  # the token that the model reads next
    room: int  # the most tokens that this response may have
    uniform_T: list[float] = field(default_factory=list)  # drawn when the sample gets its slot, to save memory
    past_J: Tensor | None = None  # ids of prompt and response, if a repetition is penalised; made with the slot too
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class LocalGenerator:
    """Samples from ``model``, which may be the same object that a learner trains.

    ``end_ids`` are the tokens that end a response (EOS, end of turn); the sampled end token belongs to the response.
    ``precision`` is autocast's dtype, or None for the dtype of the weights. Every completion carries ``version``, the
    number of optimizer steps. ``tokenizer`` decodes responses in which stop strings are looked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Sequence[int],
        version: int = 0,
        precision: torch.dtype | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.end_ids = frozenset(end_ids)
        self.version = version
        self.precision = precision
        self.ranks = current_ranks()  # the processes that answer the prompts of one call together
        # Whether the architecture allows responses of different lengths to be decoded together. The check is made now
        # and with the first weights, so that a resumed run comes to the same result as an uninterrupted one.
        with self.whole():
            self.uses_slots = slots_are_exact(model)

    def whole(self) -> AbstractContextManager[None]:
        """Inside the block this rank can sample alone, also if its learner splits the weights over the ranks."""
        return whole(self.model)

    def generate(
        self,
        prompts: Sequence[Tensor],
        sampling: SamplingConfig,
        seed: int,
        on_token: Callable[[int, int, int], None] | None = None,
    ) -> Done[list[list[Completion]]]:
        """``sampling.n`` completions for each prompt (1-D int64 ids), in the order of the prompts.

        The tokens of a response depend on the seed, the ids of the prompt, the number of equal prompts before it and
        the sample's number. They do not depend on slots or on the other rows, except where rounding decides a tie.
        ``on_token(prompt, sample, token_id)`` is called for each token as soon as it is sampled. Raises ``UserError``
        if a prompt is empty or leaves no position for a response, or if a sampling setting is out of range. A response
        ends at the model's last position where that comes before ``sampling.max_new_tokens``. Raises ``ValueError`` for
        stop strings if the generator has no tokenizer.
        """
        check_sampling(sampling)
        if sampling.stop_strings and self.tokenizer is None:
            raise ValueError("stop strings are looked for in text; make the generator with a tokenizer")
        if on_token is not None and self.ranks.tensor.size > 1:
            raise ValueError("a model whose layers are split over processes samples on all of them, without on_token")
        self._check_prompts(prompts)
        if on_token is not None or self.ranks.shards == 1:
            return Done(self._generate(prompts, sampling, seed, on_token))
        shards = _shared_out(prompts, sampling, self.ranks.shards)
        with self.whole():
            own = [self._generate([prompts[i] for i in shards[s]], sampling, seed) for s in own_shards(self.ranks)]
        answers: list[list[Completion]] = [[] for _ in prompts]
        for numbers, found in zip(shards, gathered(self.ranks, own), strict=True):
            for i, completions in zip(numbers, found, strict=True):
                answers[i] = completions
        return Done(answers)

    def _generate(
        self,
        prompts: Sequence[Tensor],
        sampling: SamplingConfig,
        seed: int,
        on_token: Callable[[int, int, int], None] | None = None,
    ) -> list[list[Completion]]:
        limit = positions(self.model)
        waiting = _line_up(prompts, sampling.n, [min(sampling.max_new_tokens, limit - len(p)) for p in prompts])
        finished: dict[tuple[int, int], Completion] = {}
        if waiting:
            kind = self.model.device.type
            autocast = torch.autocast(kind, self.precision) if self.precision else nullcontext()
            cure = f"lower sampling.slots (now {sampling.slots}) or sampling.max_new_tokens"
            cure += "; of dpo evaluation_slots or data.max_response_tokens"
            with still(), enough_memory("sampling", cure):
                decoder = self._decoder(prompts, sampling, len(waiting))
                with autocast:
                    self._decode(decoder, prompts, waiting, sampling, seed, finished, on_token)
        return [[finished[i, k] for k in range(sampling.n)] for i in range(len(prompts))]

    @property
    def takes(self) -> Adapters:
        """The form of the weights that another process may send."""
        return "apart" if lora_layers(self.model) else "merged"

    def load_weights(self, weights: Weights) -> None:
        """Sample from ``weights`` from now on. Nothing is copied if they are the weights of this generator's model."""
        if not (isinstance(weights, LocalWeights) and weights.model is self.model):
            load_tensors(self.model, weights.tensors, weights.adapters)
        self.version = weights.version

    def _check_prompts(self, prompts: Sequence[Tensor]) -> None:
        limit = positions(self.model)
        for i, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise UserError(f"prompt {i} is empty; a response needs at least one token to continue")
            if len(prompt) >= limit:
                raise UserError(
                    f"prompt {i} has {len(prompt)} tokens, which leaves a response none of the model's {limit} "
                    "positions; shorten the prompt"
                )

    def _decoder(self, prompts: Sequence[Tensor], sampling: SamplingConfig, samples: int) -> Decoder:
        if not self.uses_slots:
            return EqualLengthDecoder(self.model)
        columns = max(len(p) - 1 + min(sampling.max_new_tokens, positions(self.model) - len(p)) for p in prompts)
        return SlotDecoder(self.model, min(sampling.slots, samples), columns)

    def _decode(
        self,
        decoder: Decoder,
        prompts: Sequence[Tensor],
        waiting: deque[_Sample],
        sampling: SamplingConfig,
        seed: int,
        finished: dict[tuple[int, int], Completion],
        on_token: Callable[[int, int, int], None] | None,
    ) -> None:
        live: list[_Sample] = []
        stops = StopStrings(self.tokenizer, sampling.stop_strings) if sampling.stop_strings else None
        columns = max(len(prompts[s.prompt]) + s.room for s in waiting)
        left = rooms = sum(s.room for s in waiting)  # tokens that may still be sampled
        while waiting or live:
            sign_of_life("tokens at most", rooms - left, rooms)
            joining = _next_in_line(decoder, prompts, waiting, len(live), sampling.slots)
            if joining:
                for s in joining:
                    key = prompt_key(prompts[s.prompt])
                    s.uniform_T = uniforms(seed, key, s.occurrence, s.number, s.room)
                    if sampling.repetition_penalty != 1:
                        s.past_J = _filled_up(prompts[s.prompt], columns)
                groups = [list(g) for _, g in groupby(joining, key=lambda s: s.prompt)]
                decoder.admit([prompts[g[0].prompt] for g in groups], [len(g) for g in groups])
                live += joining
            at_once = on_token is not None or self.model.device.type == "cpu"
            steps = 1 if at_once else min(STEPS_A_READ, max(s.room - len(s.ids) for s in live))
            done: dict[int, None] = {}  # rows whose response has ended, in the order of their ends
            for drawn in self._drawn(decoder, prompts, live, sampling, steps):
                for row, (s, (token, logprob)) in enumerate(zip(live, drawn, strict=True)):
                    if row in done:
                        continue
                    s.last = token
                    s.ids.append(token)
                    s.logprobs.append(logprob)
                    left -= 1
                    if s.past_J is not None:
                        s.past_J[len(prompts[s.prompt]) + len(s.ids) - 1] = token
                    if on_token is not None:
                        on_token(s.prompt, s.number, token)
                    if reason := self._finish_reason(s, stops):
                        finished[s.prompt, s.number] = self._completion(s, reason)
                        left -= s.room - len(s.ids)
                        done[row] = None
            if done:
                live = [live[row] for row in decoder.drop(list(done))]

    def _drawn(
        self, decoder: Decoder, prompts: Sequence[Tensor], live: Sequence[_Sample], sampling: SamplingConfig, steps: int
    ) -> list[list[tuple[int, float]]]:
        """The next ``steps`` tokens of the live rows: for each step the id and the log-prob of each row's token."""
        device = self.model.device
        numbers = [[s.uniform_T[min(len(s.ids) + i, s.room - 1)] for s in live] for i in range(steps)]
        uniform_SR = to_device(torch.tensor(numbers, dtype=torch.float64), device)
        id_R = to_device(torch.tensor([s.last for s in live]), device)
        past_RJ = next_R1 = None
        if sampling.repetition_penalty != 1:
            past_RJ = to_device(torch.stack([s.past_J for s in live if s.past_J is not None]), device)
            next_R1 = to_device(torch.tensor([[len(prompts[s.prompt]) + len(s.ids)] for s in live]), device)
        ids, logprobs = [], []
        for i in range(steps):
            early = [row for row, s in enumerate(live) if len(s.ids) + i < sampling.min_new_tokens]
            logits_RV = self._shaped(decoder.step(id_R), past_RJ, early, sampling)
            id_R, logprob_R = sample_tokens(logits_RV, uniform_SR[i], sampling)
            id_R = self.ranks.tensor.first(id_R)  # rounding may differ between kinds of processors
            ids.append(id_R)
            logprobs.append(logprob_R)
            if past_RJ is not None and next_R1 is not None and i + 1 < steps:
                place_R1 = (next_R1 + i).clamp(max=past_RJ.shape[1] - 1)  # a row that has ended may have no place left
                past_RJ = past_RJ.scatter(1, place_R1, id_R[:, None])
        # One transfer. Double precision keeps every bit of an id and of a log-prob in fp32.
        both = torch.stack([torch.stack(ids).double(), torch.stack(logprobs).double()]).tolist()
        return [[(int(k), p) for k, p in zip(*rows, strict=True)] for rows in zip(*both, strict=True)]

    def _shaped(
        self, logits_RV: Tensor, past_RJ: Tensor | None, early: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        """The logits after the repetition penalty, and without an end token in the rows ``early``."""
        if past_RJ is not None:
            logits_RV = penalised(logits_RV, past_RJ, sampling.repetition_penalty)
        return without(logits_RV, early, sorted(self.end_ids)) if early else logits_RV

    def _finish_reason(self, s: _Sample, stops: StopStrings | None) -> FinishReason | None:
        """None if the response goes on."""
        if s.last in self.end_ids:
            return "stop"
        if stops is not None and stops.complete(s.ids):
            return "stop_string"
        return "length" if len(s.ids) == s.room else None

    def _completion(self, s: _Sample, reason: FinishReason) -> Completion:
        return Completion(
            ids_T=torch.tensor(s.ids),
            logprob_T=torch.tensor(s.logprobs, dtype=torch.float32),
            finish_reason=reason,
            version=self.version,
        )


def _filled_up(prompt: Tensor, columns: int) -> Tensor:
    """The prompt's ids, and its first id again in the columns that the response has yet to fill."""
    past_J = torch.full((columns,), int(prompt[0]))
    past_J[: len(prompt)] = prompt
    return past_J


def _shared_out(prompts: Sequence[Tensor], sampling: SamplingConfig, shards: int) -> list[list[int]]:
    """The numbers of the prompts of each shard: a prompt's samples stay together, and so do equal prompts.

    Equal prompts are told apart by their order, on which the random numbers of their answers depend.
    """
    equal: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        equal.setdefault(prompt_key(prompt), []).append(i)
    groups = list(equal.values())
    sizes = [sum(len(prompts[i]) + sampling.n * sampling.max_new_tokens for i in group) for group in groups]
    return [sorted(i for g in numbers for i in groups[g]) for numbers in share(sizes, shards)]


def _line_up(prompts: Sequence[Tensor], n: int, rooms: Sequence[int]) -> deque[_Sample]:
    """The queue of samples, longest prompts first.

    So memory runs out at the beginning or not at all, and neighbouring rows have similar lengths.
    """
    seen: Counter[str] = Counter()
    samples = []
    for i, prompt in enumerate(prompts):
        key = prompt_key(prompt)
        samples += [
            _Sample(prompt=i, number=k, occurrence=seen[key], last=int(prompt[-1]), room=rooms[i]) for k in range(n)
        ]
        seen[key] += 1
    return deque(sorted(samples, key=lambda s: -len(prompts[s.prompt])))


def _next_in_line(
    decoder: Decoder, prompts: Sequence[Tensor], waiting: deque[_Sample], live: int, slots: int
) -> list[_Sample]:
    """Take the samples that get a slot now out of ``waiting``."""
    free = slots - live
    if not waiting or (live and (not decoder.mixed_lengths or free < min(len(waiting), max(1, slots // REFILL)))):
        return []
    joining = [waiting.popleft()]
    while waiting and len(joining) < free:
        if not decoder.mixed_lengths and len(prompts[waiting[0].prompt]) != len(prompts[joining[0].prompt]):
            break
        joining.append(waiting.popleft())
    return joining
