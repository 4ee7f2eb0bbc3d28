"""``concordant reward`` trains a reward model on pairs. ``concordant score`` scores answers with a reward model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from concordant.algorithms.pairs import check_pairs
from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.reward_corrections import words_of
from concordant.algorithms.supervised import Course, Examples, ObjectiveOf, Supervised
from concordant.config.checks import checked
from concordant.config.stages import RewardConfig, ScoreConfig
from concordant.core.counted import counted
from concordant.core.ensembles import bootstrap_weights
from concordant.core.errors import UserError
from concordant.core.objective import Outputs
from concordant.core.seeding import python_stream, torch_stream
from concordant.core.trees import PromptTree
from concordant.core.visible import say
from concordant.data.chat import ChatEncoder, Encoded
from concordant.data.convert import all_texts, answers_of, as_dict, prompt_of
from concordant.data.records import Pair
from concordant.data.template import set_arguments
from concordant.doctor.callback import look_again
from concordant.doctor.preflight import Subject
from concordant.engines import roles
from concordant.engines.protocol import Scorer
from concordant.evaluation.reward_summary import RewardModelSummary, summarise_reward_model
from concordant.report.wording import with_sentence
from concordant.runs.atomic import write_text
from concordant.runs.logs import json_lines
from concordant.runs.names import REWARD_SUMMARY
from concordant.runs.writable import check_file
from concordant.stages import common
from concordant.stages.cards import add_results, card_of
from concordant.stages.places import check_output_file


@checked
def reward(config: RewardConfig) -> Path:
    """Train a reward model and measure it on held-out pairs. Returns the run folder.

    A slice of the training pairs chooses the best weights.
    """
    with common.opened(config, "reward") as folder:
        loaded = common.read(config, folder, Pair, "pairs")
        texts = all_texts(loaded.train) if config.model.name.startswith("builtin:") else None
        model = roles.new_reward_model(config.model, texts, config.seed, config.lm_coefficient > 0, config.heads)
        set_arguments(model.tokenizer, config.data.template_args)
        if model.is_encoder and config.lm_coefficient:
            raise UserError("lm_coefficient needs a causal language model; an encoder does not predict the next token")
        encoder = ChatEncoder(
            model.tokenizer, common.limits_of(config.data, model), "encoder" if model.is_encoder else "causal"
        )
        train_pairs, validation_pairs = slice_off(loaded.train, config.validation_fraction, config.seed)
        train = encoder.pairs(train_pairs)
        check_pairs(common.kept(train, "training data", train_pairs))
        validation = encoder.pairs(validation_pairs)
        if validation_pairs:
            common.report_dropped(validation.dropped, "validation slice")
            common.message(
                f"reward: of the {len(loaded.train):,} training pairs {len(train.trees):,} are learnt from and "
                f"{len(validation.trees):,} choose the best weights (validation_fraction)"
            )
        config = common.settled(config, folder, common.start_of("reward", len(train.trees), model, config.model))
        learner = roles.reward_learner(model, config.model, config.train)
        supervised = Supervised(
            learner,
            Examples(train.trees, _objective(config, train, train_pairs, drawn=True)),
            Examples(validation.trees, _objective(config, validation, validation_pairs)),
            Course(
                config=config.train,
                seed=config.seed,
                metric="eval/bradley_terry",
                role="reward",
                card=card_of(config, "reward", loaded),
                end_ids=encoder.end_ids,
                pairs=True,
            ),
        )
        done = common.train(supervised, config, folder, Subject(loaded, encoder, train))
        heldout = encoder.pairs(loaded.test)
        common.report_encoded(heldout, "held-out pairs", loaded.test)
        if heldout.trees:
            summary = measure_on_heldout(learner, heldout.trees, [loaded.test[i] for i in heldout.record], config.heads)
            write_text(folder.path / REWARD_SUMMARY, json.dumps(summary.as_json(), indent=2) + "\n")
            accuracy = with_sentence(summary.accuracy)
            add_results(folder.path, "Held-out pairs", {"accuracy": accuracy, "pairs": f"{summary.pairs:,}"})
            common.message(f"held-out accuracy {accuracy} on {counted(summary.pairs, 'pair')}")
            look_again(folder)
        return done


def slice_off(pairs: Sequence[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split the pairs by prompt into two parts. The second has a ``fraction`` of the prompts, drawn by ``seed``."""
    prompts = list(dict.fromkeys(p.prompt for p in pairs))
    python_stream(seed, "reward/validation").shuffle(prompts)
    taken = set(prompts[: round(len(prompts) * fraction)])
    return [p for p in pairs if p.prompt not in taken], [p for p in pairs if p.prompt in taken]


def measure_on_heldout(
    scorer: Scorer, trees: Sequence[PromptTree], pairs: Sequence[Pair], heads: int = 1
) -> RewardModelSummary:
    """Accuracy, calibration and accuracy by length difference of a reward model on held-out pairs, and its heads."""
    with common.watched("held-out pairs"):
        out = scorer.forward(trees, Outputs(score=True, heads=heads > 1)).result()
    score_B = out.score_B
    assert score_B is not None
    score_P2 = score_B.view(-1, 2)
    probability = [p.probability for p in pairs if p.probability is not None]
    return summarise_reward_model(
        score_P2[:, 0].tolist(),
        score_P2[:, 1].tolist(),
        [len(t.branches[0].ids_T) for t in trees],
        [len(t.branches[1].ids_T) for t in trees],
        probability if len(probability) == len(pairs) else None,
        words=([words_of(p.chosen) for p in pairs], [words_of(p.rejected) for p in pairs]),
        heads=() if out.head_BK is None else [column.tolist() for column in out.head_BK.T],
    )


def _objective(config: RewardConfig, encoded: Encoded, pairs: Sequence[Pair], drawn: bool = False) -> ObjectiveOf:
    """``drawn``: each head of several sees its own bootstrap of the pairs; otherwise every pair counts once."""
    margin_P = torch.tensor([config.margin + (pairs[i].margin or 0.0) for i in encoded.record])
    weight_PK = None
    if config.heads > 1:
        stream = torch_stream(config.seed, "reward/bootstrap")
        shape = len(encoded.trees), config.heads
        weight_PK = bootstrap_weights(*shape, stream) if drawn else torch.ones(shape)

    def of(numbers: Sequence[int]) -> RewardObjective:
        return RewardObjective(
            margin_P[list(numbers)],
            config.temperature,
            config.label_smoothing,
            config.centering,
            config.lm_coefficient,
            None if weight_PK is None else weight_PK[list(numbers)],
        )

    return of


@checked
def score(config: ScoreConfig) -> Path | None:
    """Score every answer of the data. Writes lines of JSON to ``output`` or to the terminal.

    There is one line for each record, in the order of the data. It has the prompt and either ``chosen`` and
    ``rejected`` or ``score``.
    """
    if config.output:
        check_output_file(config.output, config.data.path)
        check_file(config.output)
    model = roles.open_reward_model(config.model.name, config.model)
    set_arguments(model.tokenizer, config.data.template_args)
    scorer = roles.reward_scorer(model, config.model)
    records = common.in_file_order(config.data)
    answered = [record for record in records if answers_of(record)]
    common.report_dropped({"prompts without an answer": len(records) - len(answered)}, "score")
    if not answered:
        raise UserError(f"{config.data.path}: no answer to score; expected pairs, dialogues or rated answers")
    trees = model.trees(
        [prompt_of(r) for r in answered], [answers_of(r) for r in answered], [r.tools for r in answered]
    )
    with common.watched("score"):
        score_B = scorer.forward(trees, Outputs(score=True)).result().score_B
    assert score_B is not None
    left = iter(score_B.tolist())
    rows = [
        {"prompt": as_dict(prompt_of(record))}
        | {name: next(left) for name in (("chosen", "rejected") if isinstance(record, Pair) else ("score",))}
        for record in answered
    ]
    text = json_lines(rows)
    if not config.output:
        say(text, end="")
        return None
    write_text(Path(config.output), text)
    return Path(config.output)
