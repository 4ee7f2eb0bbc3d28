"""The scorer of this process: one CPU or one GPU. It reads trees, and evaluates objectives on them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from concordant.config.train import TrainConfig
from concordant.core.alive import sign_of_life
from concordant.core.objective import BranchOutputs, Metric, Objective, Outputs, placed
from concordant.core.shards import Shard, joined, smallest, split
from concordant.core.trees import ROW_TOKENS, PromptTree, TreeBatch
from concordant.engines.local import sharding
from concordant.engines.local.means import Means, Sum, over_shards, weights_over_shards
from concordant.engines.local.networks import Network
from concordant.engines.local.sharding import Gradient
from concordant.engines.local.within_memory import within_memory
from concordant.engines.protocol import Description, Done
from concordant.engines.ranks import current_ranks, gathered, own_shards
from concordant.engines.tensor.cuts import weights_of
from concordant.kernels.weight_gradients import gradients_in_place
from concordant.models.lora_layer import still
from concordant.models.tree_attention import forward_tokens
from concordant.models.tree_pass import forward_trees

T = TypeVar("T")

MICRO_BATCH_TOKENS = 8192  # tokens of a pass with gradient, if the config gives no number
CPU_GRADIENT_TOKENS = 1536  # the same on a CPU, where larger passes need more memory and are hardly faster
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
        self.stages = self.ranks.stages
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
            own = [of_shard(shards[i]) for i in own_shards(self.ranks)]
            outputs = gathered(self.ranks, self._of_last_stage(own))
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
            weights=weights_of(self.network),
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
        return over_shards(gathered(self.ranks, self._of_last_stage(sums)))

    def _of_last_stage(self, value: T) -> T:
        """The results of the stage that has the head."""
        self.stages.settle()
        return self.stages.values(value)[-1]

    def _run_shard(
        self,
        batches: Sequence[TreeBatch],
        objective: Objective,
        weights: Mapping[str, float],
        fillers: Sequence[TreeBatch] = (),
    ) -> dict[str, Sum]:
        """The metrics of ``batches``. ``fillers`` are computed too, with weight zero.

        A stage of a pipeline begins so many batches before it takes the gradient of the first one as there are stages
        after it, and then does one forward and one backward pass by turns (1F1B; Narayanan et al. 2020, 2006.09503).
        So no stage keeps the activations of more batches than there are stages.
        """
        means, begun, ahead = Means(), deque[Tensor](), self.stages.size - 1 - self.stages.rank
        for number, laid in enumerate([*batches, *fillers]):
            sign_of_life("micro-batches", number, len(batches) + len(fillers))
            batch, is_filler = laid.to(self.network.device), number >= len(batches)
            with gradients_in_place():
                loss = self._loss(batch, objective, weights, Means() if is_filler else means)
                if loss.requires_grad:
                    begun.append(0.0 * loss if is_filler else loss)
                if len(begun) > ahead:
                    begun.popleft().backward()
        with gradients_in_place():
            while begun:
                begun.popleft().backward()
        return means.sums()

    def _loss(self, batch: TreeBatch, objective: Objective, weights: Mapping[str, float], means: Means) -> Tensor:
        """The loss of a batch, whose metrics are added to ``means``. A stage without head gives what it carried."""
        if not self._has_head:
            return self._carried(batch, objective.want).sum()
        evaluated = objective(self._outputs(batch, objective.want), batch)
        parts = {name: term.sum / weights[name] for name, term in evaluated.terms.items()}
        loss = torch.stack([evaluated.terms[n].coefficient * part for n, part in parts.items()]).sum()
        means.add({"loss": Metric(loss.detach(), 1.0, "sum")})
        means.add({n: Metric(part.detach(), 1.0, "sum") for n, part in parts.items()})
        means.add(evaluated.metrics)
        return loss

    @property
    def _has_head(self) -> bool:
        return self.stages.rank == self.stages.size - 1

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
        return [self.network, self._reference_network()] if want.compares else [self.network]

    def _outputs(self, batch: TreeBatch, want: Outputs) -> BranchOutputs:
        if not self._has_head:
            self._carried(batch, want)
            return BranchOutputs()
        reference = self._reference_network() if want.compares else None
        with self._autocast():
            return self.network(batch, want, self.temperature, reference)

    def _carried(self, batch: TreeBatch, want: Outputs) -> Tensor:
        reference = self._reference_network() if want.compares else None
        with self._autocast():
            return self.network.carry(batch, want, reference)

    def _reference_network(self) -> Network:
        raise ValueError("a scorer has no reference, so it cannot measure a KL or a divergence: ask a learner")

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        context = (
            nullcontext() if self.precision is None else torch.autocast(self.network.device.type, dtype=self.precision)
        )
        with context:
            yield


def _weights(objective: Objective, batches: Sequence[TreeBatch]) -> dict[str, float]:
    """The weight of each term over ``batches``."""
    weights: defaultdict[str, float] = defaultdict(float)
    for batch in batches:
        for name, weight in objective.weights(batch).items():
            weights[name] += weight
    return dict(weights)
