"""Settings of a run on several processes."""

from __future__ import annotations

from dataclasses import dataclass

from concordant.config.made import Made


@dataclass(kw_only=True)
class ClusterConfig(Made):
    workers: int = 0  # processes that compute every step together; 0: as many as torchrun or srun started, otherwise 1
    shards: int = 0  # parts of every batch, summed in a fixed order: same bits for any workers; 0: one for each worker
    sharded: bool = False  # split weights, gradients and optimizer state over the workers, instead of a copy on each
    exact: bool = False  # refuse every setting with which the bits could depend on the number of workers
    ray: str = ""  # local: Ray starts the workers on this machine; HOST:PORT or auto: on that cluster; empty: no Ray
    timeout: float = 600.0  # seconds after which a worker that does not answer ends the run
