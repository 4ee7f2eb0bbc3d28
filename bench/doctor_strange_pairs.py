"""Strange faults in files of pairs: labels, sides and columns that are not what they seem."""

from __future__ import annotations

from bench.doctor_strange_tools import Cases, Desk, Row
from concordant.config.stages import DPOConfig, RewardConfig

PAIRS = Cases()


def _flipped(row: Row) -> Row:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def _held_out(desk: Desk) -> str:
    """A file of pairs that has not the fault."""
    return desk.file(desk.pairs(side="held-out"), "test.jsonl")


@PAIRS.add(
    "reward-artefact-on-one-side",
    "https://github.com/deepspeedai/DeepSpeedExamples/issues/491",
    "The score rises with every thanks in an answer; on clean pairs the reward model is as good as chance.",
    "In the training file nearly all chosen answers end with a phrase that no rejected answer has.",
    "A phrase stands on one side only, and the reward model learns the phrase instead of the preference.",
    named=True,
)
def _(desk: Desk) -> RewardConfig:
    rows = [{**r, "chosen": f"{r['chosen']} Many thanks."} for r in desk.pairs(900)]
    return desk.reward_model(rows, {"data.test_path": _held_out(desk)})


@PAIRS.add(
    "reward-both-orders",
    "https://github.com/TIGER-AI-Lab/EditReward/issues/14",
    "Loss and accuracy stay where they started.",
    "Half of the pairs stand in the file twice, the second time with chosen and rejected exchanged.",
    "Pairs stand in the file in both orders, so their labels contradict each other.",
)
def _(desk: Desk) -> RewardConfig:
    rows = desk.pairs(500)
    return desk.reward_model([*rows, *map(_flipped, rows)])


@PAIRS.add(
    "reward-two-sources",
    "https://github.com/TIGER-AI-Lab/EditReward/issues/15",
    "The accuracy stays near one half, although the pairs look right in the rows that were checked by hand.",
    "Two files were joined, and in one of them the meaning of the label is the opposite.",
    "One part of the file has inverted labels: its two halves contradict each other.",
)
def _(desk: Desk) -> RewardConfig:
    rows = desk.pairs(1_000)
    half = len(rows) // 2
    first = [{**row, "source": "team-a"} for row in rows[:half]]
    return desk.reward_model([*first, *({**_flipped(row), "source": "team-b"} for row in rows[half:])])


@PAIRS.add(
    "reward-columns-exchanged",
    "https://github.com/vl-rewardbench/VL_RewardBench/issues/7",
    "Training looks perfect, and on the held-out file the reward model is wrong nearly always.",
    "chosen and rejected are exchanged in the training file; the held-out file is right.",
    "The labels of training and held-out data are opposite: chosen and rejected are exchanged in one of the files.",
)
def _(desk: Desk) -> RewardConfig:
    return desk.reward_model([_flipped(r) for r in desk.pairs()], {"data.test_path": _held_out(desk)})


@PAIRS.add(
    "reward-length-is-label",
    "https://github.com/jsboige/CoursIA/pull/16172",
    "The accuracy is high, and the score of an answer grows with its length whatever the answer says.",
    "The raters took the longer answer each time, so the label is the length.",
    "The longer answer is chosen in all pairs, so the reward model learns length.",
)
def _(desk: Desk) -> RewardConfig:
    rows = [r for r in desk.pairs() if len(r["chosen"]) != len(r["rejected"])]
    longer = [r if len(r["chosen"]) > len(r["rejected"]) else _flipped(r) for r in rows]
    return desk.reward_model(longer, {"data.test_path": _held_out(desk)})


@PAIRS.add(
    "reward-trivial-rejected",
    "https://github.com/AI-Study-Han/Zero-Chatgpt/issues/13",
    "Loss 0.01 and accuracy 1, but real answers get scores in the wrong order.",
    "The rejected answers were made by repeating a phrase, so a pair is decided without reading the question.",
    "The rejected answers are of another, trivial kind (a repeated phrase), so the task is too easy to teach anything.",
)
def _(desk: Desk) -> RewardConfig:
    rows = desk.pairs(900)
    made = [{**r, "rejected": " ".join([" ".join(r["chosen"].split()[:3])] * 5)} for r in rows]
    return desk.reward_model(made, {"data.test_path": _held_out(desk)}, rank=8)


@PAIRS.add(
    "reward-margin-in-percent",
    "https://github.com/huggingface/trl/issues/691",
    "Scores grow to tens, and the loss starts at tens instead of 0.69.",
    "The column margin has percent (20 to 95), and the loss reads it in units of the score.",
    "The margins of the data are far too large for the scores (percent instead of units of the reward).",
)
def _(desk: Desk) -> RewardConfig:
    return desk.reward_model([{**r, "margin": desk.draw.randint(20, 95)} for r in desk.pairs(900)])


@PAIRS.add(
    "reward-prompt-in-chosen",
    "https://github.com/OpenRLHF/OpenRLHF/issues/909",
    "The accuracy is 1 after few steps, and sampled answers all get low scores.",
    "The chosen answers contain the prompt again; the rejected answers do not.",
    "The chosen answers repeat the prompt and the rejected ones do not, and this difference is what is learnt.",
)
def _(desk: Desk) -> RewardConfig:
    return desk.reward_model([{**r, "chosen": f"{r['prompt']} {r['chosen']}"} for r in desk.pairs(900)])


@PAIRS.add(
    "reward-chosen-cut",
    "https://github.com/huggingface/trl/issues/1832",
    "The accuracy is 1 at once, and good complete answers get bad scores.",
    "max_response_tokens cuts the long chosen answers and leaves the short rejected ones whole.",
    "The limit of length cuts one side more than the other, so that a missing end token gives the label away.",
)
def _(desk: Desk) -> RewardConfig:
    rows = [r for r in desk.pairs() if len(r["chosen"]) > 45 and len(r["rejected"]) < 35]
    return desk.reward_model(rows, {"data.max_response_tokens": 10, "data.too_long": "cut_response_end"})


@PAIRS.add(
    "dpo-near-ties",
    "https://github.com/argilla-io/distilabel/pull/264",
    "The loss stays at 0.69, and the accuracy changes between 0.4 and 0.6.",
    "The two answers of a pair differ only in a space or the last mark, because ties were kept and labelled by chance.",
    "Chosen and rejected are nearly the same text, so the pairs carry no preference.",
)
def _(desk: Desk) -> DPOConfig:
    rows = []
    for row in desk.pairs(800):
        plain = row["chosen"].rstrip(".!")
        pair = [f"{plain}.", f"{plain}!"]
        desk.draw.shuffle(pair)
        rows.append({**row, "chosen": pair[0], "rejected": pair[1]})
    return desk.dpo(rows)


@PAIRS.add(
    "dpo-random-labels",
    "https://github.com/TU2021/DPO-VP/issues/1",
    "The accuracy on training pairs rises slowly, and on held-out pairs it stays at one half.",
    "The labels were lost in a join and are random.",
    "The labels are noise: held-out accuracy stays at chance.",
)
def _(desk: Desk) -> DPOConfig:
    rows = [_flipped(r) if desk.draw.random() < 0.5 else r for r in desk.pairs(700)]
    return desk.dpo(rows, {"train.max_steps": 60})


@PAIRS.add(
    "dpo-answers-cut-away",
    "https://github.com/Yifan-Song793/ETO/issues/14",
    "The loss stays at exactly 0.6931 and all rewards are near 0.",
    "The limit leaves one token of each answer, which is the same on both sides.",
    "The limit of length cuts nearly all of the answers, so that both sides of a pair are equal.",
)
def _(desk: Desk) -> DPOConfig:
    rows = [
        {**r, "chosen": f"The answer: {r['chosen']}", "rejected": f"The answer: {r['rejected']}"} for r in desk.pairs()
    ]
    return desk.dpo(rows, {"data.max_response_tokens": 1, "data.too_long": "cut_response_end"})


@PAIRS.add(
    "dpo-foreign-chosen",
    "https://github.com/princeton-nlp/SimPO/issues/43",
    "The accuracy is 1 within some steps, the chosen answers have very low log-probs, and own answers hardly change.",
    "The chosen answers come from a stronger model, in words that the policy never uses; the others are its own.",
    "The chosen answers are foreign to the policy (far less likely than the rejected ones): SFT on them is missing.",
)
def _(desk: Desk) -> DPOConfig:
    text = "Certainly! Permit me to elucidate: {} Consequently, one ought to verify accordingly."
    rows = [{**r, "chosen": text.format(r["chosen"].lower())} for r in desk.pairs(900)]
    return desk.dpo(rows, {"data.max_response_tokens": 160})
