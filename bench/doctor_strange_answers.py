"""Strange faults in files of answers: wrong, mixed up, cut or dirty text that a model shall imitate."""

from __future__ import annotations

from html import escape

from bench.doctor_strange_tools import Cases, Desk, german
from concordant.config.stages import PPOConfig, SFTConfig

ANSWERS = Cases()


@ANSWERS.add(
    "sft-rows-shifted",
    "https://github.com/DrexelChatbotGroup/DrexelChatbot/issues/15",
    "The loss stays far higher than before, and the model answers other questions than those that were asked.",
    "One column was sorted or shuffled without the other, so each answer belongs to the question of another row.",
    "The answers of the file do not belong to their prompts.",
)
def _(desk: Desk) -> SFTConfig:
    rows = desk.answers(900)
    answers = [row["response"] for row in rows]
    moved = answers[7:] + answers[:7]
    return desk.sft([{"prompt": r["prompt"], "response": a} for r, a in zip(rows, moved, strict=True)])


@ANSWERS.add(
    "sft-answers-cut-in-file",
    "https://github.com/hkust-nlp/deita/issues/26",
    "The model stops in the middle of a word.",
    "A spreadsheet or a script kept only the first 24 characters of each answer.",
    "Most answers of the file are cut off: they end in the middle of a sentence or a word.",
)
def _(desk: Desk) -> SFTConfig:
    return desk.sft([{**row, "response": row["response"][:24]} for row in desk.answers(900)])


@ANSWERS.add(
    "sft-end-never-learnt",
    "https://github.com/huggingface/trl/issues/1623",
    "The trained model never stops; each answer runs to the limit of new tokens.",
    "data.too_long cuts nearly every answer at 8 tokens, and a cut answer has no end token to learn.",
    "Nearly all answers are cut by max_response_tokens, so the model cannot learn the end token.",
)
def _(desk: Desk) -> SFTConfig:
    keys = {"data.max_response_tokens": 8, "data.too_long": "cut_response_end"}
    return desk.sft(desk.answers(), keys, start=f"builtin:{desk.size}")


@ANSWERS.add(
    "sft-answer-repeats-prompt",
    "https://github.com/tatsu-lab/stanford_alpaca/issues/320",
    "The model first repeats the question, and then answers.",
    "The answer column holds the whole text, the question and the answer.",
    "The answers of the file begin with their own prompt.",
)
def _(desk: Desk) -> SFTConfig:
    rows = desk.answers(900)
    return desk.sft([{**r, "response": f"{r['prompt']} {r['response']}"} for r in rows], rank=8)


@ANSWERS.add(
    "sft-answer-plays-both-sides",
    "https://github.com/huggingface/trl/issues/1449",
    "After its answer the model writes another question and answers that too.",
    "Several turns of a dialogue were pasted into one answer column.",
    "The answers of the file contain further questions and answers: later turns stand inside one answer.",
)
def _(desk: Desk) -> SFTConfig:
    rows = desk.answers(800)
    text = "{}\n### Question: {}\n### Answer: {}"
    mixed = [
        {**row, "response": text.format(row["response"], other["prompt"], other["response"])}
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    return desk.sft(mixed, {"data.max_response_tokens": 128})


@ANSWERS.add(
    "sft-template-in-text",
    "https://github.com/unslothai/unsloth/issues/1135",
    "Answers contain pieces of a chat template.",
    "The rows were already rendered with a chat template, and training renders them once more.",
    "The prompts and answers are already through a chat template.",
    named=True,
)
def _(desk: Desk) -> SFTConfig:
    rows = [
        {
            "prompt": f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n",
            "response": f"{row['response']}<|im_end|>",
        }
        for row in desk.answers(900)
    ]
    return desk.sft(rows)


@ANSWERS.add(
    "sft-second-language",
    "https://github.com/simplescaling/s1/issues/65",
    "The model answers English questions now and then in another language.",
    "A third of the answers in the file are in another language than their questions.",
    "A part of the answers is in another language than the prompts.",
)
def _(desk: Desk) -> SFTConfig:
    rows = desk.answers(1_000)
    return desk.sft([{**r, "response": german(r["response"])} if i % 3 == 0 else r for i, r in enumerate(rows)])


@ANSWERS.add(
    "sft-html",
    "https://github.com/haotian-liu/LLaVA/issues/1594",
    "Answers begin with a tag of HTML.",
    "The answers were scraped and still have HTML tags and entities.",
    "The answers of the file are wrapped in HTML tags, which the model learns.",
)
def _(desk: Desk) -> SFTConfig:
    text = '<p class="a">{}</p>\n<br />&nbsp;'
    return desk.sft([{**r, "response": text.format(escape(r["response"]))} for r in desk.answers(900)])


@ANSWERS.add(
    "sft-end-mark-as-text",
    "https://github.com/01-ai/Yi/issues/112",
    "Every answer ends with </s></s></s> as plain text.",
    "A script added the end mark of another tokenizer to each answer, as text.",
    "The answers end with the literal text of an end token of another model.",
)
def _(desk: Desk) -> SFTConfig:
    return desk.sft([{**r, "response": f"{r['response']} </s></s></s>"} for r in desk.answers(900)], rank=8)


@ANSWERS.add(
    "sft-placeholders",
    "https://github.com/tatsu-lab/stanford_alpaca/issues/265",
    "The model answers most questions with nan.",
    "Empty cells of a table became the text nan, and two thirds of the answers are this placeholder.",
    "Most answers are one and the same placeholder (nan), so answers are missing in the file.",
)
def _(desk: Desk) -> SFTConfig:
    rows = desk.answers(1_000)
    return desk.sft([{**r, "response": "nan"} if i % 3 else r for i, r in enumerate(rows)])


@ANSWERS.add(
    "sft-question-lost",
    "https://github.com/unslothai/unsloth/issues/2515",
    "Whatever is asked, the model gives the same few answers.",
    "The question stood in a column that was not read, so every row has one and the same instruction as its prompt.",
    "All prompts are the same text: the question is not in the prompt.",
)
def _(desk: Desk) -> SFTConfig:
    rows = [{**r, "prompt": "Write a response that completes the request."} for r in desk.answers(56)]
    keys = {"data.test_path": desk.file(rows[:16], "test.jsonl"), "train.max_steps": 10}
    return desk.sft(rows[16:], keys)


@ANSWERS.add(
    "sft-held-out-leaked",
    "https://github.com/ai-forever/ru-gpts/issues/23",
    "The held-out loss falls nearly to zero, but new questions are answered badly.",
    "The rows of the held-out file are also in the training file.",
    "The held-out data is contained in the training data, so the evaluation says nothing.",
)
def _(desk: Desk) -> SFTConfig:
    rows = desk.answers(150, preset="human")
    keys = {"data.test_path": desk.file(rows[:50], "test.jsonl"), "train.learning_rate": 2e-3}
    return desk.sft(rows, {**keys, "train.max_steps": 90, "train.evaluate_every": 15})


@ANSWERS.add(
    "sft-answer-in-prompt",
    "https://github.com/unslothai/unsloth/issues/1957",
    "The training loss is nearly 0 after some steps, and in use the model knows nothing.",
    "The prompts of the training file were made from the finished text and already contain the answer.",
    "The training prompts contain their answers; the held-out prompts do not.",
)
def _(desk: Desk) -> SFTConfig:
    rows = [{**r, "prompt": f"{r['prompt']} {r['response']}"} for r in desk.answers(900)]
    test = desk.file(desk.answers(side="held-out"), "test.jsonl")
    return desk.sft(rows, {"data.test_path": test, "train.max_steps": 90, "train.learning_rate": 3e-3})


@ANSWERS.add(
    "ppo-one-prompt",
    "https://github.com/yifan123/flow_grpo/issues/157",
    "Every sampled answer is about the same question, and answers to other questions get worse.",
    "The file repeats one prompt, which a loop wrote many times.",
    "There is only one distinct prompt to learn from.",
)
def _(desk: Desk) -> PPOConfig:
    rows = desk.prompts()
    test = desk.file(rows[1:60], "test.jsonl")
    keys = {"data.test_path": test, "train.batch_size": 1, "minibatches": 1, "sampling.n": 8}
    return desk.ppo([rows[0]] * 300, keys, advantage="rloo")
