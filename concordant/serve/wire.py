"""The bodies of requests and of answers, in the form of OpenAI's interface."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from concordant.config.sampling import SamplingConfig
from concordant.core.errors import UserError, nearest
from concordant.data.records import Message

MOST_ANSWERS = 128  # answers of one request
MOST_LIKELY = 20  # tokens that are listed beside a sampled one
# Keys that change nothing of an answer here.
IGNORED = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
)
# Keys that cannot act here, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1,),
}


class Wrong(Exception):
    """A request that cannot be served, with what OpenAI's clients need to know of it."""

    def __init__(self, status: int, message: str, *, kind: str = "", code: str = "", param: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code or None, param or None
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool | None = None


class Settings(BaseModel):
    """The keys that both kinds of requests have. Null means the default."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str = Field(max_length=1000)
    temperature: float | None = Field(None, ge=0, le=1e6)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=1e6)
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    min_tokens: int | None = Field(None, ge=0, lt=2**31)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def answers(self) -> int:
        return self.n or 1

    def check(self) -> None:
        """Raises Wrong for a key that would do nothing, and for stop strings that no text can meet."""
        for key, value in (self.model_extra or {}).items():
            if value is None or key in IGNORED or value in NEUTRAL.get(key, ()):
                continue
            if key in NEUTRAL:
                raise Wrong(400, f"{key} cannot act here; leave it out", param=key, code="unsupported_parameter")
            guess = nearest(key, type(self).model_fields)
            raise Wrong(400, f'unknown key "{key}".{guess}', param=key, code="unknown_parameter")
        if len(self.stops) > 16 or not all(0 < len(text) <= 1000 for text in self.stops):
            raise Wrong(400, "stop: expected at most 16 texts of 1 to 1000 characters", param="stop")
        for text in self.stops:
            whole(text, "stop")

    def sampling(self, room: int) -> SamplingConfig:
        return SamplingConfig(
            n=self.answers,
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=_or(self.top_k, 0),
            min_p=_or(self.min_p, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            min_new_tokens=min(_or(self.min_tokens, 0), room),
            max_new_tokens=room,
            stop_strings=self.stops,
        )


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: Literal["text"]
    text: str


class Turn(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None

    def message(self) -> Message:
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return Message("system" if self.role == "developer" else self.role, whole(text, "messages"))


class ChatRequest(Settings):
    messages: list[Turn] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LIKELY)

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def likely(self) -> int | None:
        """How many likely tokens are listed; None: no log-probs."""
        if self.top_logprobs and not self.logprobs:
            raise Wrong(400, "top_logprobs needs logprobs true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Settings):
    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=MOST_LIKELY)

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens or 16  # OpenAI's default

    @property
    def likely(self) -> int | None:
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        given = self.prompt
        if isinstance(given, str):
            return [whole(given, "prompt")]
        if not given or isinstance(given[0], int):
            return [given]  # type: ignore[list-item]  # one prompt in ids
        return [whole(p, "prompt") if isinstance(p, str) else p for p in given]


class ScoreRequest(BaseModel):
    """Texts, or dialogues that end with the assistant's answer."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, max_length=1000)
    input: str | list[str | list[Turn]]

    def texts(self) -> list[str | list[Message]]:
        items = [self.input] if isinstance(self.input, str) else self.input
        return [whole(i, "input") if isinstance(i, str) else [turn.message() for turn in i] for i in items]


def whole(text: str, param: str) -> str:
    """``text``; raises Wrong if it has half of a character, which no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Wrong(400, f"{param} has half of a Unicode character", param=param) from None
    return text


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def bad_input(problem: UserError, param: str = "") -> Wrong:
    return Wrong(400, str(problem), param=param)


def event(body: Mapping[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
