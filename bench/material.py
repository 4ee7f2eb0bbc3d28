"""What both sides are given: pairs as texts and ids, a tokenizer, random weights. Made once, in bench/.material.

The pairs are HH-RLHF's where ``shared/data`` lies beside this checkout, or $CONCORDANT_DATA says where it is; else they
are made of random words with the same lengths.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from bench.turns import ROOT
from concordant.config.data import DataConfig
from concordant.core.seeding import python_stream
from concordant.core.trees import Branch, PromptTree
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message, Pair
from concordant.data.splits import load_records
from concordant.data.tokenizer import train_tokenizer

FOLDER = ROOT / "bench" / ".material"
VOCABULARY, LONGEST = 8_192, 512  # tokens
# Words of HH-RLHF's prompts and answers at these shares of harmless-base's rows.
SHARES = (0.0, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 1.0)
PROMPT_WORDS = (3, 8, 10, 20, 64, 118, 193, 320)
ANSWER_WORDS = (1, 4, 6, 12, 27, 52, 81, 160)


def hh_file() -> Path | None:
    """HH-RLHF's pairs on this machine."""
    for folder in (os.environ.get("CONCORDANT_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (path := Path(folder) / "hh-rlhf" / "harmless-base.jsonl.gz").is_file():
            return path
    return None


def pairs() -> list[Pair]:
    path = hh_file()
    if path is None:
        return _synthetic(1800)
    loaded = load_records(DataConfig(path=str(path)), Pair, seed=0)
    return loaded.train + loaded.test


def _synthetic(count: int) -> list[Pair]:
    stream = python_stream(0, "bench/pairs")
    letters = "etaoinshrdlu"
    words = ["".join(stream.choices(letters, k=stream.randint(2, 9))) for _ in range(6_000)]

    def text(lengths: tuple[int, ...], share: float) -> str:
        above = next(i for i, s in enumerate(SHARES) if s >= share) or 1
        part = (share - SHARES[above - 1]) / (SHARES[above] - SHARES[above - 1])
        length = round(lengths[above - 1] + part * (lengths[above] - lengths[above - 1]))
        return " ".join(words[int(len(words) * stream.random() ** 3)] for _ in range(max(1, length)))

    return [
        Pair(
            (Message("user", text(PROMPT_WORDS, stream.random())),),
            text(ANSWER_WORDS, stream.random()),
            text(ANSWER_WORDS, stream.random()),
        )
        for _ in range(count)
    ]


def make() -> Path:
    """The folder; made where it is not there, or where the data is another."""
    source = str(hh_file() or "synthetic")
    stamp = FOLDER / "source.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == source:
        return FOLDER
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = pairs()
    texts = [m.content for p in found for m in p.prompt] + [t for p in found for t in (p.chosen, p.rejected)]
    tokenizer = train_tokenizer(texts, VOCABULARY)
    _write_rows(found, tokenizer)
    _write_models(tokenizer)
    stamp.write_text(source, encoding="utf-8")
    return FOLDER


def _write_rows(found: list[Pair], tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = ChatEncoder(tokenizer)
    encoded = encoder.pairs(found)
    rows = []
    for number, tree in zip(encoded.record, encoded.trees, strict=True):
        chosen, rejected = (b.ids_T.tolist() for b in tree.branches)
        prompt = tree.prompt_T.tolist()
        if len(prompt) + max(len(chosen), len(rejected)) <= LONGEST:
            pair = found[number]
            rows.append(
                {
                    "messages": [[m.role, m.content] for m in pair.prompt],
                    "prompt": encoder.render(pair.prompt),
                    "chosen": pair.chosen,
                    "rejected": pair.rejected,
                    "prompt_ids": prompt,
                    "chosen_ids": chosen,
                    "rejected_ids": rejected,
                }
            )
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (FOLDER / "pairs.jsonl").write_text(text, encoding="utf-8")


def _write_models(tokenizer: PreTrainedTokenizerFast) -> None:
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    llama = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=4096, tie_word_embeddings=True, **ends,
    )  # fmt: skip
    gpt2 = GPT2Config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **ends)
    made: list[tuple[str, PretrainedConfig, type, type]] = [
        ("llama", llama, LlamaForCausalLM, LlamaForSequenceClassification),
        ("gpt2", gpt2, GPT2LMHeadModel, GPT2ForSequenceClassification),
    ]
    for name, config, language_model, classifier in made:
        config.num_labels = 1
        for folder, kind in ((name, language_model), (f"{name}-reward", classifier)):
            torch.manual_seed(0)
            kind(config).save_pretrained(FOLDER / folder)
            tokenizer.save_pretrained(FOLDER / folder)


def rows(folder: Path, count: int) -> list[dict]:
    """The first ``count`` pairs, as often again as it takes."""
    with (folder / "pairs.jsonl").open(encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return [found[i % len(found)] for i in range(count)]


def messages_of(row: dict) -> tuple[Message, ...]:
    return tuple(Message(role, content) for role, content in row["messages"])


def tree(row: dict) -> PromptTree:
    """Chosen, then rejected."""
    branches = tuple(Branch.response(row[f"{side}_ids"]) for side in ("chosen", "rejected"))
    return PromptTree(torch.tensor(row["prompt_ids"]), branches)
