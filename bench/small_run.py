"""A run of seconds, in a process of its own: ``python -m bench.small_run '{"verb": "sft", …}'``.

It prints the SHA-256 of the exported weights. Processes that compute together change the process that drives them, so
such a run is never made in the process of the tests.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import concordant
from concordant.config.cluster import ApartConfig, ClusterConfig
from concordant.config.data import DataConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import DPOConfig, PPOConfig, RewardConfig, SFTConfig
from concordant.config.train import TrainConfig

REWARD = ["bench.small_run:length"]
SAMPLING = SamplingConfig(n=2, max_new_tokens=8)
VERBS = {
    "sft": (SFTConfig, concordant.sft, {}),
    "lora": (SFTConfig, concordant.sft, {}),
    "reward": (RewardConfig, concordant.reward, {}),
    "dpo": (DPOConfig, concordant.dpo, {}),
    "gae": (PPOConfig, concordant.ppo, {"reward": REWARD, "sampling": SAMPLING}),
    "gae_lora": (PPOConfig, concordant.ppo, {"reward": REWARD, "sampling": SAMPLING}),
    "rloo": (
        PPOConfig,
        concordant.ppo,
        {"reward": REWARD, "sampling": SAMPLING, "advantage": "rloo"},
    ),
}


def length(prompt: str, response: str) -> float:
    """A reward that every answer has another value of."""
    return len(response) / 10


def run(
    verb: str, output: str, steps: int, cluster: dict, model: str = "builtin:tiny", resume: str = "", reward: str = ""
) -> str:
    """``reward`` is a reward model's folder, in place of the function."""
    config_class, function, settings = VERBS[verb]
    if reward:
        settings = settings | {"reward": [reward]}
    apart = ApartConfig(**cluster.get("apart", {}))
    lora = LoraConfig(rank=4, dropout=0.2) if verb.endswith("lora") else LoraConfig()
    config = config_class(
        output=output,
        resume=resume,
        data=DataConfig(path="builtin:toytalk", max_samples=80),
        model=ModelConfig(model, device="cpu", precision="fp32", lora=lora),
        train=TrainConfig(max_steps=steps, batch_size=8, tensorboard=False, save_every=2, learning_rate=1e-3),
        cluster=ClusterConfig(**cluster | {"apart": apart}),
        **settings,
    )
    files = sorted((function(config) / "model").glob("*.safetensors"))
    return hashlib.sha256(b"".join(Path(f).read_bytes() for f in files)).hexdigest()


if __name__ == "__main__":
    print(run(**json.loads(sys.argv[1])))
