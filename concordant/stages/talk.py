"""``concordant generate``, ``chat`` and ``merge``: use a trained policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from concordant.config.checks import checked
from concordant.config.stages import ChatConfig, GenerateConfig, MergeConfig
from concordant.core.seeding import derive
from concordant.data.chat import ChatEncoder
from concordant.data.convert import prompt_of
from concordant.data.records import Message, Prompt
from concordant.models.load import load_policy, save_policy
from concordant.runs.atomic import write_text
from concordant.runs.logs import json_lines
from concordant.stages import common


@checked
def generate(config: GenerateConfig) -> Path | None:
    """Answer one prompt or the prompts of the data. Writes lines of JSON to ``output``, or text to the terminal."""
    prompts = [Prompt((Message("user", config.prompt),))] if config.prompt else _prompts(config)
    policy = common.open_policy(config.model, [], config.seed)
    encoder = ChatEncoder(policy.tokenizer, replace(common.limits_of(config.data, policy), too_long="cut_prompt_start"))
    sampler = common.sampler_of(policy, encoder, config.model)
    rollouts = sampler(prompts, config.sampling, derive(config.seed, "generate"))
    rows = [{"prompt": common.as_dict(a.prompt), "response": a.response, "ended": a.ended} for a in rollouts.answers]
    if config.output:
        write_text(Path(config.output), json_lines(rows))
        return Path(config.output)
    for answer in rollouts.answers:
        print(answer.response if config.prompt else f"> {answer.prompt[-1].content}\n{answer.response}\n")
    return None


def _prompts(config: GenerateConfig) -> list[Prompt]:
    return [Prompt(prompt_of(r)) for r in common.in_file_order(config.data)]


@checked
def chat(config: ChatConfig) -> None:
    """Chat in the terminal; tokens appear as they are sampled. An empty line or Ctrl-D ends, /reset starts again."""
    policy = common.open_policy(config.model, [], config.seed)
    encoder = ChatEncoder(policy.tokenizer)
    generator = common.sampler_of(policy, encoder, config.model).generator
    start = [Message("system", config.system)] if config.system else []
    messages = list(start)
    print(f"Talking with {config.model.name}. /reset starts a new dialogue, an empty line ends.")
    turn = 0
    while question := _ask():
        if question == "/reset":
            messages = list(start)
            continue
        messages.append(Message("user", question))
        stream = _Stream(encoder)
        seed = derive(config.seed, "chat", turn)
        generator.generate(encoder.prompts([messages]), config.sampling, seed, stream.show).result()
        messages.append(Message("assistant", stream.finish()))
        turn += 1


def _ask() -> str:
    try:
        return input("\nyou: ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


class _Stream:
    """Prints a response while it is sampled. A character of several tokens is printed after its last token."""

    def __init__(self, encoder: ChatEncoder) -> None:
        self.encoder = encoder
        self.ids: list[int] = []
        self.printed = ""
        print("policy: ", end="", flush=True)

    def show(self, prompt: int, sample: int, token: int) -> None:
        self.ids.append(token)
        text = self.encoder.text(self.ids)
        if not text.endswith("\ufffd") and text.startswith(self.printed):
            print(text[len(self.printed) :], end="", flush=True)
            self.printed = text

    def finish(self) -> str:
        text = self.encoder.text(self.ids)
        print(text[len(self.printed) :] if text.startswith(self.printed) else "", flush=True)
        return text


@checked
def merge(config: MergeConfig) -> Path:
    """Merge the adapter into the base's weights and write a plain model folder."""
    policy = load_policy(config.model)
    save_policy(policy, Path(config.output), {"base_model": config.model.name, "tags": ["merged"]})
    common.message(f"merged model in {config.output}")
    return Path(config.output)
