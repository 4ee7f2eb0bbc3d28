"""Answers of several turns: the policy speaks, its environment replies, and the policy goes on behind the reply.

All turns of an answer are one branch. The environment's tokens stand in the branch, and its mask says that they are no
response tokens. So they are read, and they count in no loss, no KL, no advantage and no metric of tokens. Each further
turn is sampled behind the prompt and the branch so far, all answers of a turn in one call of the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from concordant.algorithms.environments import Environment, EnvironmentFault, Environments
from concordant.algorithms.rewards import Answer, Episode, Stopped
from concordant.algorithms.rollouts import Sampler, Spoken
from concordant.config.sampling import SamplingConfig
from concordant.core.errors import UserError
from concordant.core.seeding import derive
from concordant.core.trees import Branch
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message, Prompt
from concordant.data.replies import ReplyEncoder
from concordant.engines.protocol import Completion, Generator


@dataclass(slots=True)
class _Talk:
    """An answer that is being given."""

    prompt: Prompt
    prompt_T: Tensor
    environment: Environment | None  # None: it could not be made
    version: int
    ids: list[int] = field(default_factory=list)
    is_response: list[bool] = field(default_factory=list)
    logprobs: list[Tensor] = field(default_factory=list)
    turns: list[Message] = field(default_factory=list)
    cut: int = 0  # replies
    stopped: Stopped | None = None  # None while the answer goes on

    @property
    def spoken(self) -> int:
        """Tokens of the policy so far."""
        return sum(self.is_response)

    def add(self, ids: Sequence[int], is_response: bool) -> None:
        self.ids += ids
        self.is_response += [is_response] * len(ids)


class Conversing(Sampler):
    """A sampler whose answers have several turns. ``sampling.max_new_tokens`` counts the policy's tokens of all turns.

    The random numbers of a further turn depend on the seed, the turn, the ids before it, and how many answers of the
    call that come earlier have the same ids before it. An environment's seed depends on the seed and the prompt's ids,
    so that all answers to a prompt meet the same one.
    """

    def __init__(self, generator: Generator, encoder: ChatEncoder, environments: Environments) -> None:
        super().__init__(generator, encoder)
        self.environments, self.limits = environments, environments.config
        self._replies = ReplyEncoder(encoder)

    def spoken(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[Tensor],
        groups: Sequence[Sequence[Completion]],
        sampling: SamplingConfig,
        seed: int,
    ) -> list[list[Spoken]]:
        talks = [
            [self._begun(prompt, ids, c, sampling, seed) for c in group]
            for prompt, ids, group in zip(prompts, prompt_ids, groups, strict=True)
        ]
        going = [talk for group in talks for talk in group]
        for turn in range(1, self.limits.turns + 1):
            going = self._replied(
                [talk for talk in going if talk.stopped is None], sampling, last=turn == self.limits.turns
            )
            if not going:
                break
            rooms = [self._room(talk, sampling) for talk in going]
            further = replace(sampling, n=1, max_new_tokens=max(rooms))
            ids = [torch.cat([talk.prompt_T, torch.tensor(talk.ids)]) for talk in going]
            found = self.generator.generate(ids, further, derive(seed, "turn", turn)).result()
            for talk, room, (completion,) in zip(going, rooms, found, strict=True):
                self._add_turn(talk, completion, room, sampling)
        return [[self._ended(talk) for talk in group] for group in talks]

    # -- turns of the policy ----------------------------------------------------------------------

    def _begun(self, prompt: Prompt, ids: Tensor, c: Completion, sampling: SamplingConfig, seed: int) -> _Talk:
        talk = _Talk(prompt, ids, None, c.version)
        self._add_turn(talk, c, sampling.max_new_tokens, sampling)
        try:
            talk.environment = self.environments.start(prompt, derive(seed, "environment", *ids.tolist()))
        except EnvironmentFault as error:
            self._failed(talk, error)
        return talk

    def _add_turn(self, talk: _Talk, c: Completion, room: int, sampling: SamplingConfig) -> None:
        """Add a turn of the policy, of which at most ``room`` tokens are kept."""
        ids_T, ended = c.ids_T[:room], c.ended and len(c.ids_T) <= room
        talk.add(ids_T.tolist(), is_response=True)
        talk.logprobs.append(c.logprob_T[:room])
        talk.turns.append(Message("assistant", self.text(ids_T, sampling)))
        talk.stopped = None if ended else "length"

    # -- replies of the environment ---------------------------------------------------------------

    def _replied(self, talks: Sequence[_Talk], sampling: SamplingConfig, last: bool) -> list[_Talk]:
        """Those of ``talks`` that go on, the reply behind the policy's turn. ``last``: nobody gets a further turn."""
        heard = [talk for talk in talks if self._listen(talk, last)]
        replies = self._replies([((*talk.prompt.messages, *talk.turns), talk.prompt.tools) for talk in heard])
        going = []
        for talk, ids in zip(heard, replies, strict=True):
            if self._room(talk, sampling, ids) > 0:
                talk.add(ids, is_response=False)
                going.append(talk)
            else:
                talk.stopped = "length" if talk.spoken >= sampling.max_new_tokens else "context"
                talk.turns.pop()  # a reply that the policy never reads
        return going

    def _room(self, talk: _Talk, sampling: SamplingConfig, reply: Sequence[int] = ()) -> int:
        """The most tokens that the policy may still say, behind a further ``reply``."""
        read = len(talk.prompt_T) + len(talk.ids) + len(reply)
        return min(sampling.max_new_tokens - talk.spoken, self.encoder.limits.total - read)

    def _listen(self, talk: _Talk, last: bool) -> bool:
        """Whether the environment replies, so that the policy can go on. The reply is then the last of the turns."""
        if talk.stopped is not None or talk.environment is None:
            return False
        try:
            reply = self.environments.reply(talk.environment, talk.turns[-1].content)
            if reply is not None and not last:
                content = self._replies.cut(reply.content, self.limits.reply_tokens)
                talk.cut += content != reply.content
                talk.turns.append(replace(reply, content=content))
        except (EnvironmentFault, UnicodeError) as error:
            self._failed(talk, error)
            return False
        if reply is None or last:
            talk.stopped = "finished" if reply is None else "turns"
        return talk.stopped is None

    def _failed(self, talk: _Talk, error: Exception) -> None:
        """The answer ends and is left out; or, as the settings ask, the command ends."""
        if self.limits.on_error == "fail":
            said = f'"{talk.turns[-1].content[:60]}"' if talk.turns else "nothing"
            raise UserError(
                f"environment {self.limits.name} failed in turn {(len(talk.turns) + 1) // 2} of an answer, after "
                f"{said}: {error}; --environment.on_error skip leaves such answers out"
            ) from error
        talk.stopped = "error"

    def _ended(self, talk: _Talk) -> Spoken:
        score = None
        if talk.environment is not None and talk.stopped != "error":
            try:
                score = self.environments.score(talk.environment)
            except EnvironmentFault as error:
                self._failed(talk, error)
        assert talk.stopped is not None
        episode = Episode(turns=tuple(talk.turns), stopped=talk.stopped, score=score, cut=talk.cut)
        answer = Answer(
            talk.prompt.messages,
            talk.turns[-1].content,
            talk.stopped == "finished",
            talk.prompt.extra,
            talk.prompt.tools,
            episode,
        )
        branch = Branch(torch.tensor(talk.ids), torch.tensor(talk.is_response))
        return Spoken(branch, torch.cat(talk.logprobs), answer, talk.version)
