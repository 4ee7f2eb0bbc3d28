"""The generator protocol over vLLM's engine, inside this process.

vLLM holds its own copy of the weights, so ``load_weights`` sends every tensor. Requests are added as slots become free
and are read token by token. So stop strings, limits of length and the stream of tokens follow the same rules as in the
local generator.
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concordant.config.contradictions import VLLM_SAMPLING
from concordant.config.fields import flatten
from concordant.config.sampling import SamplingConfig
from concordant.core.alive import sign_of_life
from concordant.core.errors import UserError
from concordant.core.seeding import derive, generators_put_back
from concordant.data.stop_strings import StopStrings
from concordant.engines.local.sampling import check_sampling, prompt_key
from concordant.engines.protocol import Adapters, Completion, Done, FinishReason, Weights
from concordant.engines.vllm.engine import VllmSettings, can_sleep, close, device_type, start, uncompiled
from concordant.engines.vllm.weights import Expected, pack_tied_heads


@dataclass(slots=True, kw_only=True)
class _Sample:
    """One response that is being sampled."""

    prompt: int  # index in the caller's list
    number: int  # index among the n samples of this prompt
    seed: int
    room: int  # the most tokens that this response may have
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.prompt}/{self.number}"


class VllmGenerator:
    """Samples with vLLM from the model in ``folder``, which has a config.json and may have ``*.safetensors``.

    Without weights in the folder, ``load_weights`` must be called before ``generate``. ``end_ids`` are the tokens that
    end a response; the end tokens of the model's own configuration end none. ``tokenizer`` decodes responses in which
    stop strings are looked for. All arguments can be pickled, so an actor can make its generator itself.

    Raises:
        UserError: vLLM is not installed, or its build has no code for this model.
    """

    takes: Adapters = "merged"  # the form of the weights that another process may send

    def __init__(
        self,
        folder: str,
        end_ids: Sequence[int],
        settings: VllmSettings,
        version: int = 0,
        tokenizer: Any = None,
    ) -> None:
        has_weights = any(Path(folder).glob("*.safetensors"))
        self.end_ids = frozenset(end_ids)
        self.settings, self.tokenizer = settings, tokenizer
        self._expected = Expected(folder)
        self._engine = start(folder, settings, "safetensors" if has_weights else "dummy")
        weakref.finalize(self, close, self._engine)
        self._vocabulary = self._engine.model_config.get_vocab_size()
        self._sleeps, self._is_asleep = settings.sleeps and can_sleep(), False
        self._has_weights = False
        if has_weights:
            self._stamp(version)

    @property
    def version(self) -> int:
        """The number of optimizer steps of the weights, read back from vLLM; -1 before the first weights."""
        return int(self._engine.get_weight_version()) if self._has_weights else -1

    def generate(
        self,
        prompts: Sequence[Tensor],
        sampling: SamplingConfig,
        seed: int,
        on_token: Callable[[int, int, int], None] | None = None,
    ) -> Done[list[list[Completion]]]:
        """``sampling.n`` completions for each prompt (1-D int64 ids), in the order of the prompts.

        The tokens of a response depend on the seed, the ids of the prompt, the number of equal prompts before it and
        the sample's number, except where rounding decides a tie. They are not the local generator's tokens for the same
        seed, because vLLM draws in another way. Raises ``UserError`` if a prompt is empty or too long, or if a setting
        is out of range or means something else in vLLM.
        """
        check_sampling(sampling)
        refuse_unlike(sampling)
        if sampling.stop_strings and self.tokenizer is None:
            raise ValueError("stop strings are looked for in text; make the generator with a tokenizer")
        self._check_prompts(prompts)
        if not prompts:
            return Done([])
        if not self._has_weights:
            raise RuntimeError("the generator has no weights yet; call load_weights first")
        self._wake()
        waiting = self._line_up(prompts, sampling, seed)
        with uncompiled(), generators_put_back():  # vLLM draws seeds from the process's generator and throws them away
            finished = self._sample(prompts, waiting, sampling, on_token)
        self._sleep()
        return Done([[finished[i, k] for k in range(sampling.n)] for i in range(len(prompts))])

    def load_weights(self, weights: Weights) -> None:
        """Copy ``weights``, merged ones by plain Hugging Face names, into vLLM, and forget what the old ones computed.

        Raises ValueError if they are an adapter alone or another model's.
        """
        if weights.adapters == "apart":
            raise ValueError('vLLM\'s copy of the model has no active adapter: publish with adapters="merged"')
        sent = self._expected.checked(weights.tensors)
        self._wake()
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": sent})
        if device_type() == "cpu":
            self._engine.apply_model(pack_tied_heads)
        self._stamp(weights.version)

    # -- one call -------------------------------------------------------------------------------

    def _check_prompts(self, prompts: Sequence[Tensor]) -> None:
        limit = self.settings.longest
        for i, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise UserError(f"prompt {i} is empty; a response needs at least one token to continue")
            if len(prompt) >= limit:
                raise UserError(
                    f"prompt {i} has {len(prompt)} tokens, which leaves a response none of the model's {limit} "
                    "positions; shorten the prompt"
                )

    def _line_up(self, prompts: Sequence[Tensor], sampling: SamplingConfig, seed: int) -> deque[_Sample]:
        """The queue of samples, longest prompts first, the samples of a prompt together."""
        seen: Counter[str] = Counter()
        samples = []
        for i, prompt in enumerate(prompts):
            key, room = prompt_key(prompt), min(sampling.max_new_tokens, self.settings.longest - len(prompt))
            for k in range(sampling.n):
                own = derive(seed, "sample", key, seen[key], k)
                samples.append(_Sample(prompt=i, number=k, seed=own, room=room))
            seen[key] += 1
        return deque(sorted(samples, key=lambda s: -len(prompts[s.prompt])))

    def _sample(
        self,
        prompts: Sequence[Tensor],
        waiting: deque[_Sample],
        sampling: SamplingConfig,
        on_token: Callable[[int, int, int], None] | None,
    ) -> dict[tuple[int, int], Completion]:
        stops = StopStrings(self.tokenizer, sampling.stop_strings) if sampling.stop_strings else None
        version, live = self.version, dict[str, _Sample]()
        finished: dict[tuple[int, int], Completion] = {}
        left = rooms = sum(s.room for s in waiting)  # tokens that may still be sampled
        try:
            while waiting or live:
                sign_of_life("tokens at most", rooms - left, rooms)
                while waiting and len(live) < sampling.slots:
                    s = waiting.popleft()
                    live[s.name] = s
                    prompt = {"type": "token", "prompt_token_ids": prompts[s.prompt].tolist()}
                    self._engine.add_request(s.name, prompt, self._parameters(s, sampling))
                for output in self._engine.step():
                    s, (new,) = live[output.request_id], output.outputs
                    for token, logprob in zip(new.token_ids, new.logprobs.logprobs, strict=True):
                        s.ids.append(token)
                        s.logprobs.append(logprob)
                        left -= 1
                        if on_token is not None:
                            on_token(s.prompt, s.number, token)
                    reason = self._finish_reason(s, stops)
                    if reason is not None:
                        if not output.finished:
                            self._engine.abort_request([output.request_id])
                        finished[s.prompt, s.number] = _completion(s, reason, version)
                        left -= s.room - len(s.ids)
                        del live[output.request_id]
        finally:
            self._engine.abort_request(list(live))  # empty, except after an error or Ctrl-C
        return finished

    def _parameters(self, s: _Sample, sampling: SamplingConfig) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            seed=s.seed,
            max_tokens=s.room,
            min_tokens=min(sampling.min_new_tokens, s.room),
            stop_token_ids=sorted(i for i in self.end_ids if i < self._vocabulary),
            ignore_eos=True,  # ``end_ids`` alone end a response
            logprobs=0,  # of the sampled token and of no other
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )

    def _finish_reason(self, s: _Sample, stops: StopStrings | None) -> FinishReason | None:
        """None if the response goes on."""
        if s.ids and s.ids[-1] in self.end_ids:
            return "stop"
        if stops is not None and s.ids and stops.complete(s.ids):
            return "stop_string"
        return "length" if len(s.ids) == s.room else None

    # -- weights and memory ---------------------------------------------------------------------

    def _stamp(self, version: int) -> None:
        """Drop keys and values of the old weights, name the new ones, and read the name back."""
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept keys and values of old weights, because it still samples from them")
        self._engine.set_weight_version(str(version))
        self._has_weights = True
        if self.version != version:
            raise RuntimeError(f"vLLM says that its weights are of version {self.version}; sent was {version}")

    def _sleep(self) -> None:
        if self._sleeps:
            self._engine.sleep(level=1)  # weights go to the CPU's memory, keys and values are dropped
            self._is_asleep = True

    def _wake(self) -> None:
        if self._is_asleep:
            self._engine.wake_up()
            self._is_asleep = False


def refuse_unlike(sampling: SamplingConfig) -> None:
    """Raise ``UserError`` for settings that vLLM does not take, or that mean another distribution there."""
    values = {f"sampling.{name}": value for name, value in flatten(sampling).items()} | {"sampling.engine": "vllm"}
    for rule in VLLM_SAMPLING:
        if rule.wrong(values):
            raise UserError(f"{', '.join(f'{key}={values[key]}' for key in rule.keys)}: {rule.why}")


def _completion(s: _Sample, reason: FinishReason, version: int) -> Completion:
    return Completion(
        ids_T=torch.tensor(s.ids),
        logprob_T=torch.tensor(s.logprobs, dtype=torch.float32),
        finish_reason=reason,
        version=version,
    )
