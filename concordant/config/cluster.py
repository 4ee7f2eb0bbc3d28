"""Settings of a run on several processes."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.made import Made


@dataclass(kw_only=True)
class ApartConfig(Made):
    generator: int = 0  # Ray workers that sample the answers of ppo and do nothing else; 0: the policy's workers do it
    generator_python: str = ""  # Python of another environment for these workers, such as vLLM's; empty: the driver's
    reference: int = 0  # Ray workers that hold the reference of ppo; 0: the policy's workers hold it
    reward: int = 0  # Ray workers that hold the reward models of ppo; 0: the policy's workers hold them
    critic: int = 0  # Ray workers that train the critic of ppo; 0: the policy's workers train it


@dataclass(kw_only=True)
class ClusterConfig(Made):
    workers: int = 0  # processes that compute every step together; 0: as torchrun or srun started, or tensor × pipeline
    tensor: int = 1  # workers that hold a part each of every layer; other groups of so many compute other shards
    pipeline: int = 1  # workers that hold some layers each, one after another; other groups compute other shards
    shards: int = 0  # parts of every batch, summed in a fixed order: same bits for any workers; 0: one for each worker
    sharded: bool = False  # split weights, gradients and optimizer state over the workers, instead of a copy on each
    offload: bool = False  # keep the split weights, gradients and optimizer state in the host's memory, not a GPU's
    exact: bool = False  # refuse every setting with which the bits could depend on the number of workers
    ray: str = ""  # local: Ray starts the workers on this machine; HOST:PORT or auto: on that cluster; empty: no Ray
    timeout: float = 600.0  # seconds after which a worker that does not answer ends the run
    restarts: int = 3  # times that a stage starts a generator's, reference's or reward's workers again after they died
    max_lag: int = 0  # steps of ppo that answers are sampled ahead; cluster.apart.generator samples while others learn
    apart: ApartConfig = field(default_factory=ApartConfig)
