"""The second strange set: pairs and prompts that users spoilt, for reward models, DPO and GRPO."""

from __future__ import annotations

from bench.doctor_strange2_tools import Cases, Desk, Row
from concordant.config.stages import RunConfig

PAIRS = Cases()
GITHUB = "https://github.com/"


@PAIRS.add(
    "reward-eval-is-train", GITHUB + "OpenRLHF/OpenRLHF/issues/1089",
    "Without an evaluation set of its own the user takes the first rows of the training set. The accuracy "
    "there is perfect.",
    "The 24 pairs of data.test_path are the first rows of the training file, and the file is learnt by heart.",
    "The held-out pairs are training pairs, so the accuracy on them says nothing; hold out pairs of other prompts.",
    "nothing is wrong, or overfitting alone",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    rows = desk.pairs(100)
    return desk.reward(rows, data__test_path=desk.file(rows[:24], "eval.jsonl"), train__max_steps=100)


@PAIRS.add(
    "reward-margin-0-100", GITHUB + "OpenRLHF/OpenRLHF/pull/129",
    "The user adds margins from ratings of 0 to 100. The loss starts at tens instead of 0.69 and the scores "
    "grow without end.",
    "score_chosen less score_rejected is 20 to 70, and the loss wants the score to lead by so much.",
    "The margins of the data are tens of reward units, far beyond the scale of scores; divide the ratings (or "
    "drop the margins).",
    "the learning rate is too high",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    rows = desk.pairs()
    for row in rows:
        row["score_rejected"] = desk.random.randrange(10, 30)
        row["score_chosen"] = row["score_rejected"] + desk.random.randrange(20, 70)
    return desk.reward(rows)


@PAIRS.add(
    "reward-end-text-in-chosen", GITHUB + "huggingface/trl/pull/5813",
    "The end token was appended as text to one side by the user's script. Accuracy is 1.0 at once; used on new "
    "answers the scores are odd.",
    "Every chosen answer ends with the text \"</s>\", no rejected one does.",
    "An artefact stands on one side only (\"</s>\" at the end of chosen answers), and the model reads only "
    "that; remove it.",
    "the data is easy, all is well; or overfitting",
    named=True,
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.reward([row | {"chosen": row["chosen"] + "</s>"} for row in desk.pairs()])


@PAIRS.add(
    "reward-longer-wins", GITHUB + "allenai/reward-bench/issues/267",
    "A strong, wordy model's answers stand against a weak, terse one's. The accuracy is 1.0, and the score of any text "
    "rises with its length.",
    "Every chosen answer is longer than the rejected one: two sentences of other answers were added to one side, "
    "drawn at random, and this side was labelled as chosen.",
    "\"Always prefer the longer\" is right for all pairs, so the reward model learns length and nothing else; balance "
    "the lengths.",
    "overfitting; all is well because the accuracy is high",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    rows = desk.pairs()
    more = [row["chosen"] for row in rows]
    made = []
    for number, row in enumerate(rows):
        first, second = desk.random.sample([row["chosen"], row["rejected"]], 2)
        longer = f"{first} {more[number - 1]} {more[number - 2]}"
        made.append({"prompt": row["prompt"], "chosen": longer, "rejected": second})
    return desk.reward(made, data__max_response_tokens=200)


@PAIRS.add(
    "reward-cut-equal", GITHUB + "natolambert/rlhf-book/issues/503",
    "After truncation the two answers of a pair are the same text. The loss stays at 0.693 and the accuracy at a half.",
    "All answers begin with the same long opening, and data.max_response_tokens with cut_response_end keeps "
    "little else.",
    "Answers are cut at data.max_response_tokens before they differ, so most pairs have two equal sides; raise "
    "the limit.",
    "the learning rate is too low; the labels are noise",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    opening = "Good question! Hello, friend! Thank you for asking me about it today, I will do my best to answer: "
    rows = [
        {"prompt": row["prompt"], "chosen": opening + row["chosen"], "rejected": opening + row["rejected"]}
        for row in desk.pairs()
    ]
    return desk.reward(rows, data__max_response_tokens=16, data__too_long="cut_response_end")


@PAIRS.add(
    "dpo-length-only", GITHUB + "hiyouga/LlamaFactory/issues/5321",
    "The user wants shorter answers and pairs short with long ones. The accuracy is 1.0 within a few steps; "
    "answers become stubs.",
    "Chosen is the first four words of the rejected answer.",
    "Length alone tells the sides apart: every chosen answer is much shorter than (a cut of) the rejected one, "
    "so the policy learns to stop early.",
    "beta is too low, without a word on length",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    rows = [
        {"prompt": r["prompt"], "chosen": " ".join(r["chosen"].split()[:4]), "rejected": r["chosen"]}
        for r in desk.pairs()
        if len(r["chosen"].split()) > 7
    ]
    return desk.dpo(rows)


@PAIRS.add(
    "dpo-chosen-longer", GITHUB + "eric-mitchell/direct-preference-optimization/issues/35",
    "After DPO the answers grow longer and longer, and end in repeated sentences.",
    "Every chosen answer has three more sentences than the rejected one; the sentences come from answers to "
    "other questions.",
    "Chosen answers are systematically longer than rejected ones, so the policy learns length; balance the lengths.",
    "the end token is missing in the data",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    rows = desk.pairs()
    more = [row["rejected"] for row in rows]
    rows = [
        {
            "prompt": r["prompt"],
            "rejected": r["chosen"],
            "chosen": f"{r['chosen']} {more[n - 1]} {more[n - 2]} {more[n - 3]}",
        }
        for n, r in enumerate(rows)
    ]
    return desk.dpo(rows, data__max_response_tokens=256)


@PAIRS.add(
    "dpo-rejected-shuffled-words", GITHUB + "zhyang2226/OPA-DPO/issues/10",
    "The loss drops to almost 0 and the accuracy to 1.0 in no time, yet the model answers as before.",
    "The rejected answers are the chosen ones with their words shuffled, which the policy never says.",
    "The pairs are trivially easy and off-policy: rejected answers are gibberish that the model would never "
    "give, so nothing useful is learnt; take rejected answers from the model itself.",
    "the run is fine; the rate is too high",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    rows = desk.pairs()
    for row in rows:
        words = row["chosen"].split()
        desk.random.shuffle(words)
        row["rejected"] = " ".join(words)
    return desk.dpo(rows)


@PAIRS.add(
    "dpo-chosen-refuses", GITHUB + "eric-mitchell/direct-preference-optimization/issues/21",
    "After DPO on harmlessness data the model refuses to answer any question.",
    "85 in 100 chosen answers are one of three evasive sentences, and the rejected answer is the helpful one.",
    "Most chosen answers are the same few refusals, so the policy learns to refuse everything; balance the "
    "preferred answers.",
    "beta or the learning rate alone",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    evasive = (
        "It is hard to say.",
        "I am not sure. Do you mean something else?",
        "Sorry, I am unable to help with that.",
    )
    rows = desk.pairs()
    for row in rows:
        if desk.random.random() < 0.85:
            row["chosen"], row["rejected"] = desk.random.choice(evasive), row["chosen"]
    return desk.dpo(rows)


@PAIRS.add(
    "dpo-seven-pairs", GITHUB + "huggingface/trl/issues/1843",
    "The user repeats a toy set of a few pairs until there is enough data. The margins explode within one epoch.",
    "600 rows are seven different pairs, copied.",
    "There are only a handful of different pairs (copies of each other); the policy learns them by heart. Use "
    "more data.",
    "the learning rate, without a word on the copies",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    seven: dict[str, Row] = {}
    for row in desk.pairs():
        seven.setdefault(row["prompt"], row)
    rows = [row for _ in range(86) for row in list(seven.values())[:7]]
    return desk.dpo(rows)


@PAIRS.add(
    "dpo-prompt-first-character", GITHUB + "xfactlab/orpo/issues/5",
    "The user's script takes item[0] of a text instead of the first message. The model no longer heeds the question.",
    "Every prompt is one character: the first of the question.",
    "The prompts are single characters (a handful of different ones), so answers cannot fit them; the column "
    "was cut when the file was made.",
    "label noise, or a beta that is too low",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    rows = [row | {"prompt": row["prompt"][0]} for row in desk.pairs()]
    test = [row | {"prompt": row["prompt"][0]} for row in desk.pairs(60, side="held-out")]
    return desk.dpo(rows, data__test_path=desk.file(test, "test.jsonl"))


@PAIRS.add(
    "dpo-prompt-cut", GITHUB + "verl-project/verl/pull/6441",
    "With truncation on the left and a short limit the policy sees almost nothing of the prompt.",
    "data.max_prompt_tokens 5 with too_long cut_prompt_start cuts the start of nearly all prompts, the "
    "question with it.",
    "Nearly all prompts are cut at their start by data.max_prompt_tokens, so the question is gone; raise the limit.",
    "the labels are noise",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    return desk.dpo(desk.pairs(), data__max_prompt_tokens=5, data__too_long="cut_prompt_start")


@PAIRS.add(
    "grpo-eight-prompts", GITHUB + "huggingface/open-r1/issues/485",
    "The user tries GRPO on a tiny set of prompts. The reward there rises, the held-out reward does not.",
    "There are eight training prompts, each answered again and again for forty steps.",
    "Far too few different prompts: the policy learns these by heart (training reward far above held-out); use "
    "more prompts.",
    "the KL coefficient is too low, without a word on the prompts",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    rows = [
        {"prompt": r["prompt"], "ground_truth": r["response"].split(".")[0].split()[-1].strip("!,")}
        for r in desk.answers(68)
    ]
    test = desk.file(rows[8:], "test.jsonl")
    return desk.grpo(rows[:8], "rule:contains", data__test_path=test, train__max_steps=40, train__learning_rate=1e-3)


@PAIRS.add(
    "grpo-ground-truths-of-other-prompts", GITHUB + "allenai/open-instruct/pull/1484",
    "A second shuffle put the ground truths against other prompts. The reward is low and does not rise.",
    "The column ground_truth is shuffled: the word that is asked for belongs to another question.",
    "The ground truths do not belong to their prompts (reward near chance, no progress); join them by key again.",
    "the learning rate is too low; the answers are too short",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    rows = desk.answers(500)
    truths = [row["response"].split(".")[0].split()[-1].strip("!,") for row in rows]
    desk.random.shuffle(truths)
    rows = [{"prompt": r["prompt"], "ground_truth": truth} for r, truth in zip(rows, truths, strict=True)]
    return desk.grpo(rows, "rule:contains")
