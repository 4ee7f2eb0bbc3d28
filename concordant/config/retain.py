"""Settings against forgetting. The text is measured at every evaluation; two weights say how it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from concordant.config.made import Made


@dataclass(kw_only=True)
class RetainConfig(Made):
    text: str = ""  # UTF-8 text file that the model must go on to predict well; it is measured at every evaluation
    mix: float = 0.0  # weight of the loss on this text, added to every policy update (PTX); 0 is off
    batch_size: int = 8  # windows of this text in every policy update
    ewc: float = 0.0  # weight of the penalty on changes of weights that matter for this text (EWC); 0 is off
    fisher_windows: int = 64  # windows of this text from which it is measured how much each weight matters
