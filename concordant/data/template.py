"""From messages to text: the tokenizer's chat template, with its arguments, and with limits on what it may do.

A template is a program that comes with a model. It may refuse a dialogue, run for ever, write without end, or print
today's date. A refusal belongs to one row and is returned. The other three stop the command with an error that names
the template, because a run that goes on would train on something that nobody asked for.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta
import yaml

from concordant.core.errors import UserError, nearest
from concordant.core.time_limit import at_most
from concordant.data.records import Message, Tools

# Tokenizers without a template get HH-RLHF's own form, and an end-of-text token after each answer.
DEFAULT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '\n\nHuman: ' + m.content }}"
    "{% elif m.role == 'tool' %}{{ '\n\nTool: ' + m.content }}"
    "{% else %}{{ '\n\nAssistant: ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
ENCODER_TEMPLATE = DEFAULT_TEMPLATE.replace(" + eos_token", "").replace("\n\n", "\\n")

DATE = "date"  # the argument that says which day a template prints as today
SECONDS = 10.0  # for AT_ONCE dialogues, which take some milliseconds
AT_ONCE = 200
LONGEST, GROWTH = 1_000_000, 50  # a text may have so many characters, and so many for each character of its dialogue
_TODAY = "strftime_now"  # the function by which templates ask for the day
_DAY = "concordant_day"  # the variable by which a template knows that its day is fixed
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", _TODAY}
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
_NO_DATE = (
    "the chat template prints today's date, so the same command would train on other prompts tomorrow. Fix the day "
    "with --data.template_args date=YYYY-MM-DD (the exported model keeps it), or write it into chat_template.jinja"
)
# What templates raise on a dialogue that they were not written for.
_REFUSALS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)

Dialogue = tuple[tuple[Message, ...], Tools]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the template does not take a dialogue."""

    why: str


class ChatTemplate:
    """Renders dialogues with the template of one tokenizer, or with the default one for its kind of model."""

    def __init__(self, tokenizer: Any, kind: str = "causal") -> None:
        self.tokenizer = tokenizer
        self.source = own_template(tokenizer) or (DEFAULT_TEMPLATE if kind == "causal" else ENCODER_TEMPLATE)
        # Each prelude ends in a line break, which Jinja removes after a block. The template's own text is untouched.
        asks = _TODAY in self.source
        complaint = "{{ raise_exception(" + json.dumps(_NO_DATE) + ") }}"
        self._guarded = (
            f"{{% macro {_TODAY}(format) %}}{complaint}{{% endmacro %}}\n{self.source}" if asks else self.source
        )
        self._dated = _with_date(self.source, datetime.date(2000, 1, 1)) if asks else self.source

        self._in_parts = False

    def learn_form(self) -> None:
        """Find out whether the template reads a message's content as text or, as those of some models that see
        pictures do, as a list of parts. Raises UserError where no answer's words come through."""
        dialogue = (Message("user", "Q"), Message("assistant", "PROBE"))
        complaints = []
        for self._in_parts in (False, True):
            try:
                if "PROBE" in self.example(dialogue, open_turn=False):
                    return
                complaints.append("the chat template leaves out the assistant's words, so no answer can be learnt")
            except UserError as error:
                complaints.append(str(error))
        raise UserError(complaints[0])

    def render(self, dialogues: Sequence[Dialogue], open_turn: bool) -> list[str | Refusal]:
        """The text of each dialogue. ``open_turn``: with the beginning of an answer at its end."""
        keys = [(messages, json.dumps(tools, default=str) if tools else "") for messages, tools in dialogues]
        unique = dict(zip(keys, dialogues, strict=True))
        texts: dict[Any, str | Refusal] = {}
        waiting = list(unique.items())
        for start in range(0, len(waiting), AT_ONCE):
            part = waiting[start : start + AT_ONCE]
            complaint = (
                f"the chat template takes more than {SECONDS:g} s for {len(part)} dialogues; it may run for ever. "
                "Look at chat_template.jinja in the model's folder"
            )
            with at_most(SECONDS, complaint):
                texts |= {key: self._one(messages, tools, open_turn) for key, (messages, tools) in part}
        return [texts[key] for key in keys]

    def example(self, messages: Sequence[Message], open_turn: bool) -> str:
        """The text of a dialogue that is never learnt, so its date does not matter. Raises UserError on a refusal."""
        with at_most(SECONDS, f"the chat template takes more than {SECONDS:g} s for a short dialogue"):
            text = self._one(tuple(messages), None, open_turn, self._dated)
        if isinstance(text, Refusal):
            raise refused(messages, text)
        return text

    def _one(self, messages: tuple[Message, ...], tools: Tools, open_turn: bool, template: str = "") -> str | Refusal:
        rows: list[dict[str, Any]] = [_as_row(m) for m in messages]
        ways = [rows]
        if len(rows) > 1 and rows[0]["role"] == "system":
            # Templates without a system role (Gemma) get its text at the beginning of the first turn.
            ways.append([{**rows[1], "content": f"{rows[0]['content']}\n\n{rows[1]['content']}"}, *rows[2:]])
        refusal = Refusal("")
        for way in ways:
            try:
                text = self.tokenizer.apply_chat_template(
                    _parts(way) if self._in_parts else way,
                    tools=list(tools) if tools else None,
                    chat_template=template or self._guarded,
                    tokenize=False,
                    add_generation_prompt=open_turn,
                )
            except _REFUSALS as error:
                if _NO_DATE in str(error):
                    raise UserError(_NO_DATE) from error
                refusal = Refusal(_first_line(error))
                continue
            except (MemoryError, RecursionError) as error:
                raise UserError(f"the chat template needs too much memory: {type(error).__name__}") from error
            given = sum(len(m.content) + len(m.reasoning_content) for m in messages) + len(str(tools))
            if len(text) > LONGEST + GROWTH * given:
                raise UserError(
                    f"the chat template makes {len(text):,} characters of a dialogue of {given:,}; expected at most "
                    f"{LONGEST:,} and {GROWTH} for each of them. Look at chat_template.jinja in the model's folder"
                )
            return text
        return refusal


def refused(messages: Sequence[Message], refusal: Refusal) -> UserError:
    """The error for a dialogue that cannot be left out."""
    return UserError(f"the chat template refuses a dialogue of {[m.role for m in messages]}: {refusal.why}")


def own_template(tokenizer: Any) -> str | None:
    """The tokenizer's chat template; of several named ones the default."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def prints_today(tokenizer: Any) -> bool:
    """True where the template asks for the day, and no argument has fixed it."""
    template = own_template(tokenizer) or ""
    return _TODAY in template and _DAY not in template


def set_arguments(tokenizer: Any, arguments: Sequence[str]) -> None:
    """Write ``name=value`` texts into the tokenizer's chat template, where they hold for all that renders with it.

    The exported model has the same template, so its evaluation, its reward model and other tools render alike. A value
    that a caller gives to the template itself still wins. Raises UserError for a name that the template does not read.
    """
    if not arguments:
        return
    source = own_template(tokenizer)
    if source is None:
        raise UserError("data.template_args: the tokenizer has no chat template that could read them")
    template = _with_arguments(source, parse_arguments(arguments))
    known = tokenizer.chat_template
    tokenizer.chat_template = {**known, "default": template} if isinstance(known, dict) else template


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Values by name. A value is read as YAML: false and 3 are what they look like, all else is text."""
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.isidentifier() or name in _GIVEN:
            raise UserError(f'data.template_args: "{argument}" is not NAME=VALUE, e.g. enable_thinking=false')
        if name in values:
            raise UserError(f'data.template_args: "{name}" is given twice')
        values[name] = text if name == DATE else _scalar(text)
    return values


def _scalar(text: str) -> str | int | float | bool | None:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return value if isinstance(value, str | int | float | bool | None) else text


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise UserError(f'data.template_args: "date={text}": expected date=YYYY-MM-DD') from None


def _with_arguments(source: str, values: Mapping[str, Any]) -> str:
    read = jinja2.meta.find_undeclared_variables(_parsed(source)) - _GIVEN | ({DATE} if _TODAY in source else set())
    for name in values:
        if name not in read:
            raise UserError(
                f'data.template_args: the chat template reads no "{name}".{nearest(name, read)} '
                f"It reads {', '.join(sorted(read)) or 'no argument'}"
            )
    for name, value in values.items():
        if name == DATE and _TODAY in source:
            source = _with_date(source, _day(str(value)))
        else:
            literal = "none" if value is None else json.dumps(value, ensure_ascii=False)
            source = f"{{% if {name} is not defined %}}{{% set {name} = {literal} %}}{{% endif %}}\n{source}"
    return source


def _with_date(source: str, day: datetime.date) -> str:
    """The template with a function of its own for the day, in Jinja alone: other tools run it too."""
    filled = "format"
    for letter in "aAbBdjmyY":
        filled += f" | replace('%{letter}', '{day.strftime('%' + letter)}')"
    for letter in "HMS":
        filled += f" | replace('%{letter}', '00')"
    # The first of several dates holds, so that a template which has a day already can be given another one.
    macro = f"{{% macro {_TODAY}(format) %}}{{{{ {filled} }}}}{{% endmacro %}}"
    return f"{{% if {_DAY} is not defined %}}{{% set {_DAY} = '{day}' %}}{macro}{{% endif %}}\n{source}"


def _parsed(source: str) -> jinja2.nodes.Template:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    try:
        return environment.parse(_GENERATION.sub("", source))  # a tag of transformers' own
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template cannot be read: {_first_line(error)}") from error


def _as_row(message: Message) -> dict[str, str]:
    row: dict[str, str] = {"role": message.role, "content": message.content}
    if message.reasoning_content:
        row |= {"reasoning_content": message.reasoning_content, "thinking": message.reasoning_content}
    return row


def _parts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "content": [{"type": "text", "text": row["content"]}]} for row in rows]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:100]
