"""The learner of this process: one CPU or one GPU.

The gradient is divided once, by the total weight of all micro-batches. So the split of a batch into micro-batches, rows
and chunks changes only the time and not the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.core.objective import Objective
from concordant.core.seeding import fresh_seed
from concordant.core.trees import ROW_TOKENS, PromptTree
from concordant.engines.local import sharding
from concordant.engines.local.elastic import Elastic
from concordant.engines.local.networks import Network
from concordant.engines.local.optimizer import hidden_matrices, numbers_kept, optimizer_of, set_rate
from concordant.engines.local.reached import of_parts, reach
from concordant.engines.local.rows import read_parts, write_parts
from concordant.engines.local.scorer import LocalScorer
from concordant.engines.local.weight_motion import WeightMotion
from concordant.engines.local.weights import LocalWeights
from concordant.engines.local.within_memory import within_memory
from concordant.engines.memory import enough_memory, peak_of_process, total_memory
from concordant.engines.pipeline.held import counted
from concordant.engines.protocol import Adapters, Description, Done, MemoryUse, Reached, Scorer, StepMetrics
from concordant.engines.ranks import Alone, among, writes
from concordant.engines.tensor.cuts import elements, pieces_of, whole_copy
from concordant.engines.tensor.norm import clip
from concordant.engines.tensor.state import Parts
from concordant.models.quantized import hidden_weights

CHECKPOINT_ADAPTER = "adapter"  # the folder inside a role's folder of a checkpoint, in PEFT's layout


class LocalLearner(LocalScorer):
    """A scorer with an optimizer. Weights and optimizer state are always fp32."""

    def __init__(
        self,
        network: Network,
        config: TrainConfig,
        precision: torch.dtype | None = None,
        temperature: float = 1.0,
        row_tokens: int = ROW_TOKENS,
    ) -> None:
        super().__init__(network, config, precision, temperature, row_tokens)
        if self.ranks.sharded:
            sharding.split(network, self.ranks, precision)
        self.version = 0
        held = sharding.held(network)
        self.pieces = sharding.pieces(network)  # the weights of which a tensor group or a pipeline has the parts
        self.trained = {name: p for name, p in held.items() if p.requires_grad}  # what this rank holds, by name
        self.parameters = list(self.trained.values())
        if not self.parameters:
            raise ValueError("no weight of this network is trainable: use LocalScorer")
        self.hidden = hidden_matrices(network) if config.optimizer == "muon" else set()
        self.optimizer = optimizer_of(self.trained, config, self.hidden)
        self.motion = self._motion(held)
        self._elastic: Elastic | None = None  # holds the weights near those of ``hold``
        self._is_finite = True  # whether every loss since the last step was finite
        self._reference: LocalScorer | None = None
        self._kept: dict[str, Tensor] | None = None  # the weights of the best evaluation so far

    # -- learning -------------------------------------------------------------------------------

    @within_memory("computing the gradient")
    def forward_backward(
        self, trees: Sequence[PromptTree], objective: Objective, seed: int | None = None
    ) -> Done[dict[str, float]]:
        """As in the protocol. ``seed`` is for the random layers of the shards; None draws one from the process."""
        # The gradient of earlier calls in this step. If this call fails half-way, its own part is dropped.
        before = [p.grad.clone() if p.grad is not None and self.config.halve_on_oom else None for p in self.parameters]
        try:
            metrics = self._learn(trees, objective, seed)
        except BaseException:
            for p, gradient in zip(self.parameters, before, strict=True):
                p.grad = gradient
            raise
        self._is_finite &= math.isfinite(metrics.get("loss", 0.0))
        return Done(metrics | ({"micro_batch_tokens": float(self.micro_batch_tokens)} if self.halvings else {}))

    def _learn(self, trees: Sequence[PromptTree], objective: Objective, seed: int | None) -> dict[str, float]:
        if self.ranks.shards == 1 and not self.pieces:
            return self._run(trees, objective, self.micro_batch_tokens)
        drawn = fresh_seed() if seed is None else seed
        gradient = sharding.gradient_sum(self.network, self.parameters, self.ranks, drawn, self.pieces)
        metrics = self._run(trees, objective, self.micro_batch_tokens, gradient)
        gradient.finish()
        return metrics

    def _motion(self, held: Mapping[str, Tensor]) -> WeightMotion:
        if self.stages.size > 1:  # a weight is sampled on the stage that counts it
            return WeightMotion(*counted(held, self.pieces), self.stages.sum)
        return WeightMotion(held, sharding.places(self.network), self.ranks.sum if self.ranks.sharded else None)

    @within_memory("measuring how much each weight matters")
    def hold(self, texts: Sequence[PromptTree], objective: Objective, strength: float) -> None:
        if self.ranks.sharded or self.stages.size > 1:
            raise ValueError("split weights cannot be held: no worker has the whole gradient of a text")
        ranks, moving = self.ranks, [module for module in self.network.modules() if module.training]
        self.ranks = Alone()  # every rank reads all texts, so that all ranks have the same penalty
        for module in moving:
            module.training = False  # without dropout
        try:
            self._elastic = Elastic(
                self.parameters, texts, strength, lambda text: self._run([text], objective, self.micro_batch_tokens)
            )
        finally:
            self.ranks = ranks
            for module in moving:
                module.training = True
            self.discard()

    def discard(self) -> None:
        """Drop the gradient that was added so far."""
        self._is_finite = True
        self.network.zero_grad(set_to_none=True)
        for p in self.parameters:  # which are parts of the network's weights, if these are split
            p.grad = None

    def step(self, learning_rate: float) -> Done[StepMetrics]:
        held = self._elastic.pull() if self._elastic else None
        limit = self.config.max_grad_norm or math.inf
        norm = clip(self.parameters, self.pieces, self.ranks, limit)
        finite, motion = math.isfinite(norm) and self._is_finite, {}
        if finite:
            before = self.motion.before()
            set_rate(self.optimizer, learning_rate)
            with enough_memory("updating the weights", "train an adapter (model.lora.rank) or a smaller model"):
                self.optimizer.step()
            self.version += 1
            motion = self.motion.after(before)
        self.discard()
        return Done(StepMetrics(grad_norm=norm, skipped=not finite, motion=motion, held=held))

    # -- the frozen start -----------------------------------------------------------------------

    def reference(self) -> LocalScorer:
        if self._reference is None:
            with among(self.ranks):
                self._reference = LocalScorer(
                    sharding.frozen(self.network), self.config, self.precision, self.temperature
                )
        return self._reference

    def set_reference(self, reference: Scorer) -> None:
        """Measure ``want.kl`` from ``reference`` and not from the learner's first weights."""
        if not isinstance(reference, LocalScorer):
            raise TypeError(f"a learner of this process cannot measure KL from a {type(reference).__name__}")
        self._reference = reference

    def _reference_network(self) -> Network:
        return self.reference().network

    # -- state ----------------------------------------------------------------------------------

    def publish(self, adapters: Adapters = "merged") -> LocalWeights:
        return LocalWeights(self.network.sampled, self.version, adapters)

    def tensors(self, adapters: Adapters) -> Mapping[str, Tensor]:
        """The tensors of ``publish``, which all ranks must ask for."""
        return self.publish(adapters).tensors

    def save(self, folder: Path) -> None:
        """Write the live tensors, without a copy where they are whole. All processes call this method, and a process
        that holds no part of its own writes nothing.
        """
        weights = {name: p.detach() for name, p in self.trained.items()}
        state: dict[str, Any] = {"version": self.version, "halvings": self.halvings, "weights": weights}
        state |= {"optimizer": self.optimizer.state_dict(), "kept": self._kept}
        if self.pieces and (self.ranks.sharded or self.ranks.rank == 0):
            state = self._parts().whole(state)
        write_parts(folder, state, self.ranks)
        if self.adapter_base:  # for people who want to try the run at this step; ``load`` does not read it
            self._write(lambda network: network.save_adapter(folder / CHECKPOINT_ADAPTER))

    def _write(self, write: Callable[[Network], None]) -> None:
        """Let one process write the whole network. All processes call this method."""
        network: Network | None = sharding.whole_network(self.network)
        if network is not None and self.pieces and self.ranks.rank == 0:
            network = whole_copy(network, keep=writes(self.ranks))
        if network is not None and writes(self.ranks):
            write(network)

    def load(self, folder: Path) -> None:
        state = read_parts(folder, self.ranks)
        state = self._parts().own(state) if self.pieces else state
        self._refuse_others(folder, state["weights"])
        self.version, self.halvings, self._kept = state["version"], state["halvings"], state["kept"]
        self._copy_in(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _refuse_others(self, folder: Path, saved: Mapping[str, Tensor]) -> None:
        """Raise UserError if the weights of the checkpoint are not those that this learner trains."""
        theirs, ours = ({name: tuple(w.shape) for name, w in weights.items()} for weights in (saved, self.trained))
        if theirs == ours:
            return
        name = next(name for name in [*theirs, *ours] if theirs.get(name) != ours.get(name))
        has, wants = ("no such weight" if s is None else f"the shape {s}" for s in (theirs.get(name), ours.get(name)))
        raise UserError(
            f"{folder} holds another model than this run trains: {name} has {has} there, and {wants} here. A changed "
            "model, adapter, number of heads or share_backbone cannot go on from a checkpoint, with --resume force "
            "neither: give the old settings, or start a new run with another --output"
        )

    def keep(self) -> None:
        self._kept = {name: p.detach().clone() for name, p in self.trained.items()}

    def forget(self) -> None:
        self._kept = None

    def restore(self) -> None:
        if self._kept is None:
            raise ValueError("no weights were kept, so none can be put back: call keep first")
        self._copy_in(self._kept)

    @torch.no_grad()
    def _copy_in(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self.trained[name].copy_(value)

    def _parts(self) -> Parts:
        return Parts(self.trained, self.optimizer.param_groups, self.pieces)

    def checkpoint_bytes(self, with_kept: bool) -> int:
        named = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        of_all = self._sizes()
        sizes = {name: (of_all[name], p.shape) for name, p in named}
        weights = sum(size for size, _ in sizes.values()) * (1 + with_kept + bool(self.adapter_base))
        return (weights + numbers_kept(sizes, self.config, self.hidden)) * named[0][1].element_size()

    def export_bytes(self) -> int:
        sizes = self._sizes()
        whole = sum(sizes[name] * p.element_size() for name, p in self.network.named_parameters())
        return whole + 4 * hidden_weights(self.network)  # which are written in fp32

    def _sizes(self) -> dict[str, int]:
        """How many elements every weight has on all processes together, by name."""
        pieces = pieces_of(self.network)
        return {name: elements(p, pieces) for name, p in self.network.named_parameters()}

    def export(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        self._write(lambda network: network.save(folder, dict(card or {})))

    @property
    def adapter_base(self) -> str:
        return self.network.adapter_base

    def export_adapter(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        self._write(lambda network: network.save_adapter(folder, card or {}))

    # -- for the doctor's preflight -------------------------------------------------------------

    def describe(self) -> Description:
        sizes = self._sizes()
        trained = sum(sizes[name] for name, p in self.network.named_parameters() if p.requires_grad)
        return replace(super().describe(), trained=trained)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        resting, halvings = [module for module in self.network.modules() if not module.training], self.halvings
        device = self.network.device
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                yield
        finally:
            self.discard()
            self.halvings = halvings
            for module in resting:
                module.training = False

    def reached(self) -> list[Reached]:
        rows = [
            reach(name, self.trained.get(name, p).grad, name in self.trained)
            for name, p in self.network.named_parameters()
        ]
        if self.ranks.sharded:
            rows = of_parts(self.ranks.gather(rows))
        return of_parts(self.stages.values(of_parts(self.ranks.tensor.values(rows))))

    def memory(self) -> MemoryUse:
        device = self.network.device
        if device.type != "cuda":
            return MemoryUse(peak_of_process(), total_memory())
        return MemoryUse(torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory)
