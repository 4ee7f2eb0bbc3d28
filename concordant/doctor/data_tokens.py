"""What a model's tokenizer makes of data: lengths in tokens, and the findings that a run's preflight would show."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder, Encoded, Limits
from concordant.data.convert import all_texts
from concordant.data.records import Demonstration, Pair, Prompt, Rating, Record
from concordant.data.template import prints_today, set_arguments
from concordant.doctor.finding import Finding
from concordant.doctor.looked_at import spread
from concordant.doctor.preflight_tokens import LOOKED_AT, check_tokens
from concordant.models import builtin
from concordant.models.backbone import positions_of
from concordant.models.load import base_of_adapter, load_config, load_tokenizer
from concordant.models.locate import is_adapter, locate
from concordant.models.reward_build import is_encoder_config


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenReader:
    """What is known of a model without its weights."""

    tokenizer: Any
    reads: int  # the longest dialogue, in tokens
    kind: str  # of ``ChatEncoder``


def token_reader(model: ModelConfig, records: Sequence[Record]) -> TokenReader:
    """The tokenizer of ``model`` and what the model reads. A built-in model's tokenizer is trained on ``records``."""
    if model.name.startswith("builtin:"):
        made, tokenizer = builtin.build(model.name.removeprefix("builtin:"), all_texts(records), seed=0)
        return TokenReader(tokenizer=tokenizer, reads=positions_of(made.config), kind="causal")
    place = locate(model.name)
    tokenizer = load_tokenizer(place, model.trust_remote_code)
    reads, kind = int(min(Limits().total, tokenizer.model_max_length)), "causal"
    if isinstance(place, Path) and not (place / "config.json").is_file():
        if not is_adapter(place):  # a tokenizer alone
            return TokenReader(tokenizer=tokenizer, reads=reads, kind=kind)
        place = base_of_adapter(place)
    config = load_config(place, model.trust_remote_code)
    kind = "encoder" if is_encoder_config(config) else kind
    return TokenReader(tokenizer=tokenizer, reads=min(reads, positions_of(config)), kind=kind)


def look_at_tokens(records: Sequence[Record], reader: TokenReader) -> tuple[dict[str, str], list[Finding]]:
    """Facts and findings about at most ``LOOKED_AT`` records, with the limits that a run has by default."""
    if prints_today(reader.tokenizer):
        set_arguments(reader.tokenizer, [f"date={datetime.date.today()}"])
    default = DataConfig()
    limits = Limits(prompt=default.max_prompt_tokens, response=default.max_response_tokens, total=reader.reads)
    encoder = ChatEncoder(reader.tokenizer, limits, reader.kind)
    some = spread(records, LOOKED_AT)
    free = encode(ChatEncoder(reader.tokenizer, kind=reader.kind), some)
    facts = {
        "the model reads": f"{reader.reads:,} tokens" if reader.reads < Limits().total else "dialogues of any length",
        "tokens of a prompt": _lengths([len(tree.prompt_T) for tree in free.trees]),
        "tokens of an answer": _lengths([len(b.ids_T) for tree in free.trees for b in tree.branches]),
    }
    return facts, check_tokens(encoder, encode(encoder, some), some)


def encode(encoder: ChatEncoder, records: Sequence[Record]) -> Encoded:
    """Trees of records of any kind. A prompt alone is a trunk without a branch."""
    made = Encoded()
    for record in records:
        match record:
            case Pair():
                one = encoder.pairs([record])
            case Demonstration():
                one = encoder.demonstrations([record])
            case Rating():
                one = encoder.trees([record.prompt], [[record.completion]], [record.tools])
            case Prompt():
                one = _prompt_alone(encoder, record)
        made.trees += one.trees
        made.dropped += one.dropped
        made.apart += one.apart
    return made


def _prompt_alone(encoder: ChatEncoder, record: Prompt) -> Encoded:
    (why,) = encoder.refusals([(record.messages, record.tools)])
    if why is not None:
        return Encoded(dropped=Counter({f"the chat template refuses it ({why})": 1}))
    return Encoded([PromptTree(encoder.prompts([record.messages], [record.tools])[0], ())])


def _lengths(lengths: Sequence[int]) -> str:
    if not lengths:
        return "none"
    return f"median {int(np.median(lengths)):,}, 99 % at most {int(np.quantile(lengths, 0.99, method='higher')):,}"
