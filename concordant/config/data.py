"""Settings of the data: its source and the limits of its lengths."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace

from concordant.config.made import Made
from concordant.config.names import DataFormat, RankedPairs, TooLong


@dataclass
class DataConfig(Made):
    path: str = ""  # file, folder, folder of `prepare`, hub id, builtin:toytalk[/PRESET], builtin:sums[/PRESET]
    _: KW_ONLY
    format: DataFormat = "auto"  # the meaning of the columns, see docs/data.md; auto looks at the first rows
    columns: list[str] = field(default_factory=list)  # NAME=COLUMN,…: what a column means; ignore=COLUMN: nothing
    pairs: RankedPairs = "best_worst"  # pairs a ranking gives: its best answer against its worst, or all that differ
    split: str = ""  # training split of a folder or a hub id, e.g. train_prefs; empty: train
    test: str = ""  # held-out split of a folder or a hub id; empty: the one that goes with the training split
    test_path: str = ""  # held-out data; empty: the data is split by prompt
    test_fraction: float = 0.25  # share of prompts held out when there is no test_path
    max_samples: int = 0  # number of rows to read, in an order shuffled by the seed; 0 reads all rows
    skip_bad_rows: bool = False  # skip and count unreadable rows; False stops at the first one
    max_prompt_tokens: int = 512  # the most tokens of a prompt
    max_response_tokens: int = 512  # the most tokens of a response of the data
    too_long: TooLong = "drop"  # what is done with rows that are longer than these limits
    template_args: list[str] = field(
        default_factory=list
    )  # for the chat template: enable_thinking=false, date=2026-11-28
    merge_turns: bool = False  # join neighbouring messages of one role, which many chat templates refuse

    def whole(self) -> DataConfig:
        """The same data with nothing held out, for verbs that read every record."""
        found = replace(self)
        found.test_fraction = 0.0  # no value that a user may give
        return found
