"""A reward model gives each text one number, its score. A higher score means a better text.

A decoder has a linear head without bias, which reads the last response token. An encoder, such as BERT, has the head of
its architecture, which reads [CLS] prompt response [SEP]. ``AutoModelForSequenceClassification`` loads a saved reward
model and gives the same scores. A model with k heads has the mean of their scores (``models/reward_heads.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, overload

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.names import Kernels
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.core.objective import BranchOutputs
from concordant.core.trees import Branch, Layout, PromptTree, TreeBatch
from concordant.data.chat import ChatEncoder
from concordant.data.convert import ONE_MESSAGE, messages_of
from concordant.data.records import Message, Tools
from concordant.data.tokens import ids_of
from concordant.engines.local.precision import place
from concordant.kernels.put_on import ON_REQUEST, kernels_of, put_on
from concordant.kernels.reader import reader_of
from concordant.models import reward_build
from concordant.models.backbone import positions
from concordant.models.export import write_adapter, write_model
from concordant.models.head import Head, lm_logits
from concordant.models.layout import check_layout, is_causal
from concordant.models.load import (
    Policy,
    adapt,
    base_and_adapter,
    base_name,
    base_of_adapter,
    checkpoint_activations,
    load_config,
    load_policy,
    take_template,
)
from concordant.models.locate import ADAPTER_CONFIG, is_adapter, locate
from concordant.models.lora import merge_lora_weights
from concordant.models.lora_layer import still
from concordant.models.peft_config import PeftConfig
from concordant.models.peft_files import head_of, is_head, load_adapter
from concordant.models.reward_heads import add_heads, heads_in, heads_of, load_heads
from concordant.models.traits import ModelTraits
from concordant.models.tree_attention import Reader, forward_tokens
from concordant.models.tree_pass import forward_trees

Dialogue = Sequence[Message | Mapping[str, str]]


class Comparison(TypedDict):
    """The text with the higher score, and the confidence of the model."""

    preference: Literal["a", "b", "tie"]  # "tie" for equal scores
    confidence: float  # σ(|difference| / temperature): the probability of the preferred text, in [0.5, 1]
    score_a: float
    score_b: float
    score_diff: float  # score_a - score_b


@dataclass(kw_only=True)
class RewardModel:
    """A sequence classifier with one label, with its tokenizer and its traits."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    traits: ModelTraits
    is_encoder: bool
    name: str = ""
    adapter_base: str = ""  # what a file of its adapter names as the base; "": no adapter, or a base that is on no disk
    temperature: float = 1.0  # a difference of so many reward units is one nat in ``compare``

    @property
    def layout(self) -> Layout:
        return self.traits.layout

    @property
    def reader(self) -> Reader:
        return reader_of(self.model, self.layout)

    # -- loading and saving ---------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, name: str | Path, trust_remote_code: bool = False, device: str = "cpu", kernels: Kernels = "fast"
    ) -> RewardModel:
        """Load a saved reward model from a folder, a hub id, ``package:NAME/FOLDER`` or a PEFT adapter (SEQ_CLS).

        ``device`` and ``kernels`` have the meaning of ``ModelConfig``.
        """
        made = cls._load(str(name), trust_remote_code)
        place(made.model, ModelConfig(device=device, kernels=kernels))
        return made

    @classmethod
    def _load(cls, name: str, trust_remote_code: bool) -> RewardModel:
        found = locate(name)
        if isinstance(found, Path) and is_adapter(found) and not (found / "config.json").is_file():
            return cls._from_adapter(found, base_of_adapter(found), trust_remote_code)
        model, tokenizer = reward_build.from_folder(found, trust_remote_code)
        causal = is_causal(model)
        if causal:
            if "score" not in dict(model.named_children()):
                raise UserError(f"{type(model).__name__} has no head named score to read at the last token")
            reward_build.check_pad(model, tokenizer, name)
        load_heads(model, found)
        return cls(model=model, tokenizer=tokenizer, traits=_traits(model, causal), is_encoder=not causal, name=name)

    @classmethod
    def from_backbone(
        cls,
        start: ModelConfig | Policy,
        texts: Sequence[str] | None = None,
        seed: int = 0,
        keep_lm_head: bool = False,
        heads: int = 1,
    ) -> RewardModel:
        """A new reward model on a causal LM, an encoder or a policy, best the one from SFT. ``seed`` draws its heads.

        If a ``ModelConfig`` names an adapter, the adapter is first merged into the backbone; ``lora`` then adds a new
        one. The heads are always trained. If the folder already holds a reward model, its training continues.
        UserError if this reward model has another number of heads.
        """
        if isinstance(start, Policy):
            model, tokenizer = reward_build.from_policy(start, seed, keep_lm_head)
            add_heads(model, heads, seed)
            made = cls(
                model=model,
                tokenizer=tokenizer,
                traits=replace(start.traits, layout=check_layout(model)),
                is_encoder=False,
                name=start.name,
            )
            if kernels_of(start.model):
                put_on(model, kernels_of(start.model) & ON_REQUEST.keys())
            return made
        made = cls._from_config(start, texts, seed, keep_lm_head, heads)
        if start.lora.rank:
            place_of_base, merged = base_and_adapter(start)
            own = replace(start.lora, on_top=False) if merged else start.lora  # the new adapter is over a merged one
            adapt(made.model, replace(start, lora=own), seed=seed)
            for name, parameter in made.model.named_parameters():
                if is_head(made.model, name) or name.startswith("lm_head."):
                    parameter.requires_grad = True  # no adapter could correct a frozen random head
            made.adapter_base = "" if merged else base_name(place_of_base)
        if start.activation_checkpointing:
            checkpoint_activations(made.model)
        place(made.model, start)
        return made

    @classmethod
    def _from_config(
        cls, config: ModelConfig, texts: Sequence[str] | None, seed: int, keep_lm_head: bool, heads: int
    ) -> RewardModel:
        plain = replace(config, lora=LoraConfig(), activation_checkpointing=False)
        if config.name.startswith("builtin:"):
            return cls.from_backbone(load_policy(plain, texts, seed), None, seed, keep_lm_head, heads)
        base, adapter = base_and_adapter(config)
        trust = config.trust_remote_code
        if adapter and PeftConfig.read(Path(adapter) / ADAPTER_CONFIG).task_type == "SEQ_CLS":
            return cls._continued(Path(adapter), base, trust)._with_heads(heads)
        settings = load_config(base, trust)
        is_reward_model = any("ForSequenceClassification" in a for a in settings.architectures or ())
        if adapter and (is_reward_model or reward_build.is_encoder_config(settings)):
            kind = "reward model" if is_reward_model else "encoder"
            raise UserError(
                f'"{adapter}" is the adapter of a language model, and "{base}" is a {kind}: leave model.adapter out, '
                "or give the language model that the adapter was trained on as --model.name"
            )
        if is_reward_model:
            return cls._load(config.name, trust)._with_heads(heads)
        if reward_build.is_encoder_config(settings):
            model, tokenizer = reward_build.from_encoder(base, settings, trust, seed)
            add_heads(model, heads, seed)
            return cls(
                model=model, tokenizer=tokenizer, traits=_traits(model, False), is_encoder=True, name=config.name
            )
        return cls.from_backbone(load_policy(plain, texts, seed), None, seed, keep_lm_head, heads)

    @property
    def heads(self) -> int:
        """The number of heads: 1, or those of an ensemble on one backbone."""
        return heads_in(self.model)

    def _with_heads(self, heads: int) -> RewardModel:
        """Itself, if it was trained with so many heads."""
        if self.heads != heads:
            raise UserError(
                f'heads={heads}: "{self.name}" is a reward model with {counted(self.heads, "head")}, and goes on with '
                f"as many: give --heads {self.heads}, or start from a language model or an encoder"
            )
        return self

    @classmethod
    def _continued(cls, folder: Path, base: Path | str, trust: bool) -> RewardModel:
        """The reward model of an adapter folder with the adapter merged, ready to be trained further."""
        made = cls._from_adapter(folder, base, trust)
        merge_lora_weights(made.model)
        made.model.requires_grad_(True)
        return made

    @classmethod
    def _from_adapter(cls, folder: Path, base: Path | str, trust: bool) -> RewardModel:
        made = cls._from_config(ModelConfig(name=str(base), trust_remote_code=trust), None, 0, False, 1)
        head = load_adapter(made.model, folder)
        if head is None:
            raise UserError(f'"{folder}" has no reward head: expected a SEQ_CLS adapter with its head')
        made.model.load_state_dict(head, strict=False)
        load_heads(made.model, folder)
        take_template(made.tokenizer, folder)
        made.name = str(folder)
        return made

    def save(self, folder: Path | str, card: Mapping[str, Any] | None = None) -> None:
        """Write a folder for ``AutoModelForSequenceClassification.from_pretrained``, with adapters merged."""
        write_model(
            Path(folder), self.model, self.tokenizer, card, ("lm_head",), self._kind, heads=heads_of(self.model)
        )

    def save_adapter(self, folder: Path | str, card: Mapping[str, Any] | None = None) -> None:
        """Write the adapter and the head for PEFT, as a SEQ_CLS adapter of ``adapter_base``."""
        write_adapter(
            Path(folder), self.model, self.tokenizer, self.adapter_base, card, head_of(self.model), self._kind,
            heads=heads_of(self.model),
        )  # fmt: skip

    # -- on trees, with gradient ----------------------------------------------------------------

    def hidden_at(self, batch: TreeBatch, at_N: Tensor) -> Tensor:
        """A decoder's final hidden states at ``at_N`` of the flattened rows, (N, H)."""
        return self.reader.hidden_at(batch, at_N)

    def heads_of(self, last_BH: Tensor) -> Tensor:
        """The scores of a decoder's heads, (B, K), from the hidden states at the branches' last tokens; fp32 also
        under autocast."""
        with torch.autocast(last_BH.device.type, enabled=False):
            return self.model.get_submodule("score")(last_BH.float())

    def head_scores(self, batch: TreeBatch) -> Tensor:
        """The raw score of every branch by every head, in the order of the batch, (B, K)."""
        if not self.is_encoder:
            return self.heads_of(self.hidden_at(batch, batch.last_B))
        logits_RK = self.model(input_ids=batch.ids_RL, attention_mask=batch.is_token_RL.long()).logits
        return logits_RK[batch.last_B // batch.ids_RL.shape[1]].float()

    def scores(self, batch: TreeBatch) -> Tensor:
        """The raw score of every branch, in the order of the batch, (B,)."""
        return self.head_scores(batch).mean(1)

    def lm_logits(self, hidden_NH: Tensor) -> Tensor:
        """Next-token logits of a model built with ``keep_lm_head``, (N, V)."""
        return lm_logits(self.model, hidden_NH, self.traits.head)

    # -- scoring --------------------------------------------------------------------------------

    def score_trees(self, trees: Sequence[PromptTree]) -> Tensor:
        """Scores of all branches in the order of ``trees``, (B,), on the CPU."""
        return self.score_heads(trees).mean(1)

    def score_heads(self, trees: Sequence[PromptTree]) -> Tensor:
        """The scores of all branches by every head, (B, K)."""

        def run(batch: TreeBatch) -> BranchOutputs:
            return BranchOutputs(head_BK=self.head_scores(batch))

        device = self.model.device
        with still():
            batches = self.reader.batches(trees, forward_tokens(device))
            head_BK = forward_trees(run, trees, batches, device).head_BK
        return torch.zeros(0, self.heads) if head_BK is None else head_BK  # None if there was no tree

    @overload
    def score(self, texts: str) -> float: ...  # type: ignore[overload-overlap]  # a str is a sequence of str

    @overload
    def score(self, texts: Sequence[str | Dialogue]) -> list[float]: ...

    def score(self, texts: str | Sequence[str | Dialogue]) -> float | list[float]:
        """The raw score of each text or dialogue; for one string, one number.

        A string gets EOS at its end and no chat template. A dialogue is a list of messages, the last one from the
        assistant, and is rendered by the model's chat template. A text that is too long for the model loses its
        beginning, except for a special first token. Raises UserError for a list that is itself one dialogue.
        """
        if isinstance(texts, str):
            return self.score([texts])[0]
        return self.by_head(texts).mean(1).tolist()

    def by_head(self, texts: Sequence[str | Dialogue]) -> Tensor:
        """The raw scores of texts or dialogues, as ``score`` reads them, by every head, (B, K)."""
        if isinstance(texts, Message | Mapping):
            raise UserError(f"score: {ONE_MESSAGE}")
        plain = [i for i, text in enumerate(texts) if isinstance(text, str)]
        spoken = [i for i, text in enumerate(texts) if not isinstance(text, str)]
        trees = [self._tree_of_text(str(texts[i])) for i in plain]
        dialogues = [messages_of(texts[i], i) for i in spoken]
        if dialogues:
            trees += self.trees([d[:-1] for d in dialogues], [[d[-1].content] for d in dialogues])
        head_BK = self.score_heads([one for tree in trees for one in self._fitted(tree)])
        return head_BK[torch.tensor(plain + spoken, dtype=torch.int64).argsort()]

    def score_responses(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Scores of several responses to each prompt. With the tree layout each prompt is computed once."""
        left = iter(self.score_trees(self.trees(prompts, responses)).tolist())
        return [[next(left) for _ in row] for row in responses]

    def trees(
        self,
        prompts: Sequence[Sequence[Message]],
        responses: Sequence[Sequence[str]],
        tools: Sequence[Tools] | None = None,
    ) -> list[PromptTree]:
        """One tree for each prompt, whose branches are the responses in order, as this model reads them.

        Raises:
            UserError: the model's chat template refuses a dialogue, because every response must get its score.
        """
        encoded = self._encoder().trees(prompts, responses, tools)
        for reason in encoded.dropped:
            raise UserError(f"the reward model cannot score a dialogue: {reason}")
        return [one for tree in encoded.trees for one in self._fitted(tree)]

    def compare(self, a: str | Dialogue, b: str | Dialogue) -> Comparison:
        """The text with the higher score, and the confidence of the model."""
        # In two calls, so that equal texts get equal bits and so a tie.
        (score_a,), (score_b,) = self.score([a]), self.score([b])
        difference = score_a - score_b
        return Comparison(
            preference="a" if difference > 0 else "b" if difference < 0 else "tie",
            confidence=float(torch.sigmoid(torch.tensor(abs(difference) / self.temperature, dtype=torch.float64))),
            score_a=score_a,
            score_b=score_b,
            score_diff=difference,
        )

    def _encoder(self) -> ChatEncoder:
        return ChatEncoder(self.tokenizer, kind=self._kind)

    @property
    def _kind(self) -> str:
        return "encoder" if self.is_encoder else "causal"

    def _tree_of_text(self, text: str) -> PromptTree:
        if not text.strip():
            raise UserError("an empty text cannot be scored")
        (ids,) = ids_of(self.tokenizer, [text], special=True)
        if not self.is_encoder and ids[-1] != self.tokenizer.eos_token_id:
            ids.append(self.tokenizer.eos_token_id)
        ids = self._without_start(ids, self._longest())
        return PromptTree(torch.tensor(ids[:1]), (Branch.response(ids[1:]),))

    def _fitted(self, tree: PromptTree) -> list[PromptTree]:
        """The tree, or one tree for each branch if a branch with its trunk is too long for the model.

        A long trunk loses its beginning. This depends on the branch, so that the other branches do not change its
        score. A response that is too long by itself loses the tokens before its end token.
        """
        limit = self._longest()
        if len(tree.prompt_T) + max(len(b.ids_T) for b in tree.branches) <= limit:
            return [tree]
        fitted = []
        for branch in tree.branches:
            ids_T = branch.ids_T
            if len(ids_T) >= limit:
                ids_T = torch.cat([ids_T[: limit - 2], ids_T[-1:]])
            prompt = self._without_start(tree.prompt_T.tolist(), limit - len(ids_T))
            fitted.append(PromptTree(torch.tensor(prompt), (Branch.response(ids_T),)))
        return fitted

    def _without_start(self, ids: list[int], limit: int) -> list[int]:
        if len(ids) <= limit:
            return ids
        first = ids[:1] if ids[0] in self.tokenizer.all_special_ids else []  # BOS or [CLS]
        return (first + ids[len(ids) - limit + len(first) :])[-limit:]

    def _longest(self) -> int:
        return min(self.tokenizer.model_max_length, positions(self.model))


def _traits(model: PreTrainedModel, causal: bool) -> ModelTraits:
    return ModelTraits(check_layout(model) if causal else Layout.FLAT, Head())
