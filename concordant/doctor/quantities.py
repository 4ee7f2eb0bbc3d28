"""Quantities that several rules ask of a history, in the units of their names."""

from __future__ import annotations

import math

from concordant.config.names import DIVIDES_SCORES, REFERENCE_FREE
from concordant.doctor.history import History
from concordant.training.defaults import ADAPTER, HIGHEST_RATE, OPTIMIZERS, RATES, SCRATCH

SAME = 1e-3  # share of a held-out loss that rounding explains


def path(h: History) -> float | None:
    """The sum of all updates over the size of the weights; None where updates are not logged."""
    if not h.has("doctor/update/ratio"):
        return None
    inner = int(h.setting("inner_epochs", 1)) * int(h.setting("minibatches", 1))
    return inner * sum(x for x in h.values("doctor/update/ratio") if math.isfinite(x))


def stands_still(h: History) -> bool:
    """Whether every evaluation gave the same held-out loss: the weights do not move, whatever a batch's loss does."""
    heldout = h.values("eval/bradley_terry") or h.values("eval/loss")
    return len(heldout) > 1 and max(heldout) - min(heldout) < SAME * abs(heldout[0])


def kl_per_token(h: History, rows: int = 3) -> float | None:
    """Nats a token of the sampled answers from the reference."""
    kl, length = h.now("objective/kl", rows), h.now("response/length", rows)
    return kl / length if kl is not None and length else None


def nats_gained(h: History, side: str) -> float | None:
    """Log-prob of chosen or rejected answers now less the reference's of the very same, in nats a response.

    So the lengths of the answers do not matter.
    """
    if not rewards_are_logratios(h):
        change = h.change(f"logps/{side}")
        return change.by if change else None
    reward = h.now(f"rewards/{side}")
    return None if reward is None else reward / float(h.setting("beta", 0.1))


def compares_with_reference(h: History) -> bool:
    """Whether the loss of a run on pairs has a reference at all."""
    plus = h.setting("plus") or ()
    return {h.setting("loss"), *(str(item).partition("=")[0] for item in plus)}.isdisjoint(REFERENCE_FREE)


def rewards_are_logratios(h: History) -> bool:
    """Whether the logged rewards are β log π/π_ref, summed over an answer; others are of a token, or of π alone."""
    per_token = h.setting("loss") in ("ipo", "sigmoid_norm")
    return not per_token and compares_with_reference(h) and h.setting("f_divergence", "reverse_kl") == "reverse_kl"


def is_plain_sigmoid(h: History) -> bool:
    """Whether a run on pairs has DPO's first loss alone, which is ln 2 where nothing is known."""
    more = h.setting("plus") or h.number("lm_coefficient") or h.number("margin")
    return h.setting("loss", "sigmoid") == "sigmoid" and not more and h.setting("strength", "none") == "none"


# -- cures that several findings have -------------------------------------------------------------

TRAIN_FIRST = (
    "Name a trained model with its own tokenizer in --model.name, or train one on such answers with `concordant sft` "
    "first"
)
FREEZE_THE_START = "Freeze the start as the reference: the very weights and adapters of the policy, without dropout"
MOST_WEIGHT = 1.0  # of a nat of KL, beside rewards of deviation 1: a greater one holds the policy where it is
MISTRUSTED = 0.3  # the same while the reward pays for the wrong thing: the policy should stay near its start
FAST = 1.5  # times the fitting rate: a higher one does harm once all weights move
LEAST_RATE = 0.1  # of the usual rate: a lower one teaches too little
SMALLEST = 1e6  # weights of the smallest trained model for which the usual rates were fitted


def fitting_rate(h: History) -> float | None:
    """The learning rate that a cure names; None where the start is not known.

    It is the usual one, but for two kinds of trained starts. One of less than a million weights gets the rate of a
    million. SFT of a start that was trained before gets a tenth of the rate of random weights.
    """
    usual, weights = h.usual("usual_rate"), h.beside.start().get("weights") or SMALLEST
    if usual is None or str(h.setting("model.name", "")).startswith("builtin:"):
        return usual
    factor = OPTIMIZERS[h.setting("train.optimizer", "adamw")]
    if weights < SMALLEST:
        usual = min(usual, factor * RATES[h.stage][0] * (ADAPTER if h.number("model.lora.rank") else 1.0))  # type: ignore[index]
    return min(SCRATCH * usual, factor * HIGHEST_RATE) / 10 if h.stage == "sft" else usual


def hold(h: History, least: float = 0.1) -> str:
    """A cure by the KL weight, which is not raised for ever. ``least``: beside rewards of deviation 1 or less."""
    weight, spread = h.latest("kl_coefficient") or 0.0, reward_spread(h) or 1.0
    higher = min(MOST_WEIGHT * spread, max(least * max(1.0, spread), 3 * weight))
    return f"set kl.coefficient {higher:.2g}" if higher > 1.1 * weight else _half(h)


def _half(h: History) -> str:
    steps = h.beside.start().get("steps") or 0
    return f"set train.max_steps {max(1, int(steps / 2))}" if steps else "end the run at half its steps"


def mend(h: History, how: str) -> str:
    """The cure of a reward that pays for the wrong thing: no KL weight makes up for that."""
    return f"Stop the run and {how}; until then {hold(h, MISTRUSTED)}"


def lower(h: History) -> str:
    """A cure by the learning rate, which is not lowered for ever."""
    rate, usual = h.number("train.learning_rate"), h.beside.start().get("usual_rate") or 0.0
    if not rate:
        return "Lower train.learning_rate threefold"
    if rate / 3 < LEAST_RATE * usual:
        return _half(h).capitalize()
    return f"Set train.learning_rate {rate / 3:.1g}"


def let_go(h: History) -> str:
    """The end of a cure that sets updates free which something has held: their rate must fit now."""
    rate, fitting = h.number("train.learning_rate"), fitting_rate(h)
    if not fitting or rate <= FAST * fitting:
        return ""
    return f"; set train.learning_rate {fitting:.1g}, since nothing else holds the updates then"


def balance(longer: float, pairs: float, least: float) -> str:
    """The cure of labels that follow length. ``longer``: share of the pairs whose chosen answer is the longer one."""
    left = 2 * min(longer, 1 - longer) * pairs
    if pairs and left < least:
        return (
            "Have the pairs labelled anew by what the answers say: to balance lengths would leave about "
            f"{left:.0f} of {pairs:.0f} pairs"
        )
    return "Balance lengths in the data" + (f", which leaves about {left:.0f} of {pairs:.0f} pairs" if pairs else "")


def whole_answers(h: History) -> str:
    """The cure of answers that a limit cuts: the limit that preflight found to fit 99 % of them."""
    limit, fits = h.number("data.max_response_tokens"), h.before("truncation").get("response_tokens", 0.0)
    if fits > limit:
        return f"Set data.max_response_tokens {fits:.0f}, which fits 99 % of the answers"
    return f"Set data.max_response_tokens {max(64, 4 * limit):.0f}, or data.too_long drop"


def no_dropout(rate: float) -> str:
    """``rate``: of the adapter."""
    return "Set --model.lora.dropout 0" if rate else "Set every dropout of the model to 0, and those of your own layers"


def one_temperature(temperature: float) -> str:
    """``temperature``: of the sampler."""
    give = f"ive the learner sampling.temperature {temperature:g} too"
    return f"G{give}" if temperature == 1 else f"Set sampling.temperature 1, or g{give}"


def divides_scores(h: History) -> bool:
    """Whether the advantage divides scores by their deviation, so that their scale does not matter."""
    return h.setting("advantage") in DIVIDES_SCORES


def reward_spread(h: History) -> float | None:
    """The deviation of the rewards that the policy learns from: 1 after normalisation, as in every group of GRPO."""
    spread = h.start("objective/score_std", 1)
    if not spread or (h.setting("reward_normalize", "none") == "none" and not divides_scores(h)):
        return spread
    return 1.0


def clipped(h: History, rows: int) -> float | None:
    """The share of tokens whose own ratio is clipped, so that they have no gradient; None with a loss of another kind.

    GSPO clips whole answers by design, and with CISPO a token at its bound keeps its gradient.
    """
    return h.now("policy/clip_fraction", rows) if h.setting("policy_loss", "ppo") in ("ppo", "dual-clip") else None
