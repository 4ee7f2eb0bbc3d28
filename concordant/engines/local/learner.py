"""The scorer and the learner of this process: one CPU or one GPU.

The gradient is divided once, by the total weight of all micro-batches. So the split of a batch into micro-batches, rows
and chunks changes only the time and not the result.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concordant.config.train import TrainConfig
from concordant.core.alive import sign_of_life
from concordant.core.objective import BranchOutputs, Metric, Objective, Outputs, placed
from concordant.core.seeding import fresh_seed
from concordant.core.shards import Shard, joined, smallest, split
from concordant.core.trees import ROW_TOKENS, PromptTree, TreeBatch
from concordant.engines.local import sharding
from concordant.engines.local.means import Means, Sum, over_shards, weights_over_shards
from concordant.engines.local.networks import Network
from concordant.engines.local.optimizer import ADAM_MOMENTS, adamw
from concordant.engines.local.sharding import Gradient
from concordant.engines.local.weight_motion import WeightMotion
from concordant.engines.local.weights import LocalWeights
from concordant.engines.local.within_memory import within_memory
from concordant.engines.memory import enough_memory, peak_of_process, total_memory
from concordant.engines.protocol import Adapters, Description, Done, MemoryUse, Reached, Scorer, StepMetrics
from concordant.engines.ranks import among, current_ranks, gathered, own_shards
from concordant.kernels.weight_gradients import gradients_in_place
from concordant.models.lora_layer import still
from concordant.models.tree_attention import forward_tokens
from concordant.models.tree_pass import forward_trees

MICRO_BATCH_TOKENS = 8192  # tokens of a pass with gradient, if the config gives no number
CPU_GRADIENT_TOKENS = 1536  # the same on a CPU, where larger passes need more memory and are hardly faster
CHECKPOINT_ADAPTER = "adapter"  # the folder inside a role's folder of a checkpoint, in PEFT's layout
_FORWARD_FACTOR = 4  # a pass without gradient keeps no activations, so it may have so many times more tokens


class LocalScorer:
    """A network that is read and not trained: a reference, a reward model, or a policy under evaluation.

    ``precision`` is autocast's dtype, or None for fp32. Where rows are padded, trees share rows of ``row_tokens``
    tokens; 0 gives each tree its own row. Only the settings of ``config`` that split a batch are used.
    """

    def __init__(
        self,
        network: Network,
        config: TrainConfig | None = None,
        precision: torch.dtype | None = None,
        temperature: float = 1.0,
        row_tokens: int = ROW_TOKENS,
    ) -> None:
        self.network = network
        self.config = config or TrainConfig()
        self.precision = precision
        self.temperature = temperature
        self.row_tokens = row_tokens
        self.ranks = current_ranks()  # the processes that compute every batch of this network together
        self.halvings = 0  # how often micro_batch_tokens was halved because memory ran out

    @within_memory("computing log-probs, values or scores")
    def forward(self, trees: Sequence[PromptTree], want: Outputs) -> Done[BranchOutputs]:
        def run(batch: TreeBatch) -> BranchOutputs:
            with still():
                return self._outputs(batch, want)

        def of_shard(shard: Shard) -> BranchOutputs:
            batches = self.network.batches(shard.trees, self._forward_tokens, self.row_tokens)
            fillers = self._fillers(trees, len(batches))  # before the passes, in which the ranks wait for each other
            outputs = forward_trees(run, shard.trees, batches, self.network.device)
            for laid in fillers:
                run(laid.to(self.network.device))
            return outputs

        shards = split(trees, self.ranks.shards)
        with sharding.reading(self._networks(want)):
            outputs = gathered(self.ranks, [of_shard(shards[i]) for i in own_shards(self.ranks)])
        return Done(joined(shards, outputs))

    @within_memory("evaluating")
    def evaluate(self, trees: Sequence[PromptTree], objective: Objective) -> Done[dict[str, float]]:
        with still():
            return Done(self._run(trees, objective, self._forward_tokens))

    def describe(self) -> Description:
        return Description(
            precision=self.precision or torch.float32,
            layout=self.network.layout,
            micro_batch_tokens=self.micro_batch_tokens,
            weights=sum(p.numel() for p in self.network.parameters()),
            trained=0,
        )

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of a pass with gradient at present."""
        usual = CPU_GRADIENT_TOKENS if self.network.device.type == "cpu" else MICRO_BATCH_TOKENS
        return (self.config.micro_batch_tokens or usual) >> self.halvings

    @property
    def _forward_tokens(self) -> int:
        usual = forward_tokens(self.network.device)
        return min(usual, _FORWARD_FACTOR * (self.config.micro_batch_tokens or usual)) >> self.halvings

    def _run(
        self, trees: Sequence[PromptTree], objective: Objective, max_tokens: int, gradient: Gradient | None = None
    ) -> dict[str, float]:
        """The loss, its terms and metrics. If gradients are enabled, the gradient is added too.

        ``gradient`` takes the gradient of every shard; None if the batch is one shard.
        """
        objective = placed(objective, self.network.device)
        shards = split(trees, self.ranks.shards)
        own = [self._micro_batches(shards[i], max_tokens) for i in own_shards(self.ranks)]
        weights = weights_over_shards(gathered(self.ranks, [_weights(objective, batches) for batches in own]))
        sums, learning = [], self.network if gradient else None
        with sharding.reading(self._networks(objective.want), learning):
            for batches in own:
                fillers = self._fillers(trees, len(batches))
                with gradient.of_shard() if gradient else nullcontext():
                    sums.append(self._run_shard(batches, objective, weights, fillers))
        return over_shards(gathered(self.ranks, sums))

    def _run_shard(
        self,
        batches: Sequence[TreeBatch],
        objective: Objective,
        weights: Mapping[str, float],
        fillers: Sequence[TreeBatch] = (),
    ) -> dict[str, Sum]:
        """The metrics of ``batches``. ``fillers`` are computed too, with weight zero."""
        means = Means()
        for number, laid in enumerate([*batches, *fillers]):
            sign_of_life("micro-batches", number, len(batches) + len(fillers))
            batch, is_filler = laid.to(self.network.device), number >= len(batches)
            with gradients_in_place():
                evaluated = objective(self._outputs(batch, objective.want), batch)
                parts = {name: term.sum / weights[name] for name, term in evaluated.terms.items()}
                loss = torch.stack([evaluated.terms[n].coefficient * part for n, part in parts.items()]).sum()
                if loss.requires_grad:
                    (0.0 * loss if is_filler else loss).backward()
            if is_filler:
                continue
            means.add({"loss": Metric(loss.detach(), 1.0, "sum")})
            means.add({n: Metric(part.detach(), 1.0, "sum") for n, part in parts.items()})
            means.add(evaluated.metrics)
        return means.sums()

    def _micro_batches(self, shard: Shard, max_tokens: int) -> list[TreeBatch]:
        return [shard.numbered(laid) for laid in self.network.batches(shard.trees, max_tokens, self.row_tokens)]

    def _fillers(self, trees: Sequence[PromptTree], own: int) -> list[TreeBatch]:
        """Batches that this rank computes for nothing, after ``own`` others, if the weights are split.

        All ranks gather a layer together, so each of them must make as many passes as the one with the most.
        """
        missing = max(self.ranks.gather(own)) - own if sharding.is_split(self.network) else 0
        return missing * self._micro_batches(smallest(trees), 1) if missing else []

    def _networks(self, want: Outputs) -> list[Network]:
        """The networks that a pass reads."""
        return [self.network, self._reference_network()] if want.kl else [self.network]

    def _outputs(self, batch: TreeBatch, want: Outputs) -> BranchOutputs:
        reference = self._reference_network() if want.kl else None
        with self._autocast():
            return self.network(batch, want, self.temperature, reference)

    def _reference_network(self) -> Network:
        raise ValueError("a scorer has no reference, so it cannot measure a KL: ask a learner")

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        context = (
            nullcontext() if self.precision is None else torch.autocast(self.network.device.type, dtype=self.precision)
        )
        with context:
            yield


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
            sharding.split(network, self.ranks)
        self.version = 0
        held = sharding.held(network)
        self.trained = {name: p for name, p in held.items() if p.requires_grad}  # what this rank holds, by name
        self.parameters = list(self.trained.values())
        if not self.parameters:
            raise ValueError("no weight of this network is trainable: use LocalScorer")
        self.optimizer = adamw(self.parameters, config)
        self.motion = WeightMotion(held, sharding.places(network), self.ranks.sum if self.ranks.sharded else None)
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
        if self.ranks.shards == 1:
            return self._run(trees, objective, self.micro_batch_tokens)
        drawn = fresh_seed() if seed is None else seed
        gradient = sharding.gradient_sum(self.network, self.parameters, self.ranks, drawn)
        metrics = self._run(trees, objective, self.micro_batch_tokens, gradient)
        gradient.finish()
        return metrics

    def discard(self) -> None:
        """Drop the gradient that was added so far."""
        self._is_finite = True
        self.network.zero_grad(set_to_none=True)
        for p in self.parameters:  # which are parts of the network's weights, if these are split
            p.grad = None

    def step(self, learning_rate: float) -> Done[StepMetrics]:
        limit = self.config.max_grad_norm or math.inf
        norm = sharding.clip(self.parameters, limit, self.ranks)
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
        return Done(StepMetrics(grad_norm=norm, skipped=not finite, motion=motion))

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
        """Write the live tensors without a copy. All ranks must call this method; those that hold no part of their
        own write nothing.
        """
        weights = {name: p.detach() for name, p in self.trained.items()}
        state: dict[str, Any] = {"version": self.version, "halvings": self.halvings, "weights": weights}
        state |= {"optimizer": self.optimizer.state_dict(), "kept": self._kept}
        sharding.write_parts(folder, state, self.ranks)
        if self.adapter_base:  # for people who want to try the run at this step; ``load`` does not read it
            self._write(lambda network: network.save_adapter(folder / CHECKPOINT_ADAPTER))

    def _write(self, write: Callable[[Network], None]) -> None:
        """Let rank 0 write the whole network."""
        network = sharding.whole_network(self.network)
        if self.ranks.rank == 0:
            write(network)

    def load(self, folder: Path) -> None:
        state = sharding.read_parts(folder, self.ranks)
        self.version, self.halvings, self._kept = state["version"], state["halvings"], state["kept"]
        self._copy_in(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])

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

    def checkpoint_bytes(self, with_kept: bool) -> int:
        weights = sum(p.numel() * p.element_size() for p in self.network.parameters() if p.requires_grad)
        return weights * (1 + ADAM_MOMENTS + with_kept + bool(self.adapter_base))

    def export_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.network.parameters())

    def export(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        self._write(lambda network: network.save(folder, dict(card or {})))

    @property
    def adapter_base(self) -> str:
        return self.network.adapter_base

    def export_adapter(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        self._write(lambda network: network.save_adapter(folder, card or {}))

    # -- for the doctor's preflight -------------------------------------------------------------

    def describe(self) -> Description:
        return replace(super().describe(), trained=sum(p.numel() for p in self.network.parameters() if p.requires_grad))

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
        rows = []
        for name, p in self.network.named_parameters():
            gradient = self.trained.get(name, p).grad
            row = Reached(name=name, is_trained=name in self.trained, came=gradient is not None)
            if gradient is not None:
                row = replace(row, is_zero=not bool(gradient.any()), is_finite=bool(torch.isfinite(gradient).all()))
            rows.append(row)
        return sharding.of_all_parts(rows, self.ranks)

    def memory(self) -> MemoryUse:
        device = self.network.device
        if device.type != "cuda":
            return MemoryUse(peak_of_process(), total_memory())
        return MemoryUse(torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory)


def _weights(objective: Objective, batches: Sequence[TreeBatch]) -> dict[str, float]:
    """The weight of each term over ``batches``."""
    weights: defaultdict[str, float] = defaultdict(float)
    for batch in batches:
        for name, weight in objective.weights(batch).items():
            weights[name] += weight
    return dict(weights)
