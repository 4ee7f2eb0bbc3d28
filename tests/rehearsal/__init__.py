"""A test device without a GPU: tensors live on the CPU, claim to be on ``cuda:0``, and keep CUDA's rules.

    with rehearsal() as reads:
        model.to("cuda")  # or a whole stage with --model.device cuda
    print(reads.table())

Inside the block, PyTorch says that it has one GPU. Factories and ``.to`` give tensors that claim to be on the GPU. An
operation that mixes such a tensor with a tensor of the CPU raises CUDA's error. Every point where the processor would
have to wait for the GPU is counted, with the line of this package that caused the wait.

What the device cannot show: times, memory, kernels that only CUDA has, streams, and autocast's own list of operations
on CUDA (autocast follows the CPU's list here). Only the thread that opened the block has the device.
"""

from tests.rehearsal.device import rehearsal
from tests.rehearsal.tensor import GPU, GpuTensor
from tests.rehearsal.waits import Waits, counting

__all__ = ["GPU", "GpuTensor", "Waits", "counting", "rehearsal"]
