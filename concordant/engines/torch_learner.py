"""The learner of this process: one CPU or one GPU.

Gradients are divided once, by the weights of all micro-batches together, so how a batch is cut into
micro-batches, rows and chunks changes nothing but the time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from concordant.config.train import TrainConfig
from concordant.core.errors import RunFailed
from concordant.core.objective import BranchOutputs, Metric, Objective, Outputs
from concordant.core.trees import ROW_TOKENS, PromptTree, TreeBatch
from concordant.engines.memory import enough_memory, is_out_of_memory
from concordant.engines.networks import Network
from concordant.engines.protocol import StepMetrics
from concordant.engines.weight_motion import WeightMotion
from concordant.kernels.weight_gradients import gradients_in_place
from concordant.models.lora_layer import still
from concordant.models.tree_attention import forward_tokens

T = TypeVar("T")
MICRO_BATCH_TOKENS = 8192  # of a pass with gradient, where none are given
CPU_GRADIENT_TOKENS = 1536  # the same on a CPU: more costs memory and gains little
_FORWARD_FACTOR = 4  # without a backward pass nothing is kept: such a pass may have that many times the tokens


class TorchLearner:
    """``precision`` is autocast's dtype, None for fp32; weights and optimizer are fp32 always.

    ``row_tokens``: trees share rows of so many tokens, 0 gives each a row of its own, where rows are padded.
    """

    def __init__(
        self,
        network: Network,
        config: TrainConfig,
        precision: torch.dtype | None = None,
        temperature: float = 1.0,
        trainable: bool = True,
        row_tokens: int = ROW_TOKENS,
    ) -> None:
        self.network = network
        self.config = config
        self.precision = precision
        self.temperature = temperature
        self.row_tokens = row_tokens
        self.version = 0
        self.halvings = 0  # of micro_batch_tokens, where memory ran out
        self._is_finite = True  # the losses whose gradient is being gathered
        self._reference: TorchLearner | None = None
        self.parameters = [p for p in network.parameters() if p.requires_grad] if trainable else []
        self.optimizer = _adamw(self.parameters, config) if self.parameters else None
        self.motion = WeightMotion(network.named_parameters()) if self.parameters else None

    # -- numbers without gradient ---------------------------------------------------------------

    @torch.no_grad()
    def forward(self, trees: Sequence[PromptTree], want: Outputs) -> BranchOutputs:
        tokens = sum(b.response_length for t in trees for b in t.branches)
        branches = sum(len(t.branches) for t in trees)

        def run() -> BranchOutputs:
            columns: dict[str, Tensor] = {}
            for batch in self._micro_batches(trees, self._forward_tokens):
                with still():
                    out = self._outputs(batch, want)
                for name in BranchOutputs.__slots__:
                    part = getattr(out, name)
                    if part is not None:
                        of_token = name.endswith("_N")
                        column = columns.setdefault(name, torch.zeros(tokens if of_token else branches))
                        column[(batch.token_N if of_token else batch.caller_B).cpu()] = part.float().cpu()
            return BranchOutputs(**columns)

        return self._within_memory("computing log-probs, values or scores", run)

    def evaluate(self, trees: Sequence[PromptTree], objective: Objective) -> dict[str, float]:
        with still():
            return self._within_memory("evaluating", lambda: self._run(trees, objective, self._forward_tokens))

    # -- learning -------------------------------------------------------------------------------

    def forward_backward(self, trees: Sequence[PromptTree], objective: Objective) -> dict[str, float]:
        # What an earlier call of this step has added, for a try that ends half-way; mostly nothing.
        before = [p.grad.clone() if p.grad is not None and self.config.halve_on_oom else None for p in self.parameters]

        def undo() -> None:
            for p, gradient in zip(self.parameters, before, strict=True):
                p.grad = None if gradient is None else gradient.clone()  # the next try adds to it in place

        metrics = self._within_memory(
            "computing the gradient", lambda: self._run(trees, objective, self.micro_batch_tokens), undo
        )
        self._is_finite &= math.isfinite(metrics.get("loss", 0.0))
        return metrics | ({"micro_batch_tokens": float(self.micro_batch_tokens)} if self.halvings else {})

    @property
    def micro_batch_tokens(self) -> int:
        """Of a pass with gradient, now."""
        usual = CPU_GRADIENT_TOKENS if self.network.device.type == "cpu" else MICRO_BATCH_TOKENS
        return (self.config.micro_batch_tokens or usual) >> self.halvings

    @property
    def _forward_tokens(self) -> int:
        usual = forward_tokens(self.network.device)
        return min(usual, _FORWARD_FACTOR * (self.config.micro_batch_tokens or usual)) >> self.halvings

    def _within_memory(self, phase: str, run: Callable[[], T], undo: Callable[[], None] = lambda: None) -> T:
        """``run()``; where memory runs out, and it is allowed, again with half as many tokens at once."""
        while True:
            tokens = self.micro_batch_tokens
            try:
                with enough_memory(phase, f"lower train.micro_batch_tokens (now {tokens})"):
                    return run()
            except RunFailed as problem:
                if not self.config.halve_on_oom or tokens < 2 or not is_out_of_memory(problem.__cause__):
                    raise
            undo()
            self.halvings += 1

    def _run(self, trees: Sequence[PromptTree], objective: Objective, max_tokens: int) -> dict[str, float]:
        batches = list(self._micro_batches(trees, max_tokens))
        weights: defaultdict[str, float] = defaultdict(float)
        for batch in batches:
            for name, weight in objective.weights(batch).items():
                weights[name] += weight
        means = _Means()
        for batch in batches:
            with gradients_in_place():
                evaluated = objective(self._outputs(batch, objective.want), batch)
                parts = {name: term.sum / weights[name] for name, term in evaluated.terms.items()}
                loss = torch.stack([evaluated.terms[n].coefficient * part for n, part in parts.items()]).sum()
                if loss.requires_grad:
                    loss.backward()
            means.add({"loss": Metric(loss.detach(), 1.0, "sum")})
            means.add({n: Metric(part.detach(), 1.0, "sum") for n, part in parts.items()})
            means.add(evaluated.metrics)
        return means.values()

    def discard(self) -> None:
        """Forget the gradient."""
        self._is_finite = True
        for p in self.parameters:
            p.grad = None

    def step(self, learning_rate: float) -> StepMetrics:
        if self.optimizer is None or self.motion is None:
            raise ValueError("a frozen learner has nothing to update")
        limit = self.config.max_grad_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True))
        finite, motion = math.isfinite(norm) and self._is_finite, {}
        if finite:
            before = self.motion.before()
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            with enough_memory("updating the weights", "train an adapter (model.lora.rank) or a smaller model"):
                self.optimizer.step()
            self.version += 1
            motion = self.motion.after(before)
        self.discard()
        return StepMetrics(grad_norm=norm, skipped=not finite, motion=motion)

    # -- the frozen start -----------------------------------------------------------------------

    def reference(self) -> TorchLearner:
        if self._reference is None:
            self.set_reference(
                TorchLearner(self.network.frozen(), self.config, self.precision, self.temperature, trainable=False)
            )
        assert self._reference is not None
        return self._reference

    def set_reference(self, reference: TorchLearner) -> None:
        """Measure ``want.kl`` from ``reference`` instead of the weights as they were."""
        self._reference = reference

    # -- state ----------------------------------------------------------------------------------

    def weights(self) -> nn.Module:
        """What a generator of this process samples from: the very model, so loading it costs nothing."""
        return self.network.sampled

    def _trained(self) -> dict[str, Tensor]:
        """Trained weights by name, no copy."""
        trained = set(map(id, self.parameters))
        return {name: p for name, p in self.network.named_parameters() if id(p) in trained}

    def snapshot(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._trained().items()}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        weights = self._trained()
        for name, value in snapshot.items():
            weights[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The live tensors, no copy: the next step changes them."""
        optimizer = self.optimizer.state_dict() if self.optimizer else {}
        weights = {name: p.detach() for name, p in self._trained().items()}
        return {"version": self.version, "halvings": self.halvings, "weights": weights, "optimizer": optimizer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.version, self.halvings = state["version"], state["halvings"]
        self.restore(state["weights"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])

    def export(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        self.network.save(folder, dict(card or {}))

    # -- inside ---------------------------------------------------------------------------------

    def _micro_batches(self, trees: Sequence[PromptTree], max_tokens: int) -> Iterator[TreeBatch]:
        device = self.network.device
        cut = self.network.batches(trees, max_tokens, self.row_tokens)
        return (batch.to(device) for batch in cut)

    def _outputs(self, batch: TreeBatch, want: Outputs) -> BranchOutputs:
        reference = self.reference().network if want.kl else None
        with self._autocast():
            return self.network(batch, want, self.temperature, reference)

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        context = (
            nullcontext() if self.precision is None else torch.autocast(self.network.device.type, dtype=self.precision)
        )
        with context:
            yield


class _Means:
    """Metrics over micro-batches; one transfer from the device at the end."""

    def __init__(self) -> None:
        self._sums: dict[str, Metric] = {}

    def add(self, metrics: Mapping[str, Metric]) -> None:
        for name, new in metrics.items():
            old = self._sums.get(name)
            if old is None:
                self._sums[name] = Metric(new.sum, new.weight, new.reduce)
            elif new.reduce == "max":
                old.sum = torch.maximum(old.sum, new.sum)
            else:
                old.sum, old.weight = old.sum + new.sum, old.weight + new.weight

    def values(self) -> dict[str, float]:
        return {
            name: float(m.sum) / float(m.weight) if m.reduce == "mean" and float(m.weight) else float(m.sum)
            for name, m in self._sums.items()
        }


def _adamw(parameters: Sequence[Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW without decay on vectors (norms, biases): shrinking those regularises nothing."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
