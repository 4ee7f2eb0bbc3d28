"""What a tokenizer makes of a data file: lengths in tokens, and the findings that a run's preflight would show."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from concordant.config.data import DataConfig
from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder, Encoded, Limits
from concordant.data.records import Demonstration, Pair, Prompt, Rating, Record
from concordant.data.template import prints_today, set_arguments
from concordant.doctor.finding import Finding
from concordant.doctor.preflight_tokens import LOOKED_AT, check_tokens, spread


def look_at_tokens(records: Sequence[Record], tokenizer: Any) -> tuple[dict[str, str], list[Finding]]:
    """Facts and findings about at most ``LOOKED_AT`` records, with the limits that a run has by default."""
    if prints_today(tokenizer):
        set_arguments(tokenizer, [f"date={datetime.date.today()}"])
    limits = DataConfig()
    encoder = ChatEncoder(tokenizer, Limits(prompt=limits.max_prompt_tokens, response=limits.max_response_tokens))
    some = spread(records, LOOKED_AT)
    free = encode(ChatEncoder(tokenizer), some)
    facts = {
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
