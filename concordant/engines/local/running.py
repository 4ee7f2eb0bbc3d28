"""The batch that runs: the one place where tokens are sampled. Responses join it, get tokens, and leave it.

Every response has its own settings, seed and adapter. Rows with the same settings are sampled in one call. Rows with
different adapters share the pass through the base, and each gets the update of its own adapter.

Here R counts the live rows, S the steps of one call, J the tokens of a prompt and its response, and M the rows of one
setting or of one adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.config.sampling import SamplingConfig
from concordant.core.axis import Axis
from concordant.core.transfer import to_device
from concordant.engines.local.decoding import Decoder
from concordant.engines.local.sampling import penalised, prompt_key, sample_tokens, uniforms, without
from concordant.engines.protocol import FinishReason
from concordant.engines.samples import Noted, Sample
from concordant.models.lora import lora_layers
from concordant.models.lora_layer import LoRALinear, by_row, choosing, still

Drawn = tuple[int, float, Noted | None]  # id, log-prob in the distribution that was sampled from, what is noted


class RunningBatch:
    """At most ``slots`` responses, each with at most ``columns`` tokens, prompt included.

    ``adapters`` are the names of the model's adapters among which each sample chooses. Without them the model is used
    as it stands.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: Decoder,
        end_ids: Sequence[int],
        slots: int,
        columns: int,
        tensor: Axis,
        precision: torch.dtype | None = None,
        adapters: Sequence[str] = (),
    ) -> None:
        self.model, self.decoder, self.tensor, self.precision = model, decoder, tensor, precision
        self.end_ids = frozenset(end_ids)
        self.slots, self.columns = slots, columns
        self.live: list[Sample] = []
        layers = lora_layers(model).values() if adapters else ()
        self._choices: dict[str | None, Mapping[LoRALinear, str | None]] = {
            name: {layer: name if name and name in layer.adapters else None for layer in layers}
            for name in [None, *adapters]
        }
        self._several = bool(adapters)
        self._of_rows: Mapping[str | None, Tensor] | None = None  # rows of each adapter; None after rows have changed

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside the block, this thread computes as the sampler does: in its precision, without gradient."""
        kind = self.model.device.type
        with still(), torch.autocast(kind, self.precision) if self.precision else nullcontext():
            yield

    def may_join(self, sample: Sample, joining: Sequence[Sample]) -> bool:
        """Whether ``sample`` can get a slot now, together with ``joining``."""
        if len(self.live) + len(joining) >= self.slots:
            return False
        if self.decoder.mixed_lengths:
            return True
        alike = all(len(s.prompt_T) == len(sample.prompt_T) and s.adapter == sample.adapter for s in joining)
        return not self.live and alike

    def admit(self, joining: Sequence[Sample]) -> None:
        """Give slots to samples. Neighbours of one owner share the pass over their prompt."""
        for s in joining:
            s.last = int(s.prompt_T[-1])
            s.uniform_T = uniforms(s.seed, prompt_key(s.prompt_T), s.occurrence, s.number, s.room)
            if s.sampling.repetition_penalty != 1:
                s.past_J = _filled_up(s.prompt_T, self.columns)
        for adapter, rows in groupby(joining, key=lambda s: s.adapter):
            groups = [list(g) for _, g in groupby(rows, key=lambda s: s.owner)]
            with self._with(adapter):
                self.decoder.admit([g[0].prompt_T for g in groups], [len(g) for g in groups])
        self.live += joining
        self._of_rows = None

    def advance(self, steps: int = 1) -> list[Sample]:
        """Sample the next token of each live response, ``steps`` times. Returns those that have ended.

        They have left the batch, and their ``reason`` says why.
        """
        ended: dict[int, Sample] = {}  # by row, in the order of their ends
        for drawn in self._drawn(steps):
            for row, (s, (token, logprob, noted)) in enumerate(zip(self.live, drawn, strict=True)):
                if row in ended:
                    continue
                s.last = token
                s.ids.append(token)
                s.logprobs.append(logprob)
                if noted is not None:
                    s.noted.append(noted)
                if s.past_J is not None:
                    s.past_J[len(s.prompt_T) + len(s.ids) - 1] = token
                s.reason = self._finish_reason(s)
                if s.reason:
                    ended[row] = s
        self._drop(list(ended))
        return list(ended.values())

    def leave(self, gone: Sequence[Sample]) -> None:
        """Take live samples out of the batch, whose responses nobody wants any more."""
        named = set(map(id, gone))
        self._drop([row for row, s in enumerate(self.live) if id(s) in named])

    def _drop(self, rows: list[int]) -> None:
        if rows:
            self.live = [self.live[row] for row in self.decoder.drop(rows)]
            self._of_rows = None

    # -- adapters -------------------------------------------------------------------------------

    def _with(self, adapter: str | None) -> AbstractContextManager[None]:
        return choosing(self._choices[adapter]) if self._several else nullcontext()

    def _with_rows(self) -> AbstractContextManager[None]:
        """Inside the block, each live row is computed with its own adapter."""
        if not self._several:
            return nullcontext()
        if self._of_rows is None:
            names = dict.fromkeys(s.adapter for s in self.live)
            rows = {name: [row for row, s in enumerate(self.live) if s.adapter == name] for name in names}
            self._of_rows = {name: to_device(torch.tensor(r), self.model.device) for name, r in rows.items()}
        if len(self._of_rows) == 1:
            return self._with(next(iter(self._of_rows)))
        return by_row({name: row_M for name, row_M in self._of_rows.items() if name is not None})

    # -- tokens ---------------------------------------------------------------------------------

    def _drawn(self, steps: int) -> list[list[Drawn]]:
        """The next ``steps`` tokens of the live rows: for each step what was drawn for each row."""
        device, live = self.model.device, self.live
        numbers = [[s.uniform_T[min(len(s.ids) + i, s.room - 1)] for s in live] for i in range(steps)]
        uniform_SR = to_device(torch.tensor(numbers, dtype=torch.float64), device)
        id_R = to_device(torch.tensor([s.last for s in live]), device)
        settings = [_Rows(rows, live, device) for rows in _alike(live)]
        noting = [row for row, s in enumerate(live) if s.likely is not None]
        ids, logprobs = [], []
        notes: list[dict[int, Noted]] = []
        for i in range(steps):
            with self._with_rows():
                logits_RV = self.decoder.step(id_R)
            parts = [self._drawn_once(logits_RV, uniform_SR[i], rows, i) for rows in settings]
            id_R, logprob_R = parts[0] if len(parts) == 1 else _together(settings, parts)
            id_R = self.tensor.first(id_R)  # rounding may differ between kinds of processors
            notes.append(_noted(logits_RV, id_R, noting, live) if noting else {})
            ids.append(id_R)
            logprobs.append(logprob_R)
            if i + 1 < steps:
                for rows in settings:
                    rows.said(id_R, i)
        # One transfer. Double precision keeps every bit of an id and of a log-prob in fp32.
        both = torch.stack([torch.stack(ids).double(), torch.stack(logprobs).double()]).tolist()
        return [
            [(int(k), p, noted.get(row)) for row, (k, p) in enumerate(zip(*rows, strict=True))]
            for noted, *rows in zip(notes, *both, strict=True)
        ]

    def _drawn_once(self, logits_RV: Tensor, uniform_R: Tensor, rows: _Rows, step: int) -> tuple[Tensor, Tensor]:
        """Ids and log-probs of the rows of one setting; a repetition is penalised, and no end token comes too early."""
        if rows.row_M is not None:
            logits_RV, uniform_R = logits_RV[rows.row_M], uniform_R[rows.row_M]
        if rows.past_MJ is not None:
            logits_RV = penalised(logits_RV, rows.past_MJ, rows.sampling.repetition_penalty)
        early = [row for row, s in enumerate(rows.samples) if len(s.ids) + step < rows.sampling.min_new_tokens]
        if early:
            logits_RV = without(logits_RV, early, sorted(self.end_ids))
        return sample_tokens(logits_RV, uniform_R, rows.sampling)

    def _finish_reason(self, s: Sample) -> FinishReason | None:
        """None if the response goes on."""
        if s.last in self.end_ids:
            return "stop"
        if s.stops is not None and s.stops.complete(s.ids):
            return "stop_string"
        return "length" if len(s.ids) == s.room else None


class _Rows:
    """The rows of one setting, and their tokens so far where a repetition is penalised."""

    def __init__(self, rows: list[int], live: Sequence[Sample], device: torch.device) -> None:
        self.samples = [live[row] for row in rows]
        self.sampling = self.samples[0].sampling
        everyone = len(rows) == len(live)
        self.row_M = None if everyone else to_device(torch.tensor(rows), device)  # None: all rows
        self.past_MJ: Tensor | None = None
        if self.sampling.repetition_penalty != 1:
            past = [s.past_J for s in self.samples if s.past_J is not None]
            self.past_MJ = to_device(torch.stack(past), device)
            self.next_M1 = to_device(torch.tensor([[len(s.prompt_T) + len(s.ids)] for s in self.samples]), device)

    def said(self, id_R: Tensor, step: int) -> None:
        """Note the tokens of this step, which are not yet in ``past_J`` of the samples."""
        if self.past_MJ is not None:
            id_M = id_R if self.row_M is None else id_R[self.row_M]
            # A row that has ended may have no place left.
            place_M1 = (self.next_M1 + step).clamp(max=self.past_MJ.shape[1] - 1)
            self.past_MJ = self.past_MJ.scatter(1, place_M1, id_M[:, None])


def _alike(live: Sequence[Sample]) -> list[list[int]]:
    """The rows of each setting of the distribution."""
    first = live[0].sampling
    if all(s.sampling is first for s in live):  # of one call
        return [list(range(len(live)))]
    rows: dict[tuple[float, ...], list[int]] = {}
    for row, s in enumerate(live):
        rows.setdefault(_distribution(s.sampling), []).append(row)
    return list(rows.values())


def _distribution(sampling: SamplingConfig) -> tuple[float, ...]:
    shape = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
    return (*shape, sampling.repetition_penalty, sampling.min_new_tokens)


def _together(settings: Sequence[_Rows], parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The ids and log-probs of all settings in the order of the rows."""
    row_R = torch.cat([rows.row_M for rows in settings if rows.row_M is not None])
    order_R = row_R.argsort()
    return torch.cat([ids for ids, _ in parts])[order_R], torch.cat([logprobs for _, logprobs in parts])[order_R]


def _noted(logits_RV: Tensor, id_R: Tensor, rows: Sequence[int], live: Sequence[Sample]) -> dict[int, Noted]:
    """By row, the model's own log-probs of the sampled token and of the most likely ones."""
    row_M = to_device(torch.tensor(rows), logits_RV.device)
    logprob_MV = logits_RV[row_M].float().log_softmax(-1)
    own = logprob_MV.gather(1, id_R[row_M][:, None])[:, 0].tolist()
    counts = [live[row].likely or 0 for row in rows]
    best = logprob_MV.topk(min(max(counts), logprob_MV.shape[1]), dim=1)
    values, ids = best.values.tolist(), best.indices.tolist()
    return {
        row: Noted(own[m], list(zip(ids[m][:count], values[m][:count], strict=True)))
        for m, (row, count) in enumerate(zip(rows, counts, strict=True))
    }


def _filled_up(prompt: Tensor, columns: int) -> Tensor:
    """The prompt's ids, and its first id again in the columns that the response has yet to fill."""
    past_J = torch.full((columns,), int(prompt[0]))
    past_J[: len(prompt)] = prompt
    return past_J
