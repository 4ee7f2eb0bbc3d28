"""Rules about the settings of PPO's advantages and policy losses: what contradicts, and what has no effect."""

from __future__ import annotations

from concordant.config.names import COMPARES_SAMPLES, DISCOUNTS, NEEDS_CRITIC, NEEDS_GREEDY
from concordant.config.rule_kinds import Contradiction, NoEffect

POLICY_CONTRADICTIONS = (
    Contradiction(
        ("advantage", "sampling.n"),
        lambda v: v["advantage"] in COMPARES_SAMPLES and v["sampling.n"] < 2,
        "it compares the samples of one prompt, so set sampling.n to 2 or more, or use advantage gae",
    ),
    Contradiction(
        ("policy_loss", "clip_high"),
        lambda v: v["policy_loss"] == "cispo" and v["clip_high"] == 0,
        "the greatest weight of a token is 1 + clip_high, and clip is no bound of it; set clip_high, to 4 for example",
    ),
    Contradiction(
        ("policy_loss", "clip_dual"),
        lambda v: v["policy_loss"] == "dual-clip" and v["clip_dual"] <= 1 + (v["clip_high"] or v["clip"]),
        "the second bound of a ratio is for tokens that the first one does not reach; raise clip_dual",
    ),
    Contradiction(
        ("clip_high", "clip"),
        lambda v: v["policy_loss"] != "cispo" and 0 < v["clip_high"] < v["clip"],
        "the upper bound is for probabilities that rise, and a tighter one lets rare tokens die out; raise clip_high, "
        "or leave it out",
    ),
    Contradiction(
        ("dynamic_sampling", "sampling.n"),
        lambda v: v["dynamic_sampling"] > 0 and v["sampling.n"] < 2,
        "the rewards of one answer are always equal, so every prompt would be replaced; set sampling.n to 2 or more",
    ),
    Contradiction(
        ("cluster.max_lag", "dynamic_sampling"),
        lambda v: v["cluster.max_lag"] > 0 and v["dynamic_sampling"] > 0,
        "answers of newer weights would replace tied ones of older weights; leave one of the two out",
    ),
    Contradiction(
        ("cluster.max_lag", "advantage"),
        lambda v: v["cluster.max_lag"] > 0 and v["advantage"] in NEEDS_GREEDY,
        "the most likely answers would come from newer weights than the samples; leave cluster.max_lag out",
    ),
    Contradiction(
        ("cluster.max_lag", "environment.name"),
        lambda v: v["cluster.max_lag"] > 0 and bool(v["environment.name"]),
        "an environment replies between turns, and answers that are sampled ahead are left alone; leave one of the "
        "two out",
    ),
    Contradiction(
        ("overlong_penalty", "overlong_buffer"),
        lambda v: v["overlong_penalty"] > 0 and not 0 < v["overlong_buffer"] <= v["sampling.max_new_tokens"],
        "the penalty rises over the last overlong_buffer tokens before sampling.max_new_tokens; give between one and "
        "all of them",
    ),
)

POLICY_NO_EFFECT = (
    NoEffect(
        ("clip",),
        "cispo bounds the weight of a token from above alone; set clip_high",
        lambda v: v["policy_loss"] == "cispo",
    ),
    NoEffect(
        ("clip_dual",),
        "only dual-clip has a second bound; set policy_loss dual-clip",
        lambda v: v["policy_loss"] != "dual-clip",
    ),
    NoEffect(("overlong_buffer",), "overlong_penalty is 0; set it above 0", lambda v: v["overlong_penalty"] == 0),
    NoEffect(
        ("gamma",),
        "only gae and reinforce++ look at the reward to come; the other advantages do not discount",
        lambda v: v["advantage"] not in DISCOUNTS,
    ),
    NoEffect(
        ("lam",), "λ weighs a critic's estimates; set advantage gae", lambda v: v["advantage"] not in NEEDS_CRITIC
    ),
    NoEffect(
        ("missing_eos_penalty", "missing_eos_replaces"),
        "mask_truncated leaves every answer out that did not end, and this advantage compares no answers of a prompt",
        lambda v: v["mask_truncated"] and v["advantage"] not in COMPARES_SAMPLES,
    ),
)
