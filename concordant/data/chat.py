"""From messages to token ids and masks: the one path for every stage.

The prompt is the text that the tokenizer's chat template renders with the assistant's turn opened. An answer is what
the template's rendering of the whole dialogue has after that prompt, up to the token that ends the turn: an empty
thought, a channel's name or a space that the template writes belongs to it, and white space that the template trims
does not. Training, scoring and sampling therefore see the same ids. Where the rendering departs from the opened prompt,
the answer begins behind their last common token. Masks are made here and never guessed from ids later.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from concordant.config.names import TooLong
from concordant.core.errors import UserError
from concordant.core.trees import Branch, PromptTree
from concordant.data.records import Demonstration, Message, Pair, Tools
from concordant.data.stop_strings import before_stop
from concordant.data.template import DEFAULT_TEMPLATE, ChatTemplate, Dialogue, Refusal, refused
from concordant.data.tokens import ids_of, text_of

_OPENED_THOUGHT = re.compile(r"<(think\w*|thought|reason\w*)>\s*\Z")  # at the end of an opened prompt
_REASONS = 5  # of a template's refusals that are counted apart; a reason may quote its row


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
    first_dropped: dict[str, int] = field(default_factory=dict)  # by reason, the number of the first such record
    apart: int = 0  # answers whose rendering departs from the prompt that generation opens

    def drop(self, record: int, reason: str) -> None:
        self.dropped[reason] += 1
        self.first_dropped.setdefault(reason, record)


@dataclass(frozen=True, slots=True)
class _Turn:
    """An answer behind the ids that stand before it."""

    before: list[int]
    answer: list[int]
    apart: bool = False  # ``before`` is not all of the opened prompt


class ChatEncoder:
    """Encodes dialogues for one tokenizer.

    ``kind`` "causal": prompt as templated, response, end-of-turn. "encoder" (BERT and its kin):
    [CLS] prompt response [SEP], for models that read both ways and generate nothing.
    """

    def __init__(self, tokenizer: Any, limits: Limits | None = None, kind: str = "causal") -> None:
        self.tokenizer = tokenizer
        self.limits = limits or Limits()
        self.kind = kind
        self._template = ChatTemplate(tokenizer, kind)
        if kind == "causal" and self.template == DEFAULT_TEMPLATE and tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has neither an end-of-turn nor an EOS token, so no response could ever end")
        self._look_at_template()
        self._starts = {*self._first, tokenizer.bos_token_id} - {None}

    def _look_at_template(self) -> None:
        """What the template puts around an answer, learnt from a short dialogue."""
        question, content = Message("user", "Q"), "PROBE"
        self._template.learn_form()
        opened = self._template.example([question], open_turn=True)
        whole = self._template.example([question, Message("assistant", content)], open_turn=False)
        self._tail = whole.rpartition(content)[2]
        thought = _OPENED_THOUGHT.search(opened)
        self.opened_thought = thought.group() if thought else ""
        lead = whole[len(opened) :].partition(content)[0] if whole.startswith(opened) else ""
        self._lead_text = lead
        # What stands between the opened turn and the answer's own words: the name of a channel, or an empty thought. A
        # thought that the prompt has opened is no such thing, because rewards see it.
        self._lead = "" if thought else lead.strip()
        if self.kind == "encoder":
            self._first, self.end_id = [self.tokenizer.cls_token_id], self.tokenizer.sep_token_id
            self._after: int | None = None
        else:
            self._first = self._leading_bos(opened)
            self.end_id, self._after = self._end_of_turn()

    @property
    def template(self) -> str:
        """The chat template's source, arguments included."""
        return self._template.source

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a response: the template's end-of-turn and the tokenizer's EOS."""
        return tuple({i: None for i in (self.end_id, self.tokenizer.eos_token_id) if i is not None})

    def render(self, messages: Sequence[Message], tools: Tools = None) -> str:
        """The prompt's text, the assistant's turn opened. Raises UserError where the template refuses it."""
        (text,) = self._opened([(tuple(messages), tools)])
        if isinstance(text, Refusal):
            raise refused(messages, text)
        return text

    def text(self, ids: Sequence[int] | Tensor, stop_strings: Sequence[str] = (), begun: bool = False) -> str:
        """A sampled response as the content of an assistant message, which is how rewards see and score it.

        The end token and outer white space are left out. A thought that the prompt has opened gets its opening tag
        back, so that the text reads as data does. Of an answer in channels the last one is the text. The text ends
        before the first of ``stop_strings``; with ``begun`` also before what may become one.
        """
        spoken = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        if spoken and spoken[-1] in self.end_ids:  # not every end of turn is marked as special
            spoken = spoken[:-1]
        spoken, rest = before_stop(self.tokenizer, spoken, stop_strings, begun)
        if self._lead:
            _, lead, words = (text_of(self.tokenizer, spoken) + rest).rpartition(self._lead)
            if lead:
                return words.strip()
        text = (text_of(self.tokenizer, spoken, skip_special_tokens=True) + rest).strip()
        return f"{self.opened_thought}{text}" if self.opened_thought and text else text

    def refusals(self, dialogues: Sequence[Dialogue]) -> list[str | None]:
        """Why each prompt cannot be sampled from, None where nothing is wrong."""
        return [text.why if isinstance(text, Refusal) else None for text in self._opened(dialogues)]

    # -- records to trees -----------------------------------------------------------------------

    def prompts(self, prompts: Sequence[Sequence[Message]], tools: Sequence[Tools] | None = None) -> list[Tensor]:
        """Ids of each prompt, cut at its start where it is longer than the limit (sampling must go on).

        Raises UserError for a prompt that the template refuses: ``refusals`` names them beforehand.
        """
        texts = self._opened(_with_tools(prompts, tools))
        for messages, text in zip(prompts, texts, strict=True):
            if isinstance(text, Refusal):
                raise refused(messages, text)
        ids = self._tokenize([text for text in texts if isinstance(text, str)], first=True)
        return [torch.tensor(self._cut_start(one, self.limits.prompt)) for one in ids]

    def trees(
        self,
        prompts: Sequence[Sequence[Message]],
        responses: Sequence[Sequence[str]],
        tools: Sequence[Tools] | None = None,
    ) -> Encoded:
        """One tree a prompt, a branch a response. All its branches are kept or none."""
        flat = [
            ((*messages, Message("assistant", response)), listed)
            for (messages, listed), rs in zip(_with_tools(prompts, tools), responses, strict=True)
            for response in rs
        ]
        turns, encoded, at = self._turns(flat), Encoded(), 0
        for record, rs in enumerate(responses):
            made = turns[at : at + len(rs)]
            at += len(rs)
            if spoken := self._taken(encoded, record, made):
                trunk = min((turn.before for turn in spoken), key=len)
                # A branch may begin with the rest of its own prompt, which generation would not produce.
                branches = [
                    (turn.before[len(trunk) :] + turn.answer, len(turn.before) - len(trunk), len(turn.answer))
                    for turn in spoken
                ]
                self._add(encoded, record, trunk, [(ids, [False] * n + [True] * m) for ids, n, m in branches])
        return encoded

    def pairs(self, pairs: Sequence[Pair]) -> Encoded:
        """One tree a pair: the first branch is the chosen response, the second the rejected."""
        return self.trees([p.prompt for p in pairs], [(p.chosen, p.rejected) for p in pairs], [p.tools for p in pairs])

    def demonstrations(self, demonstrations: Sequence[Demonstration]) -> Encoded:
        """One tree a dialogue, every assistant turn from ``first_response`` on masked as response.

        Where the template rewrites earlier turns when later ones follow, each turn is a tree of its own.
        """
        turns = self._turns([(d.messages[: i + 1], d.tools) for d in demonstrations for i in _spoken(d)])
        encoded, at = Encoded(), 0
        for record, d in enumerate(demonstrations):
            made = turns[at : at + len(_spoken(d))]
            at += len(made)
            for before, ids, mask in _joined(self._taken(encoded, record, made)):
                self._add(encoded, record, before, [(ids, mask)])
        return encoded

    def _taken(self, encoded: Encoded, record: int, turns: Sequence[_Turn | Refusal]) -> list[_Turn]:
        """The turns of a record, none where the template refuses one of them; the books are kept in ``encoded``."""
        spoken = [turn for turn in turns if isinstance(turn, _Turn)]
        encoded.apart += sum(turn.apart for turn in spoken)
        for turn in turns:
            if isinstance(turn, Refusal):
                reason = f"the chat template refuses it ({turn.why})"
                known = [known for known in encoded.dropped if known.startswith("the chat template refuses")]
                if reason not in known and len(known) >= _REASONS:
                    reason = "the chat template refuses it (other reasons)"
                encoded.drop(record, reason)
                return []
        return spoken

    def _add(
        self, encoded: Encoded, record: int, prompt: list[int], branches: list[tuple[list[int], list[bool]]]
    ) -> None:
        limits = self.limits
        if len(prompt) > limits.prompt:
            if limits.too_long != "cut_prompt_start":
                encoded.drop(record, "prompt too long")
                return
            prompt = self._cut_start(prompt, limits.prompt)
        if max(len(ids) for ids, _ in branches) > limits.response:
            if limits.too_long != "cut_response_end":
                encoded.drop(record, "response too long")
                return
            branches = [self._cut_end(ids, mask) for ids, mask in branches]
        room = limits.total - max(len(ids) for ids, _ in branches)
        if len(prompt) > room:
            if limits.too_long != "cut_prompt_start" or room < 1:
                encoded.drop(record, "longer than the model reads")
                return
            prompt = self._cut_start(prompt, room)
        if not all(any(mask) for _, mask in branches):
            encoded.drop(record, "nothing left to learn")
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
        """Ids of each text; templates bring their own special tokens, so none is added but ``first``."""
        unique = list(dict.fromkeys(texts))
        ids = dict(zip(unique, ids_of(self.tokenizer, unique), strict=True))
        return [(self._first if first else []) + ids[t] for t in texts]

    def _turns(self, dialogues: Sequence[Dialogue]) -> list[_Turn | Refusal]:
        """The last message of each dialogue, an answer, as the template renders it behind the opened prompt."""
        turns: dict[int, _Turn | Refusal] = {}
        numbers = []
        for i, (messages, _) in enumerate(dialogues):
            if len(messages) > 1:
                numbers.append(i)
            else:
                turns[i] = self._plain(messages[0].content)
        opened = self._opened([(dialogues[i][0][:-1], dialogues[i][1]) for i in numbers])
        whole = self._template.render([dialogues[i] for i in numbers], open_turn=False)
        rendered: list[tuple[int, str, str]] = []
        for i, start, text in zip(numbers, opened, whole, strict=True):
            if isinstance(start, Refusal):
                turns[i] = start
            elif isinstance(text, Refusal):
                turns[i] = text
            else:
                rendered.append((i, start, self._without_tail(text)))
        start_ids = self._tokenize([start for _, start, _ in rendered], first=True)
        text_ids = self._tokenize([text for _, _, text in rendered], first=True)
        for (i, start, text), before, ids in zip(rendered, start_ids, text_ids, strict=True):
            common = _common(before, ids)
            if common == len(before):
                turns[i] = _Turn(before, self._ended(ids[common:]))
            elif text.startswith(start):
                # A token spans the border. The policy continues from exactly the prompt's ids.
                turns[i] = _Turn(before, self._ended(self._tokenize([text[len(start) :]])[0]))
            elif self._keeps_question(dialogues[i], text):
                turns[i] = _Turn(ids[:common], self._ended(ids[common:]), apart=True)
            else:
                turns[i] = _Turn(before, self._ended(self._tokenize([self._words(dialogues[i], text)])[0]))
        return [turns[i] for i in range(len(dialogues))]

    def _keeps_question(self, dialogue: Dialogue, text: str) -> bool:
        """False where the template writes the question otherwise when an answer follows.

        Some templates put the system message into the last turn alone, or write the last turn alone.
        """
        messages, tools = dialogue
        (question,) = self._template.render([(messages[:-1], tools)], open_turn=False)
        return isinstance(question, str) and text.startswith(question)

    def _words(self, dialogue: Dialogue, text: str) -> str:
        """The answer's part of a rendered dialogue, found by rendering another answer beside it."""
        messages, tools = dialogue
        other = (*messages[:-1], Message("assistant", "\N{OBJECT REPLACEMENT CHARACTER}"))
        (beside,) = self._template.render([(other, tools)], open_turn=False)
        return self._lead_text + text[_common(text, str(beside)) :]

    def _plain(self, text: str) -> _Turn:
        """A text that answers nobody: it has no template, and its first token is all that stands before it."""
        (ids,) = ids_of(self.tokenizer, [text], special=True)
        end = self.tokenizer.eos_token_id if self.kind == "causal" else self.end_id
        end = self.end_id if end is None else end
        ids = ids if ids[-1:] == [end] else [*ids, end]
        return _Turn(ids[:1], ids[1:])

    def _opened(self, dialogues: Sequence[Dialogue]) -> list[str | Refusal]:
        return self._template.render(dialogues, open_turn=True)

    def _without_tail(self, text: str) -> str:
        """The text without what follows an answer, where no token of it ends the turn."""
        return text.removesuffix(self._tail) if self._after is None else text

    def _ended(self, ids: list[int]) -> list[int]:
        """The ids up to the token that ends the turn. What the template writes after it is never generated."""
        if self._after is not None and len(ids) > self._after and ids[-1 - self._after] == self.end_id:
            return ids[: len(ids) - self._after]
        return [*ids, self.end_id]

    def _end_of_turn(self) -> tuple[int, int | None]:
        """The token that ends a turn, and how many the template writes after it; None where it writes no such token."""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        (ids,) = ids_of(self.tokenizer, [self._tail])
        first = next((number for number, i in enumerate(ids) if i in special), None)
        if first is not None:
            # A template may close an answer by several tokens (Cohere 2). Generation then stops at EOS.
            closing = list(itertools.takewhile(special.__contains__, ids[first:]))
            eos = self.tokenizer.eos_token_id
            end = first + (closing.index(eos) if eos in closing else 0)
            return ids[end], len(ids) - end - 1
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has neither an end-of-turn nor an EOS token, so no response could ever end")
        return self.tokenizer.eos_token_id, None

    def _leading_bos(self, rendered: str) -> list[int]:
        """BOS where the tokenizer puts one before plain text and the template does not."""
        bos = self.tokenizer.bos_token_id
        if bos is None or ids_of(self.tokenizer, ["a"], special=True)[0][:1] != [bos]:
            return []
        return [] if ids_of(self.tokenizer, [rendered])[0][:1] == [bos] else [bos]


def _joined(turns: Sequence[_Turn]) -> list[tuple[list[int], list[int], list[bool]]]:
    """(trunk, branch, mask) of a dialogue's answers.

    One of the whole dialogue where each answer stands behind all the ids so far, so that a later answer is learnt
    behind the very ids that it will be sampled behind; otherwise one of each answer.
    """
    if not turns:
        return []
    so_far = list(turns[0].before)
    mask: list[bool] = []
    for turn in turns:
        if turn.before[: len(so_far)] != so_far:
            return [(t.before, t.answer, [True] * len(t.answer)) for t in turns]
        mask += [False] * (len(turn.before) - len(so_far)) + [True] * len(turn.answer)
        so_far = turn.before + turn.answer
    return [(turns[0].before, so_far[len(turns[0].before) :], mask)]


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many ids, or letters, two rows have in common at their start."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)


def _with_tools(prompts: Sequence[Sequence[Message]], tools: Sequence[Tools] | None) -> list[Dialogue]:
    return list(zip(map(tuple, prompts), tools or [None] * len(prompts), strict=True))


def _spoken(d: Demonstration) -> list[int]:
    """Numbers of the messages that are learnt."""
    return [i for i in range(d.first_response, len(d.messages)) if d.messages[i].role == "assistant"]
