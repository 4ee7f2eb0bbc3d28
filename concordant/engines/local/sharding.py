"""Weights, gradients and optimizer state that are split over the ranks, by PyTorch's FSDP2 (``fully_shard``).

Every rank holds about an equal part of the rows of each tensor: the *local part*. A layer of the model is whole only
while it computes: its weights are gathered before, and dropped after. Embeddings, final norm and heads are the *root*,
which is whole during a whole pass, because a head also computes outside of the model's own forward pass.

All ranks gather at the same time, so they must run the same number of passes: a rank with fewer micro-batches repeats
the smallest tree with weight zero (``LocalScorer._fillers``). With ``ranks.offload`` the local parts, their gradients
and the optimizer's state are in the processor's memory, and a GPU has only what is gathered. The functions here also
take a network that is not split; then they do what a single process does.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from concordant.core.errors import UserError
from concordant.core.seeding import derive
from concordant.engines.local.gradient_sum import GradientSum
from concordant.engines.local.networks import COMPUTES_ON, Network, PolicyNetwork
from concordant.engines.local.rows import RowsOfPiece, rows_of
from concordant.engines.ranks import Ranks
from concordant.engines.tensor.cuts import Part, Piece, pieces_of
from concordant.kernels.allocator import give_back

_ATTRIBUTE = "concordant_sharding"  # of the model inside a network that is split


def split(network: Network, ranks: Ranks, precision: torch.dtype | None) -> None:
    """Split the weights of ``network`` over the ranks, all of which must hold the same weights.

    ``precision`` is autocast's dtype, in which layers are gathered; None gathers them as they are.
    """
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise UserError(f"cluster.sharded needs PyTorch 2.13 or newer; this is {torch.__version__}")
    blank = _blank(network)
    for p in network.parameters():
        p.data = p.data.contiguous()
    _Sharding(network, ranks, network.device, blank, precision).begin()
    give_back()  # the whole weights


class _Sharding:
    """A network that is split. ``blank`` is the same network without memory for its weights."""

    def __init__(
        self, network: Network, ranks: Ranks, device: torch.device, blank: Network, precision: torch.dtype | None
    ) -> None:
        self.ranks, self.device, self.blank, self.precision = ranks, device, blank, precision
        settings: dict[str, Any] = {"mesh": ranks.mesh(device.type)}
        if ranks.offload:  # copies to and from a GPU are asynchronous only if the memory is page-locked
            settings["offload_policy"] = CPUOffloadPolicy(pin_memory=device.type == "cuda")
        of_layers = settings
        if precision is not None:  # autocast decides what is computed in which dtype, and heads stay in fp32
            gathers = MixedPrecisionPolicy(precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
            of_layers = settings | {"mp_policy": gathers}
        self.layers = [cast(FSDPModule, fully_shard(layer, **of_layers)) for layer in _layers(network)]
        self.root = cast(FSDPModule, fully_shard(network, **settings))
        for module in (*self.layers, self.root):
            module.set_gradient_divide_factor(1.0)  # an objective gives sums, so a gradient is a sum too
            module.set_force_sum_reduction_for_comms(True)  # gloo has no sum that is scaled
        self.root.set_reduce_scatter_unused_params(True)  # an expert of a mixture may get no token on one rank alone
        self.is_whole = False
        vars(_key(network)).update({_ATTRIBUTE: self, COMPUTES_ON: device})

    def begin(self) -> None:
        """Settle which memory the local parts have. All weights must be in their places."""
        self.root._get_fsdp_state()._lazy_init()  # without it, a layer that is called alone would be its own root
        self.parts: dict[str, DTensor] = dict(cast(Any, self.root).named_parameters())
        self.local = {n: nn.Parameter(p.to_local(), requires_grad=p.requires_grad) for n, p in self.parts.items()}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside the block the root is whole, for passes without gradient."""
        if self.is_whole:
            yield
            return
        self.root.unshard()
        try:
            yield
        finally:
            self.root.reset_iter_state()  # drops what is whole, and forgets the order of these passes

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside the block all weights are whole, and no rank waits for another."""
        if self.is_whole:
            yield
            return
        for layer in self.layers:
            layer.set_reshard_after_forward(False, recurse=False)
        for module in (self.root, *self.layers):
            module.unshard()
        self.is_whole = True
        try:
            yield
        finally:
            self.is_whole = False
            self.root.reset_iter_state()
            for layer in self.layers:
                layer.set_reshard_after_forward(True, recurse=False)

    def copy(self, device: torch.device | None = None) -> Network:
        """The same network with whole weights of its own, on ``device``; None: where the parts are."""
        memo = {}
        for empty, part in zip(self.blank.parameters(), self.parts.values(), strict=True):
            gathered = cast(DTensor, part.to(self.device)).full_tensor().detach()
            memo[id(empty)] = nn.Parameter(gathered.to(device or part.device), requires_grad=empty.requires_grad)
        return copy.deepcopy(self.blank, cast(Any, memo))

    def frozen(self) -> Network:
        """The same network as it is now, split in the same way, without gradients."""
        twin = copy.deepcopy(self.blank).requires_grad_(False)
        sharding = _Sharding(twin, self.ranks, self.device, self.blank, self.precision)
        now = {n: p.detach().clone() for n, p in cast(Any, self.root).named_parameters(remove_duplicate=False)}
        twin.load_state_dict(now, strict=False, assign=True)  # buffers are in the copy already
        sharding.begin()
        return twin


class _Gradient:
    """The twin of ``GradientSum`` where FSDP2 adds up the gradients, each rank those of its part."""

    def __init__(self, sharding: _Sharding, seed: int) -> None:
        self.sharding, self.seed = sharding, seed

    @contextmanager
    def of_shard(self) -> Iterator[None]:
        """The block computes the gradient of this rank's shard. Its random layers draw from a stream of the shard."""
        ranks, device = self.sharding.ranks, self.sharding.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # nothing here changes an output in place
            torch.manual_seed(derive(self.seed, "shard", ranks.rank))
            try:
                yield
            except BaseException:
                self.sharding.root.reset_iter_state()
                raise

    def finish(self) -> None:
        """Give every local part its part of the gradient."""
        for name, part in self.sharding.parts.items():
            self.sharding.local[name].grad = None if part.grad is None else cast(DTensor, part.grad).to_local()


Gradient = GradientSum | _Gradient


# -- for networks that are split and for those that are not ----------------------------------------


def held(network: Network) -> dict[str, Tensor]:
    """What this rank holds of every weight, by name: the weight itself, or its local part."""
    sharding = _of(network)
    return dict(network.named_parameters()) if sharding is None else dict(sharding.local)


def is_split(network: Network) -> bool:
    return _of(network) is not None


def pieces(network: Network) -> dict[int, Part]:
    """The weights of ``held`` of which a tensor group or a pipeline has the parts, by id."""
    sharding, parts = _of(network), pieces_of(network)
    if sharding is None:
        return parts
    of_rows = {
        n: RowsOfPiece(sharding.ranks, cast(Piece, parts[id(p)]), p.shape, sharding.device)
        for n, p in sharding.parts.items()
        if id(p) in parts
    }
    return {id(sharding.local[name]): part for name, part in of_rows.items()}


def places(network: Network) -> dict[str, tuple[int, int]]:
    """For every weight, the number of its elements before those that this rank holds, and of all its elements."""
    sharding = _of(network)
    if sharding is None:
        return {name: (0, p.numel()) for name, p in network.named_parameters()}
    return {
        name: (rows_of(len(p), sharding.ranks).start * (p.numel() // len(p)), p.numel())
        for name, p in sharding.parts.items()
    }


def gradient_sum(
    network: Network, parameters: Sequence[Tensor], ranks: Ranks, seed: int, pieces: Mapping[int, Part]
) -> Gradient:
    """What adds up the gradients of the shards."""
    sharding = _of(network)
    return GradientSum(parameters, ranks, seed, pieces) if sharding is None else _Gradient(sharding, seed)


@contextmanager
def reading(networks: Sequence[Network], learning: Network | None = None) -> Iterator[None]:
    """Inside the block ``networks`` can be read without gradient. All ranks must make the same passes in it.

    The weights of ``learning``, which computes a gradient in the block, are left to FSDP2.
    """
    own = None if learning is None else _of(learning)
    shardings = {id(s): s for s in map(_of, networks) if s is not None and s is not own}
    with ExitStack() as stack:
        for sharding in shardings.values():
            stack.enter_context(sharding.reading())
        yield


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Inside the block ``model`` has whole weights, so that each rank can use it alone, without gradient."""
    sharding = _of(model)
    with sharding.whole() if sharding else nullcontext():
        yield


def whole_network(network: Network) -> Network:
    """The network itself, or a copy with whole weights if it is split. All ranks must call the function."""
    sharding = _of(network)
    return network if sharding is None else sharding.copy()


def whole_model(model: nn.Module) -> Any:
    """As ``whole_network``, for the model inside a network, on the device that computes with it."""
    sharding = _of(model)
    return model if sharding is None else _key(sharding.copy(sharding.device))


def frozen(network: Network) -> Network:
    """A copy of the network as it is now, which never changes. With LoRA the copy shares the split backbone."""
    sharding = _of(network)
    if sharding is None or (isinstance(network, PolicyNetwork) and network.has_adapters):
        with whole(network):
            return network.frozen()
    return sharding.frozen()


def _key(network: nn.Module) -> nn.Module:
    """The module on which the sharding of ``network`` is noted: its model, which other networks may share."""
    return (network.body or network) if isinstance(network, Network) else network


def _of(network: nn.Module) -> _Sharding | None:
    return vars(_key(network)).get(_ATTRIBUTE)


def _blank(network: Network) -> Network:
    """A copy whose weights have a shape and no memory."""
    memo = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in network.parameters()
    }
    return copy.deepcopy(network, cast(Any, memo))


def _layers(network: nn.Module) -> list[nn.Module]:
    """The layers of the network: the items of its outermost lists of modules, where they have parts of their own."""
    found: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            found += [
                layer
                for layer in child
                if any(True for _ in layer.children()) and any(True for _ in layer.parameters())
            ]
        else:
            found += _layers(child)
    return found
