"""From messages to token ids and masks: the one path for every stage.

The prompt is what the tokenizer's chat template renders with the assistant's turn opened; a response is its text
followed by the template's end-of-turn token. That is what the policy will be given and must produce when it samples,
so training, scoring and sampling see the same ids. Masks are made here and never guessed from ids later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import torch
from torch import Tensor

from concordant.config.names import TooLong
from concordant.core.errors import UserError
from concordant.core.trees import Branch, PromptTree
from concordant.data.records import Demonstration, Message, Pair

# For tokenizers that bring none: HH-RLHF's own form, and an end-of-text token where a turn of ours ends.
DEFAULT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '\n\nHuman: ' + m.content }}"
    "{% else %}{{ '\n\nAssistant: ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
_ENCODER_TEMPLATE = DEFAULT_TEMPLATE.replace(" + eos_token", "").replace("\n\n", "\\n")

TOO_LONG = ("drop", "cut_prompt_start", "cut_response_end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Tokens a prompt and a response may have, and what happens to longer ones."""

    prompt: int = 2**30
    response: int = 2**30
    total: int = 2**30  # of both together: what the model can read
    too_long: TooLong = "drop"


@dataclass(slots=True)
class Encoded:
    """Trees, the number of the record each came from, and what was left out."""

    trees: list[PromptTree] = field(default_factory=list)
    record: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


class ChatEncoder:
    """Encodes dialogues for one tokenizer.

    ``kind`` "causal": prompt as templated, response, end-of-turn. "encoder" (BERT and its kin):
    [CLS] prompt response [SEP], for models that read both ways and generate nothing.
    """

    def __init__(self, tokenizer: Any, limits: Limits | None = None, kind: str = "causal") -> None:
        self.tokenizer = tokenizer
        self.limits = limits or Limits()
        self.template = _own_template(tokenizer) or (DEFAULT_TEMPLATE if kind == "causal" else _ENCODER_TEMPLATE)
        self.kind = kind
        if kind == "causal" and self.template == DEFAULT_TEMPLATE and tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has neither an end-of-turn nor an EOS token, so no response could ever end")
        self._prefix, tail = self._probe()
        if kind == "encoder":
            self._first, self.end_id = [tokenizer.cls_token_id], tokenizer.sep_token_id
        else:
            self._first, self.end_id = self._leading_bos(), self._end_of_turn(tail)
        self._starts = {*self._first, tokenizer.bos_token_id} - {None}

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a response: the template's end-of-turn and the tokenizer's EOS."""
        return tuple({i: None for i in (self.end_id, self.tokenizer.eos_token_id) if i is not None})

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt's text, the assistant's turn opened."""
        return self._render(messages, open_turn=True)

    def text(self, ids: Sequence[int] | Tensor) -> str:
        """A response's text without its end token."""
        spoken = torch.as_tensor(ids).tolist()
        if spoken and spoken[-1] in self.end_ids:  # not every end of turn is marked as special
            spoken = spoken[:-1]
        return self.tokenizer.decode(spoken, skip_special_tokens=True).strip()

    # -- records to trees -----------------------------------------------------------------------

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[Tensor]:
        """Ids of each prompt, cut at its start where it is longer than the limit (sampling must go on)."""
        texts = self._render_each(prompts)
        return [torch.tensor(self._cut_start(ids, self.limits.prompt)) for ids in self._tokenize(texts, first=True)]

    def trees(self, prompts: Sequence[Sequence[Message]], responses: Sequence[Sequence[str]]) -> Encoded:
        """One tree a prompt, a branch a response. All its branches are kept or none."""
        texts = self._render_each(prompts)
        prompt_ids = self._tokenize(texts, first=True)
        flat = [(i, r) for i, rs in enumerate(responses) for r in rs]
        branch_ids = iter(self._continue([texts[i] for i, _ in flat], [prompt_ids[i] for i, _ in flat],
                                         [self._prefix + r for _, r in flat]))  # fmt: skip
        encoded = Encoded()
        for i, rs in enumerate(responses):
            branches = [next(branch_ids) + [self.end_id] for _ in rs]
            self._add(encoded, i, prompt_ids[i], [(ids, [True] * len(ids)) for ids in branches])
        return encoded

    def pairs(self, pairs: Sequence[Pair]) -> Encoded:
        """One tree a pair: the first branch is the chosen response, the second the rejected."""
        return self.trees([p.prompt for p in pairs], [(p.chosen, p.rejected) for p in pairs])

    def demonstrations(self, demonstrations: Sequence[Demonstration]) -> Encoded:
        """One tree a dialogue, every assistant turn from ``first_response`` on masked as response.

        Where the template rewrites earlier turns when later ones follow, each turn is a tree of its own.
        """
        flat = [(d.messages[:i], d.messages[i].content) for d in demonstrations for i in _spoken(d)]
        texts = self._render_each([before for before, _ in flat])
        prompts = self._tokenize(texts, first=True)
        answers = self._continue(texts, prompts, [self._prefix + content for _, content in flat])
        encoded, at = Encoded(), 0
        for record, d in enumerate(demonstrations):
            turns = slice(at, at + len(_spoken(d)))
            at = turns.stop
            for prompt, ids, mask in self._joined(prompts[turns], answers[turns]):
                self._add(encoded, record, prompt, [(ids, mask)])
        return encoded

    def _joined(
        self, prompts: Sequence[list[int]], answers: Sequence[list[int]]
    ) -> list[tuple[list[int], list[int], list[bool]]]:
        """(trunk, branch, mask) of a dialogue, whose answers are given with the ids of all that stands before them.

        One of the whole where every prompt begins with the ids so far, so that a later answer is learnt behind the
        very ids it will be sampled behind; else one an answer.
        """
        ended = [answer + [self.end_id] for answer in answers]
        so_far, mask = list(prompts[0]), [False] * len(prompts[0])
        for prompt, answer in zip(prompts, ended, strict=True):
            if prompt[: len(so_far)] != so_far:
                return [(p, a, [True] * len(a)) for p, a in zip(prompts, ended, strict=True)]
            mask += [False] * (len(prompt) - len(so_far)) + [True] * len(answer)
            so_far = prompt + answer
        trunk = len(prompts[0])
        return [(prompts[0], so_far[trunk:], mask[trunk:])]

    def _add(
        self, encoded: Encoded, record: int, prompt: list[int], branches: list[tuple[list[int], list[bool]]]
    ) -> None:
        limits = self.limits
        if len(prompt) > limits.prompt:
            if limits.too_long != "cut_prompt_start":
                encoded.dropped["prompt too long"] += 1
                return
            prompt = self._cut_start(prompt, limits.prompt)
        if max(len(ids) for ids, _ in branches) > limits.response:
            if limits.too_long != "cut_response_end":
                encoded.dropped["response too long"] += 1
                return
            branches = [self._cut_end(ids, mask) for ids, mask in branches]
        room = limits.total - max(len(ids) for ids, _ in branches)
        if len(prompt) > room:
            if limits.too_long != "cut_prompt_start" or room < 1:
                encoded.dropped["longer than the model reads"] += 1
                return
            prompt = self._cut_start(prompt, room)
        if not all(any(mask) for _, mask in branches):
            encoded.dropped["nothing left to learn"] += 1
            return
        made = tuple(Branch(torch.tensor(ids), torch.tensor(mask)) for ids, mask in branches)
        encoded.trees.append(PromptTree(torch.tensor(prompt), made))
        encoded.record.append(record)

    def _cut_start(self, ids: list[int], limit: int) -> list[int]:
        if len(ids) <= limit:
            return ids
        kept = ids[:1] if ids[0] in self._starts else []  # BOS or [CLS] stays, the template's own too
        return (kept + ids[len(ids) - limit + len(kept) :])[:limit]

    def _cut_end(self, ids: list[int], mask: list[bool]) -> tuple[list[int], list[bool]]:
        """What is cut has no end token: a truncated answer must not teach the policy to stop there.

        An encoder, which says nothing, reads [SEP] at the end of whatever it is given.
        """
        limit = self.limits.response
        if self.kind == "encoder" and len(ids) > limit:
            return ids[: limit - 1] + [self.end_id], mask[:limit]
        return ids[:limit], mask[:limit]

    # -- the tokenizer --------------------------------------------------------------------------

    def _tokenize(self, texts: Sequence[str], first: bool = False) -> list[list[int]]:
        """Ids of each text; templates bring their own special tokens, so none is added but ``first``.

        Not ``verbose``: a text longer than the model reads is cut or dropped by the limits, whoever warns of it.
        """
        if not texts:
            return []
        unique = list(dict.fromkeys(texts))
        ids = dict(
            zip(unique, self.tokenizer(unique, add_special_tokens=False, verbose=False)["input_ids"], strict=True)
        )
        return [(self._first if first else []) + list(ids[t]) for t in texts]

    def _continue(
        self, before: Sequence[str], before_ids: Sequence[list[int]], texts: Sequence[str]
    ) -> list[list[int]]:
        """Ids of each text as it continues the one before.

        Where the ids of the whole begin with the ids of the part, the rest is taken; else (a token spans the
        border) the text is encoded alone, because the policy continues from exactly the prompt's ids.
        """
        whole = self._tokenize([b + t for b, t in zip(before, texts, strict=True)], first=True)
        fits = [w[: len(b)] == b for w, b in zip(whole, before_ids, strict=True)]
        alone = iter(self._tokenize([t for t, fit in zip(texts, fits, strict=True) if not fit]))
        return [w[len(b) :] if fit else next(alone) for w, b, fit in zip(whole, before_ids, fits, strict=True)]

    def _render_each(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        """Each prompt's text; one that comes again is rendered once."""
        rendered = {p: self.render(p) for p in dict.fromkeys(map(tuple, prompts))}
        return [rendered[tuple(p)] for p in prompts]

    def _render(self, messages: Sequence[Message], open_turn: bool) -> str:
        rows = [{"role": m.role, "content": m.content} for m in messages]
        ways = [rows]
        if len(rows) > 1 and rows[0]["role"] == "system":
            # Templates without a system role (Gemma): its text opens the first turn.
            ways.append([{**rows[1], "content": f"{rows[0]['content']}\n\n{rows[1]['content']}"}, *rows[2:]])
        refused: jinja2.TemplateError | None = None
        for way in ways:
            try:
                return self._apply(way, open_turn)
            except jinja2.TemplateError as error:
                refused = error
        raise UserError(f"the chat template refuses a dialogue of {[m.role for m in messages]}: {refused}") from refused

    def _apply(self, rows: list[dict[str, str]], open_turn: bool) -> str:
        return self.tokenizer.apply_chat_template(
            rows, chat_template=self.template, tokenize=False, add_generation_prompt=open_turn
        )

    def _probe(self) -> tuple[str, str]:
        """What the template puts between the opened turn and the content, and after the content."""
        question, content = Message("user", "Q"), "PROBE"
        opened = self._render([question], open_turn=True)
        whole = self._render([question, Message("assistant", content)], open_turn=False)
        if not whole.startswith(opened):
            return "", whole.rpartition(content)[2]
        prefix, _, tail = whole[len(opened) :].partition(content)
        # A template that adds more than space (an empty thought, say) would put words in the policy's mouth.
        return (prefix if not prefix.strip() else ""), tail

    def _end_of_turn(self, tail: str) -> int:
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        for i in self.tokenizer(tail, add_special_tokens=False)["input_ids"]:
            if i in special:
                return i
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has neither an end-of-turn nor an EOS token, so no response could ever end")
        return self.tokenizer.eos_token_id

    def _leading_bos(self) -> list[int]:
        """BOS where the tokenizer puts one before plain text and the template does not."""
        bos = self.tokenizer.bos_token_id
        if bos is None or self.tokenizer("a")["input_ids"][:1] != [bos]:
            return []
        rendered = self.tokenizer(self.render([Message("user", "Q")]), add_special_tokens=False)["input_ids"]
        return [] if rendered[:1] == [bos] else [bos]


def _spoken(d: Demonstration) -> list[int]:
    """Numbers of the messages that are learnt."""
    return [i for i in range(d.first_response, len(d.messages)) if d.messages[i].role == "assistant"]


def _own_template(tokenizer: Any) -> str | None:
    """The tokenizer's chat template; of several named ones the default."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template
