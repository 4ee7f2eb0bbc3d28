"""The card's figures, counted by hand."""

from __future__ import annotations

import io
import json
from collections import Counter

from concordant.data.card import Comparison, DataCard, Lengths, lengths_of, longer_preferred, make_card
from concordant.data.records import Demonstration, Message, Pair, Prompt


def pair(prompt: str, chosen: str, rejected: str) -> Pair:
    return Pair((Message("user", prompt),), chosen, rejected)


TRAIN = [
    pair("one", "a b c", "a"),  # the longer is chosen
    pair("one", "a b", "a b c d"),  # the shorter is chosen; the prompt again
    pair("one", "a b c", "a"),  # the first row again
    pair("two words", "a b", "c d"),  # a tie
]
TEST = [pair("one", "x", "y z"), pair("three words here", "x y", "z")]


def card(**more: object) -> DataCard:
    return make_card(TRAIN, TEST, source="a|b.jsonl", seed=7, rows_read=9, formats=["preference"], **more)  # type: ignore[arg-type]


def test_counts() -> None:
    made = card(dropped=Counter({"empty response": 3}))
    assert made.kinds == {"preference pairs": 6}
    assert made.rows == {"train": 4, "test": 2}
    assert made.prompts == {"train": 2, "test": 2}
    assert made.shared_prompts == 1  # "one"
    assert made.duplicate_rows == 1
    assert made.duplicate_prompts == 3  # "one" stands in four rows
    assert made.dropped == {"empty response": 3}


def test_lengths_in_words() -> None:
    made = card()
    assert made.unit == "words"
    assert made.lengths == {
        "prompt": Lengths(mean=9 / 6, median=1.0, p95=3, max=3),  # 1 1 1 2 1 3
        "chosen": Lengths(mean=13 / 6, median=2.0, p95=3, max=3),  # 3 2 3 2 1 2
        "rejected": Lengths(mean=11 / 6, median=1.5, p95=4, max=4),  # 1 4 1 2 2 1
    }


def test_lengths_in_tokens_come_from_the_tokenizer_given() -> None:
    made = card(count_tokens=lambda texts: [len(text) for text in texts])
    assert made.unit == "tokens"
    assert made.lengths["chosen"] == Lengths(mean=(5 + 3 + 5 + 3 + 1 + 3) / 6, median=3.0, p95=5, max=5)


def test_a_prompts_length_is_that_of_all_its_messages() -> None:
    prompt = (Message("user", "a b"), Message("assistant", "c"), Message("user", "d"))
    made = make_card([Pair(prompt, "x", "y")], [], source="s", seed=0, rows_read=1)
    assert made.lengths["prompt"].max == 4


def test_p95_is_the_nearest_rank() -> None:
    assert lengths_of(range(1, 101)) == Lengths(mean=50.5, median=50.5, p95=95, max=100)
    assert lengths_of(range(1, 21)).p95 == 19
    assert lengths_of([4]) == Lengths(mean=4.0, median=4.0, p95=4, max=4)
    assert lengths_of([]) == Lengths(mean=0.0, median=0.0, p95=0, max=0)


def test_always_prefer_the_longer() -> None:
    assert longer_preferred([3, 2, 3, 2], [1, 4, 1, 2]) == (1 + 0 + 1 + 0.5) / 4
    assert longer_preferred([], []) is None
    assert card().longer_preferred == (1 + 0 + 1 + 0.5 + 0 + 1) / 6


def test_prompts_shared_with_a_given_test_set() -> None:
    given = {(Message("user", "one"),), (Message("user", "unseen"),)}
    assert card(compare_with=("other.jsonl", given)).compared == Comparison(
        name="other.jsonl", prompts=2, shared=1, rows=4
    )


def test_data_without_pairs() -> None:
    dialogue = Demonstration((Message("user", "a b"), Message("assistant", "c d e")), 1)
    made = make_card([dialogue, Prompt((Message("user", "a"),))], [], source="s", seed=0, rows_read=2)
    assert made.kinds == {"dialogues": 1, "prompts": 1}
    assert made.longer_preferred is None
    assert made.lengths["response"].max == 3
    assert set(made.lengths) == {"prompt", "response"}


def test_what_is_written() -> None:
    made = card(dropped=Counter({"empty response": 3}), notes=["<b>a note</b>"], written={"rm/train.parquet": 4})
    read = json.loads(made.to_json())
    assert read["rows"] == {"train": 4, "test": 2}
    assert read["lengths"]["chosen"]["median"] == 2.0
    page = made.markdown()
    assert "a\\|b.jsonl: 9 rows read as preference; kept 6 preference pairs; seed 7" in page
    assert "| empty response | 3 |" in page
    assert "| chosen | 2.2 | 2 | 3 | 3 |" in page
    assert '| accuracy of "always prefer the longer" in words | 3.5 of 6 |' in page
    assert "| rm/train.parquet | 4 |" in page
    assert "<b>" not in page


def test_the_terminal_shows_names_as_they_are() -> None:
    from rich.console import Console

    out = io.StringIO()
    made = make_card(TRAIN, TEST, source="[red]x.jsonl", seed=0, rows_read=6, notes=["[link=x]"])
    made.show(Console(file=out, width=120))
    assert "[red]x.jsonl: 6 rows read" in out.getvalue()
    assert "[link=x]" in out.getvalue()
    assert "3.5 of 6" in out.getvalue()
