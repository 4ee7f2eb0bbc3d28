"""Where data comes from and how long it may be."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

from concordant.config.names import DataFormat, RankedPairs, TooLong


@dataclass
class DataConfig:
    path: str = ""  # file, folder, folder made by `concordant prepare`, hub id, builtin:toytalk[/human|/biased|/demo]
    _: KW_ONLY
    format: DataFormat = "auto"  # what the columns mean, see docs/data.md; auto looks at the first rows
    columns: list[str] = field(default_factory=list)  # NAME=COLUMN,…: what a column means; ignore=COLUMN: nothing
    pairs: RankedPairs = "best_worst"  # pairs a ranking gives: its best answer against its worst, or all that differ
    merge_turns: bool = False  # messages of one speaker in a row become one, for templates that insist on turns
    split: str = ""  # training split of a folder or a hub id, e.g. train_prefs; empty: train
    test: str = ""  # held-out split of a folder or a hub id; empty: the one that goes with the training split
    test_path: str = ""  # held-out data; empty: split by prompt
    test_fraction: float = 0.25  # share of prompts held out when there is no test_path
    max_samples: int = 0  # rows read, in the seed's shuffled order; 0 is all
    skip_bad_rows: bool = False  # count unreadable rows instead of stopping at the first
    max_prompt_tokens: int = 512
    max_response_tokens: int = 512
    too_long: TooLong = "drop"  # what happens to rows above these limits
