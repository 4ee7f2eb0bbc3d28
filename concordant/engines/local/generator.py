"""The generator of this process, on one CPU or one GPU. It uses continuous batching and a preallocated cache.

Samples wait in a queue, longest prompts first. As many samples as there are slots are decoded at the same time. When a
sample ends, the next one from the queue takes its slot. The tokens depend on the seed and not on the order.

On a GPU the processor reads the sampled tokens only after every ``STEPS_A_READ`` steps, so that it does not wait for
each token. A response that has ended in between goes on until the read, and what it adds is dropped.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.config.sampling import SamplingConfig
from concordant.core.alive import sign_of_life
from concordant.core.errors import UserError
from concordant.core.shards import share
from concordant.data.stop_strings import StopStrings
from concordant.engines.local.decoding import EqualLengthDecoder, SlotDecoder, slots_are_exact
from concordant.engines.local.running import RunningBatch
from concordant.engines.local.sampling import check_sampling, prompt_key
from concordant.engines.local.sharding import whole
from concordant.engines.local.weights import LocalWeights, load_tensors
from concordant.engines.memory import enough_memory
from concordant.engines.pipeline.stages import stage_of_model
from concordant.engines.protocol import Adapters, Completion, Done, Weights
from concordant.engines.ranks import current_ranks, gathered, own_shards
from concordant.engines.samples import Sample
from concordant.models.backbone import positions
from concordant.models.lora import lora_layers
from concordant.models.lora_layer import still

# New prompts join when one slot in ``REFILL`` is free. A small prefill takes nearly as long as a large one.
REFILL = 8
# Steps between two reads on a GPU. A response ends between two reads, so half as many steps of its slot are lost: with
# 8 and responses of 100 tokens about 4 %. With ``on_token`` each step is read at once, because somebody waits for it.
STEPS_A_READ = 8


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
        """Inside the block this rank can sample alone, also if its learner splits the weights over the ranks.

        All layers of a pipeline are then on every stage, because a token would wait for each stage in turn.
        """
        stage = stage_of_model(self.model)
        return whole(self.model) if stage is None else stage.whole(self.model)

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
        stages = self.ranks.stages
        if on_token is not None or self.ranks.shards * stages.size == 1:
            return Done(self._generate(prompts, sampling, seed, on_token))
        shards = _shared_out(prompts, sampling, self.ranks.shards * stages.size)  # the stages share a rank's shard out
        mine = [s * stages.size + stages.rank for s in own_shards(self.ranks)]
        with self.whole():
            own = [self._generate([prompts[i] for i in shards[s]], sampling, seed) for s in mine]
        of_stages = [found for of_shard in zip(*stages.values(own), strict=True) for found in of_shard]
        answers: list[list[Completion]] = [[] for _ in prompts]
        for numbers, found in zip(shards, gathered(self.ranks, of_stages), strict=True):
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
        waiting = _line_up(prompts, sampling, seed, [min(sampling.max_new_tokens, limit - len(p)) for p in prompts])
        finished: dict[tuple[int, int], Completion] = {}
        if waiting:
            if sampling.stop_strings:
                stops = StopStrings(self.tokenizer, sampling.stop_strings)
                for s in waiting:
                    s.stops = stops
            cure = f"lower sampling.slots (now {sampling.slots}) or sampling.max_new_tokens"
            cure += "; of dpo evaluation_slots or data.max_response_tokens"
            with still(), enough_memory("sampling", cure):
                columns = max(len(s.prompt_T) + s.room for s in waiting)
                batch = self.running(min(sampling.slots, len(waiting)), columns)
                with batch.computing():
                    self._sample(batch, waiting, finished, on_token)
        return [[finished[i, k] for k in range(sampling.n)] for i in range(len(prompts))]

    def running(self, slots: int, columns: int, adapters: Sequence[str] = ()) -> RunningBatch:
        """An empty batch of at most ``slots`` responses; each has at most ``columns`` tokens, prompt included.

        ``adapters`` are the names of the model's adapters among which each sample chooses; without them the model is
        used as it stands.
        """
        # The last token of a response is never read, so the cache has no column for it.
        decoder = SlotDecoder(self.model, slots, columns - 1) if self.uses_slots else EqualLengthDecoder(self.model)
        ends, tensor = sorted(self.end_ids), self.ranks.tensor
        return RunningBatch(self.model, decoder, ends, slots, columns, tensor, self.precision, adapters)

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

    def _sample(
        self,
        batch: RunningBatch,
        waiting: deque[Sample],
        finished: dict[tuple[int, int], Completion],
        on_token: Callable[[int, int, int], None] | None,
    ) -> None:
        rooms = sum(s.room for s in waiting)  # tokens that may be sampled
        unborn = rooms  # those of the samples that wait
        at_once = on_token is not None or self.model.device.type == "cpu"
        while waiting or batch.live:
            left = unborn + sum(s.room - len(s.ids) for s in batch.live)
            sign_of_life("tokens at most", rooms - left, rooms)
            joining = _next_in_line(batch, waiting)
            if joining:
                unborn -= sum(s.room for s in joining)
                batch.admit(joining)
            steps = 1 if at_once else min(STEPS_A_READ, max(s.room - len(s.ids) for s in batch.live))
            rows = batch.live
            ended = batch.advance(steps)
            if on_token is not None:
                for s in rows:
                    on_token(s.owner, s.number, s.last)
            for s in ended:
                finished[s.owner, s.number] = self._completion(s)

    def _completion(self, s: Sample) -> Completion:
        assert s.reason is not None
        return Completion(
            ids_T=torch.tensor(s.ids),
            logprob_T=torch.tensor(s.logprobs, dtype=torch.float32),
            finish_reason=s.reason,
            version=self.version,
        )


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


def _line_up(prompts: Sequence[Tensor], sampling: SamplingConfig, seed: int, rooms: Sequence[int]) -> deque[Sample]:
    """The queue of samples, longest prompts first.

    So memory runs out at the beginning or not at all, and neighbouring rows have similar lengths.
    """
    seen: Counter[str] = Counter()
    samples = []
    for i, prompt in enumerate(prompts):
        key = prompt_key(prompt)
        samples += [
            Sample(
                owner=i, prompt_T=prompt, sampling=sampling, seed=seed, room=rooms[i], number=k, occurrence=seen[key]
            )
            for k in range(sampling.n)
        ]
        seen[key] += 1
    return deque(sorted(samples, key=lambda s: -len(s.prompt_T)))


def _next_in_line(batch: RunningBatch, waiting: deque[Sample]) -> list[Sample]:
    """Take the samples that get a slot now out of ``waiting``."""
    free = batch.slots - len(batch.live)
    if batch.live and free < min(len(waiting), max(1, batch.slots // REFILL)):
        return []
    joining: list[Sample] = []
    while waiting and batch.may_join(waiting[0], joining):
        joining.append(waiting.popleft())
    return joining
