"""``concordant generate``, ``chat`` and ``merge``: use a trained policy."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import indent

from concordant.algorithms.rewards import Answer
from concordant.config.checks import checked
from concordant.config.data import DataConfig
from concordant.config.stages import ChatConfig, GenerateConfig, MergeConfig
from concordant.core.errors import UserError, nearest
from concordant.core.seeding import derive
from concordant.core.visible import say, visible
from concordant.data.carried import NOTHING, Wanted
from concordant.data.chat import ChatEncoder, Limits
from concordant.data.convert import as_dict, prompt_of
from concordant.data.growing import GrowingText
from concordant.data.records import Message, Prompt
from concordant.data.template import prints_today, set_arguments
from concordant.engines import roles
from concordant.models.card import origin_of, short
from concordant.models.load import load_policy, save_policy
from concordant.runs.atomic import write_text
from concordant.runs.logs import json_lines
from concordant.runs.writable import check_file, check_folder
from concordant.stages import common
from concordant.stages.places import check_output_file

HELP = "/reset forgets what was said, /exit, an empty line or Ctrl-D ends, /help shows this."
COMMANDS = ("/reset", "/exit", "/quit", "/help")
_COMMAND = re.compile(r"/\w+")  # a line of one word; "/usr is a folder" and "/usr/bin" are questions


@checked
def generate(config: GenerateConfig) -> Path | None:
    """Answer one prompt or the prompts of the data. Writes lines of JSON to ``output``, or text to the terminal."""
    if config.output:
        check_output_file(config.output, config.data.path)
        check_file(config.output)
    environments = common.environments_of(config.environment)
    wanted = environments.wanted if environments else NOTHING
    prompts = [Prompt((Message("user", config.prompt),))] if config.prompt else _prompts(config, wanted)
    policy = common.open_policy(config.model, config.data, [], config.seed)
    encoder = ChatEncoder(policy.tokenizer, replace(common.limits_of(config.data, policy), too_long="cut_prompt_start"))
    sampler = common.sampler_of(policy, encoder, config.model, config.sampling, environments)
    prompts = common.accepted(prompts, encoder, "prompts")
    if environments:
        environments.check(prompts)
    with common.watched("generate"):
        rollouts = sampler(prompts, config.sampling, derive(config.seed, "generate"))
    rows = [
        {"prompt": as_dict(a.prompt), "response": a.response, "ended": a.ended}
        | (a.episode.as_row() if a.episode else {})
        for a in rollouts.answers
    ]
    if config.output:
        write_text(Path(config.output), json_lines(rows))
        return Path(config.output)
    for text in _shown(rollouts.answers, config.sampling.n, with_prompts=not config.prompt):
        say(text)
    return None


def _shown(answers: Sequence[Answer], n: int, with_prompts: bool) -> Iterator[str]:
    """The answers as text for a terminal, ``n`` to each prompt. Each of several answers has a line with its number."""
    for i, answer in enumerate(answers):
        if with_prompts and i % n == 0:
            yield f"> {answer.prompt[-1].content}"
        if n > 1:
            yield f"[{i % n + 1} of {n}]"
        yield from _said(answer)
        if with_prompts or n > 1:
            yield ""


def _said(answer: Answer) -> Iterator[str]:
    """The policy's turns as they are, and between them the environment's replies, each line marked with their role."""
    if answer.episode is None:
        yield answer.response
        return
    for turn in answer.episode.turns:
        yield turn.content if turn.role == "assistant" else indent(turn.content, f"[{turn.role}] ", lambda line: True)


def _prompts(config: GenerateConfig, wanted: Wanted) -> list[Prompt]:
    records = common.in_file_order(config.data, wanted)
    prompts = [Prompt(prompt_of(r), r.extra, tools=r.tools, where=r.where) for r in records if prompt_of(r)]
    common.report_dropped({"text without a question": len(records) - len(prompts)}, "prompts")
    return prompts


@checked
def chat(config: ChatConfig) -> None:
    """Talk in the terminal, tokens shown as they are sampled; ``HELP`` says what may be typed."""
    # A dialogue in the terminal is no run to repeat: here a template's today is today.
    today = [f"date={datetime.date.today()}"]
    policy = roles.open_policy(config.model, [], config.seed)
    set_arguments(policy.tokenizer, today if prints_today(policy.tokenizer) else [])
    reads = common.limits_of(DataConfig(), policy).total
    room = reads - min(config.sampling.max_new_tokens, reads // 2)  # a long talk loses its start
    encoder = ChatEncoder(policy.tokenizer, Limits(prompt=room, total=reads))
    generator = common.sampler_of(policy, encoder, config.model, config.sampling).generator
    start = [Message("system", config.system)] if config.system else []
    messages = list(start)
    print(visible(f"Talking with {config.model.name}. {HELP}"))
    turn = 0
    while question := _ask():
        if _COMMAND.fullmatch(question):
            if question.lower() in ("/exit", "/quit"):
                return
            if question.lower() == "/reset":
                messages = list(start)
            else:
                print(visible(HELP if question.lower() == "/help" else unknown_command(question)))
            continue
        messages.append(Message("user", question))
        stream = _Stream(encoder, config.sampling.stop_strings)
        seed = derive(config.seed, "chat", turn)
        generator.generate(encoder.prompts([messages]), config.sampling, seed, stream.show).result()
        messages.append(Message("assistant", stream.finish()))
        turn += 1


def unknown_command(given: str) -> str:
    """The answer to a line that looks like a command and is none."""
    return f"{given} is no command.{nearest(given.lower(), COMMANDS)} {HELP}"


def _ask() -> str:
    try:
        return input("\nyou: ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


class _Stream:
    """Prints a response while it is sampled."""

    def __init__(self, encoder: ChatEncoder, stop_strings: Sequence[str] = ()) -> None:
        self.ids: list[int] = []
        self.text = GrowingText(lambda ids, begun: encoder.text(ids, stop_strings, begun))
        print("policy: ", end="", flush=True)

    def show(self, prompt: int, sample: int, token: int) -> None:
        self.ids.append(token)
        print(visible(self.text.more(self.ids)), end="", flush=True)

    def finish(self) -> str:
        print(visible(self.text.rest(self.ids)), flush=True)
        return self.text.given


@checked
def merge(config: MergeConfig) -> Path:
    """Merge the adapter into the base's weights and write a plain model folder."""
    check_folder(config.output)
    output = Path(config.output)
    if output.is_dir() and any(output.iterdir()) and not (output / "config.json").is_file():
        raise UserError(f"{output} holds something else than a model, which would be replaced; give another --output")
    policy = load_policy(config.model)
    card = {
        "title": f"{short(config.model.name)} with the adapter {short(config.model.adapter)} merged",
        "base_model": origin_of(config.model.name),
        "tags": ["merged"],
        "description": "A causal language model. The adapter is merged into its weights by `concordant merge`.",
    }
    save_policy(policy, Path(config.output), card)
    common.message(f"merged model in {config.output}")
    return Path(config.output)
