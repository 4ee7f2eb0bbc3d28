"""``builtin:toytalk``: seeded dialogues about a small world in which good answers are known.

``training_pairs`` and ``heldout_pairs`` make the data. ``gold_score`` reads any answer and returns its true quality.
docs/toytalk.md describes the world, the judge and the presets.
"""

from __future__ import annotations

from concordant.data.toytalk.generate import heldout_pairs, training_pairs
from concordant.data.toytalk.judge import gold_score
from concordant.data.toytalk.labels import PRESETS, Preset, bayes_accuracy, rater_agreement

__all__ = ["PRESETS", "Preset", "bayes_accuracy", "gold_score", "heldout_pairs", "rater_agreement", "training_pairs"]
