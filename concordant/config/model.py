"""Settings of a model and of its adapter."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

from concordant.config.made import Made
from concordant.config.names import Kernels, LoraStart, Precision, Quantize


@dataclass(kw_only=True)
class LoraConfig(Made):
    rank: int = 0  # 0 trains all weights
    alpha: float = 32.0  # the adapter's update is multiplied by alpha / rank
    dropout: float = 0.0  # share of the adapter's inputs that are set to 0 in each training step
    target_modules: list[str] = field(default_factory=list)  # [q_proj,v_proj]; empty or all-linear: all but the head
    rslora: bool = False  # rsLoRA: the update is multiplied by alpha / sqrt(rank), so that a large rank learns as fast
    dora: bool = False  # DoRA: the length of every row of an adapted weight is trained apart from its direction
    start: LoraStart = "kaiming"  # pissa: the adapter begins as the main directions of the weight
    on_top: bool = False  # merge the adapter that the model starts from, and train a new one over it


@dataclass
class ModelConfig(Made):
    name: str = ""  # builtin:nano | builtin:tiny | builtin:small | PATH | hub ID | package:NAME/FOLDER
    _: KW_ONLY
    adapter: str = ""  # PEFT adapter folder to start from
    trust_remote_code: bool = False  # run Python code that comes with the model; only for authors whom you trust
    precision: Precision = "auto"  # precision of autocast; weights and optimizer stay fp32
    quantize: Quantize = "none"  # nf4: the frozen base under an adapter has four bits a weight; needs bitsandbytes
    activation_checkpointing: bool = False  # recompute activations in backward: less memory, about a third more time
    device: str = "auto"  # auto | cpu | cuda
    kernels: Kernels = "fast"  # plain: only the model's own code; flex: fast, with block masks on a GPU (docs/gpu.md)
    lora: LoraConfig = field(default_factory=LoraConfig)
