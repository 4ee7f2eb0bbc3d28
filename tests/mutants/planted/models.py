"""Planted bugs of models/: adapters, heads, masks, exports."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="bf16-merge-rounds-twice",
        file="models/lora_layer.py",
        old="        update = self.adapter(name).update_OI()\n        weight = self.base.weight",
        new="        weight = self.base.weight\n        update = self.adapter(name).update_OI().to(weight.dtype)",
        story="An adapter merged into bf16 weights loses more of a small update than it must.",
        tests=("models/test_lora_layer.py",),
    ),
    Mutant(
        name="rank-stabilised-scale-of-plain-lora",
        file="models/lora_layer.py",
        old="return self.alpha / (math.sqrt(self.r) if self.rank_stabilised else self.r)",
        new="return self.alpha / self.r",
        story="A PEFT adapter that was trained with rsLoRA has too little effect after loading.",
        tests=("models/test_peft_files.py",),
    ),
    Mutant(
        name="a-reference-with-dropout",
        file="models/lora.py",
        old="        twin.dropout.p = 0.0\n",
        new="",
        story="With LoRA dropout and the exact KL in the loss, the KL is measured from a reference of noise.",
        tests=("models/test_lora.py",),
    ),
    Mutant(
        name="lora-dropout-without-effect",
        file="models/load.py",
        old="alpha=lora.alpha, dropout=lora.dropout, seed=seed)",
        new="alpha=lora.alpha, seed=seed)",
        story="--model.lora.dropout is accepted and does nothing.",
        tests=("models/test_load.py",),
    ),
    Mutant(
        name="alpha-pattern-of-another-layer",
        file="models/peft_config.py",
        old="return self.alpha_pattern.get(_first_match(self.alpha_pattern, path), self.alpha)",
        new="return self.alpha_pattern.get(_first_match(self.rank_pattern, path), self.alpha)",
        story="A PEFT adapter whose alpha differs by layer, and whose rank does not, computes something else here.",
        tests=("models/test_peft_files.py", "models/test_peft_config.py"),
    ),
    Mutant(
        name="a-window-of-one-token-more",
        file="models/tree_attention.py",
        old="batch.position_RL[:, None, :] < window",
        new="batch.position_RL[:, None, :] <= window",
        story="Sliding-window models see one token more in trees than in rows, or lose the tree layout for it.",
        tests=("models/test_tree_attention.py", "models/test_architectures.py"),
    ),
    Mutant(
        name="layout-check-needs-one-sign-alone",
        file="models/layout.py",
        old="torch.minimum(siblings_seen, row_positions)",
        new="torch.maximum(siblings_seen, row_positions)",
        story="A model that ignores position ids is believed to follow trees.",
        tests=("models/test_architectures.py",),
    ),
    Mutant(
        name="logit-caps-come-last",
        file="models/head.py",
        old='caps = [settings["final_logit_softcapping"], None] if settings.get("final_logit_softcapping") else [None]',
        new='caps = [None, settings["final_logit_softcapping"]] if settings.get("final_logit_softcapping") else [None]',
        story="A model with capped logits is trained without the cap, since its first logits are too small to tell.",
        tests=("models/test_architectures.py",),
    ),
    Mutant(
        name="a-reward-models-language-head-comes-loose",
        file="models/reward_build.py",
        old="        head.weight = model.get_input_embeddings().weight  # stays tied\n",
        new="        pass\n",
        story="The language-model loss of a reward model trains a head of its own and no longer the embedding.",
        tests=("engines/test_reward_model.py",),
    ),
    Mutant(
        name="a-critic-trains-the-frozen-base",
        file="models/scalar_head.py",
        old='parameter.requires_grad = not adapted or "lora_" in name',
        new="parameter.requires_grad = True",
        story="PPO with LoRA trains every weight of the critic, and its memory grows fivefold.",
        tests=("models/test_scalar_head.py",),
    ),
    Mutant(
        name="scores-in-the-batches-order",
        file="models/tree_pass.py",
        old="column[(placed.token_N if of_token else placed.caller_B).cpu()]",
        new="column[(placed.token_N if of_token else placed.caller_B.sort().values).cpu()]",
        story="Scores of a batch go to other answers of the batch where lengths differ.",
        tests=("engines/test_reward_model.py",),
    ),
)
