"""Our numbers beside the peers': a table, and exit code 1 where they are apart.

``python -m tests.parity.compare TRL_FOLDER PPO_FOLDER|- [--write-goldens]``. A row that is *known* differs for a reason
that docs/parity.md gives; those of losses and gradients have a row beside them that is equal once the reason is put in.
"""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.parity import case, explained, ours, peer_files
from tests.parity.figures import Figures, gradient_error, norm, relative, sketch_error, sketch_norm, vector_error

APART = ("ppo/", "dpo/sigmoid uneven", "orpo/", "rloo/", "bco/fewer")  # compared by functions of their own
TOLERANCE = 1e-5  # of a loss, of a gradient's norm, of a vector's norm
METRIC_TOLERANCE = 1e-4  # of a metric, which may be a difference of numbers that are much larger
GOLDENS = Path(__file__).parent / "goldens"
TRAINERS_GOLDEN, PPO_GOLDEN = GOLDENS / "trl-trainers.json", GOLDENS / "trl-ppo.json"
LOGPS, OF_F = ("logps/chosen", "logps/rejected"), ("forward_kl", "js_divergence", "alpha_divergence")
# Where not all of TRL's metrics are compared: there TRL logs β times the summed log-ratio, whatever the loss compares.
METRICS = {f"dpo/{name}": (*LOGPS, "rewards/margins") for name in ("ipo", "sigmoid_norm", *OF_F)}
KNOWN = tuple(f"{name}: rewards/margins" for name in METRICS)


@dataclass(frozen=True)
class Row:
    what: str
    ours: float
    peer: float
    error: float
    known: bool = False  # True: must differ, for a reason that is documented
    tolerance: float = TOLERANCE

    @property
    def verdict(self) -> str:
        close = self.error <= self.tolerance
        return ("stale" if close else "known") if self.known else ("ok" if close else "OFF")

    @property
    def passed(self) -> bool:
        return self.verdict in ("ok", "known")


def rows(made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    """Every comparison that both sides have, in the order of what we made."""
    table: list[Row] = []
    for name, mine in made.items():
        if name in peer and not name.startswith(APART):
            table += whole(name, mine, peer[name])
    table += [row for name in case.POLICIES if f"policy/{name}" in peer for row in policy(name, made, peer)]
    table += [row for name in case.RLOO_SAMPLERS if name in peer for row in rloo(name, made, peer)]
    table += smoothing(made, peer) + uneven(made, peer) + orpo(made, peer) + bco(made, peer)
    for name in case.PPO_LENGTHS:
        if f"ppo/policy {name}" in peer:
            table += ppo(name, made, peer)
    return table


def whole(name: str, mine: Figures, theirs: Figures) -> list[Row]:
    """Loss, gradient and metrics."""
    table = [
        Row(f"{name}: loss", mine.loss, theirs.loss, relative(mine.loss, theirs.loss)),
        gradient_row(f"{name}: gradient", mine, theirs),
    ]
    for metric in METRICS.get(name, theirs.metrics):
        a, b = mine.metrics[metric], theirs.metrics[metric]
        what = f"{name}: {metric}"
        table.append(Row(what, a, b, relative(a, b), what in KNOWN, METRIC_TOLERANCE))
    return table


def gradient_row(what: str, mine: Figures, theirs: Figures, known: bool = False) -> Row:
    error = gradient_error(mine.gradient, theirs.gradient)
    return Row(what, norm(mine.gradient), norm(theirs.gradient), error, known)


def policy(name: str, made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    """Old log-probs, and the advantage of every answer. TRL adds 1e-4 to the deviation that it divides by."""
    mine, theirs = made[f"policy/{name}"].tokens, peer[f"policy/{name}"].tokens
    rows = [token_row(f"policy/{name}: old log-probs", mine["old_logprob"], theirs["old_logprob"])]
    setting, what = case.POLICIES[name], f"policy/{name}: advantages"
    divided = setting.advantage == "grpo"
    rows.append(token_row(what, mine["advantage"], theirs["advantage"], known=divided))
    if divided:
        added = explained.advantages_of_a_greater_deviation(setting.scores, mine["advantage"])
        rows.append(token_row(f"{what}, 1e-4 added to the deviation", added, theirs["advantage"]))
    return rows


def rloo(name: str, made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    """TRL's ratio is that of whole answers, ours of tokens: one gradient at the first update, another one later."""
    mine, theirs = made[name], peer[name]
    is_first, one = case.RLOO_SAMPLERS[name] == case.POLICY, explained.rloo_one_ratio(theirs.tokens)
    # At the first update TRL's loss is 0: the mean of a group's advantages, which have size 1.
    size = max(abs(theirs.loss), 1.0) if is_first else abs(theirs.loss)
    return [
        token_row(f"{name}: log-probs of answers", mine.tokens["old_logprob"], theirs.tokens["old_logprob"]),
        token_row(f"{name}: advantages", mine.tokens["advantage"], theirs.tokens["advantage"]),
        Row(f"{name}: loss", mine.loss, theirs.loss, abs(mine.loss - theirs.loss) / size, known=True),
        gradient_row(f"{name}: gradient", mine, theirs, known=not is_first),
        Row(f"{name}, one ratio for an answer: loss", one.loss, theirs.loss, abs(one.loss - theirs.loss) / size),
        gradient_row(f"{name}, one ratio for an answer: gradient", one, theirs),
    ]


def bco(made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    """TRL's shift is the mean of all answers' rewards, ours the middle of the two sides' means."""
    name = "bco/fewer bad answers"
    if name not in peer:
        return []
    mine, theirs = made[name], peer[name]
    return [
        Row(f"{name}: loss", mine.loss, theirs.loss, relative(mine.loss, theirs.loss), known=True),
        gradient_row(f"{name}: gradient", mine, theirs, known=True),
        *whole(f"{name}, the mean of all", explained.bco_mean_of_all(case.BCO_LEFT_OUT[name]), theirs),
    ]


def smoothing(made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    """TRL takes label_smoothing for its sigmoid loss and leaves it out."""
    mine, theirs = made["dpo/smoothed"], peer["dpo/smoothed, TRL's sigmoid"]
    plain = made["dpo/sigmoid"].loss
    return [
        Row("dpo/smoothed: TRL's sigmoid", mine.loss, theirs.loss, relative(mine.loss, theirs.loss), known=True),
        Row("dpo/smoothed: TRL's against ε = 0", plain, theirs.loss, relative(plain, theirs.loss)),
    ]


def uneven(made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    """TRL's DPO gradient is a mean of micro-batches' means, so a smaller last one weighs as much."""
    theirs, what = peer["dpo/sigmoid uneven"], "dpo/sigmoid in 4 + 2 pairs: gradient"
    return [
        gradient_row(what, made["dpo/sigmoid uneven"], theirs, known=True),
        gradient_row(f"{what}, mean of means", explained.dpo_mean_of_means((4, 2)), theirs),
    ]


def orpo(made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    """TRL's ORPO learns the prompt too: its cross-entropy is over all tokens of prompt and answer."""
    if "orpo/orpo" not in peer:
        return []
    mine, theirs = made["orpo/orpo"], peer["orpo/orpo"]
    return [
        Row("orpo: loss", mine.loss, theirs.loss, relative(mine.loss, theirs.loss), known=True),
        gradient_row("orpo: gradient", mine, theirs, known=True),
        *whole("orpo with the prompt learnt", explained.orpo_with_prompts(), theirs),
    ]


def ppo(name: str, made: dict[str, Figures], peer: dict[str, Figures]) -> list[Row]:
    policy, their_policy = made[f"ppo/policy {name}"], peer[f"ppo/policy {name}"]
    value, their_value = made[f"ppo/value {name}"], peer[f"ppo/value {name}"]
    table = [
        token_row(f"ppo {name}: {column}", policy.tokens[column], their_policy.tokens[column])
        for column in ("old_logprob", "reference_logprob")
    ]
    table.append(token_row(f"ppo {name}: old values", value.tokens["old_value"], their_value.tokens["old_value"]))
    table += whole(f"ppo {name}: policy", policy, Figures(their_policy.loss, {}, their_policy.gradient))
    if name == "full":
        table += ppo_full(policy, their_policy) + whole(
            "ppo full: value", value, Figures(their_value.loss, {}, their_value.gradient)
        )
    else:
        table += ppo_short(policy, value, peer)
    return table


def ppo_full(policy: Figures, theirs: Figures) -> list[Row]:
    """Returns, and advantages whitened by n where TRL divides by n - 1."""
    mine = policy.tokens["advantage"]
    bessel = math.sqrt((len(mine) - 1) / len(mine))
    return [
        token_row("ppo full: returns (GAE)", policy.tokens["return"], theirs.tokens["return"]),
        token_row("ppo full: whitened advantages", mine, theirs.tokens["advantage"], known=True),
        token_row("ppo full: the same by n - 1", [a * bessel for a in mine], theirs.tokens["advantage"]),
    ]


def ppo_short(policy: Figures, value: Figures, peer: dict[str, Figures]) -> list[Row]:
    """Of an answer that ends early TRL's score and values reach one position past its end."""
    past, theirs = peer["ppo/past the end short"].tokens, peer["ppo/value short"]
    their_returns = peer["ppo/policy short"].tokens["return"]
    returns = explained.returns_past_the_end("short", torch.tensor(past["old_value"])).tolist()
    values = explained.values_past_the_end("short", past)
    micro = peer["ppo/policy short, micro-batches of 2"]
    means = explained.policy_mean_of_means("short", peer["ppo/policy short"].tokens, micro.tokens["rows"])
    return [
        token_row("ppo short: returns (GAE)", policy.tokens["return"], their_returns, known=True),
        token_row("ppo short: returns, one past the end", returns, past["return"]),
        Row("ppo short: value: loss", value.loss, theirs.loss, relative(value.loss, theirs.loss), known=True),
        gradient_row("ppo short: value: gradient", value, theirs, known=True),
        *whole("ppo short: value, one past the end", values, Figures(theirs.loss, {}, theirs.gradient)),
        gradient_row("ppo short: policy in micro-batches: gradient", policy, micro, known=True),
        gradient_row("ppo short: policy in micro-batches, mean of means: gradient", means, micro),
    ]


def token_row(what: str, mine: list[float], theirs: list[float], known: bool = False) -> Row:
    """Vectors are shown by their norms."""
    return Row(what, math.hypot(*mine), math.hypot(*theirs), vector_error(mine, theirs), known)


def goldens(golden: Path, peer: dict[str, Figures]) -> list[Row]:
    """The gradients that TRL gave when the committed goldens were written."""
    return [
        Row(f"golden {name}", norm(peer[name].gradient), sketch_norm(row["gradient"]), error)
        for name, row in peer_files.read_golden(golden)[1].items()
        if "gradient" in row
        for error in [sketch_error(peer[name].gradient, row["gradient"])]
    ]


def show(table: list[Row]) -> None:
    width = max(len(row.what) for row in table)
    print(f"{'what':{width}}  {'ours':>14}  {'peer':>14}  {'difference':>10}")
    for row in table:
        print(f"{row.what:{width}}  {row.ours:14.7g}  {row.peer:14.7g}  {row.error:10.1e}  {row.verdict}")


def main(trainers: Path, ppo_folder: Path | None, write_goldens: bool) -> int:
    versions, peer = peer_files.read(trainers)
    print("peer:", ", ".join(f"{name} {number}" for name, number in versions.items()))
    if ppo_folder:
        versions, more = peer_files.read(ppo_folder)
        print("PPO's peer:", ", ".join(f"{name} {number}" for name, number in versions.items()))
        peer |= more
    table = rows(ours.all_figures(peer), peer)
    for folder, golden in ((trainers, TRAINERS_GOLDEN), (ppo_folder, PPO_GOLDEN)):
        if folder and write_goldens:
            shutil.copy(folder / peer_files.FIGURES, golden)
            print(f"wrote {golden}")
        elif folder:
            table += goldens(golden, peer)
    show(table)
    off = [row for row in table if not row.passed]
    known = sum(row.verdict == "known" for row in table)
    print(f"{len(table)} comparisons: {len(table) - len(off) - known} equal, {known} known to differ, {len(off)} off")
    return 1 if off else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    first, second, *options = sys.argv[1:]
    sys.exit(main(Path(first), None if second == "-" else Path(second), "--write-goldens" in options))
