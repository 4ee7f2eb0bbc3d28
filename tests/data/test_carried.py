"""Columns that a format does not read reach a reward function by name: from the file, and from what `prepare` wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concordant.config.data import DataConfig
from concordant.config.stages import PrepareConfig
from concordant.core.errors import UserError
from concordant.data.carried import EVERYTHING, Wanted, value
from concordant.data.prepare import prepare
from concordant.data.records import Demonstration, Pair, Prompt, Rating
from concordant.data.splits import load_records
from concordant.runs.inputs import records_hash

Values = list[dict[str, Any]]


def put(path: Path, rows: Values) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prepared(tmp_path: Path, path: str, **data: Any) -> str:
    output = str(tmp_path / "out")
    prepare(PrepareConfig(data=DataConfig(path=path, **data), output=output))
    return output


def by_prompt(path: str, name: str, wanted: Wanted = EVERYTHING, **data: Any) -> dict[str, Any]:
    loaded = load_records(DataConfig(path=path, **data), Prompt, 0, wanted=wanted)
    return {p.messages[-1].content: value(p.extra, name) for p in loaded.train + loaded.test}


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types at every level. The keys of an object have no order, as in JSON."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "prompt": lambda i: {"prompt": f"q{i}"},
    "verl": lambda i: {"prompt": f"q{i}", "data_source": "d", "extra_info": {"index": i}},
    "pair": lambda i: {"prompt": f"q{i}", "chosen": "a", "rejected": "b"},
    "dialogue": lambda i: {"prompt": f"q{i}", "response": "a"},
    "rated answer": lambda i: {"prompt": f"q{i}", "completion": "a", "label": i % 2 == 0},
    "ranking": lambda i: {"instruction": f"q{i}", "generations": ["a", "b"], "ratings": [1, 2]},
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_column_of_every_kind_of_data_reaches_a_function(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path / "a.jsonl", [{**ROWS[kind](i), "topic": f"t{i}"} for i in range(8)])
    expected = {f"q{i}": f"t{i}" for i in range(8)}
    for source in (path, prepared(tmp_path, path)):
        assert by_prompt(source, "topic") == expected
        assert by_prompt(source, "topic", Wanted(frozenset({"topic"}))) == expected


MIXED: list[list[Any]] = [
    [1, 2, 3],
    [1, 2.5, 3],
    [True, False, None],
    ["a", 1, [2]],
    [{"a": 1}, {"b": 2}, {"a": None}],
    [{"a": 1, "b": {"c": [1, 2]}}, {"a": 2, "b": {"c": []}}, None],
    [[], [1], [1.5, "x"]],
    [{}, {"a": {}}, [{}]],
    [10**30, 1, -1],
    ['{"no": "object"}', "[1]", ""],
]


@pytest.mark.parametrize("values", MIXED)
def test_a_column_keeps_its_types_through_prepare(tmp_path: Path, values: list[Any]) -> None:
    rows = [{"prompt": f"q{i}", "column": values[i % 3]} for i in range(9)]
    path = put(tmp_path / "a.jsonl", rows)
    for source in (path, prepared(tmp_path, path)):
        found = by_prompt(source, "column")
        assert all(same(found[f"q{i}"], values[i % 3]) for i in range(9)), found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé{["'),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(["x", "y z"]), JSON, max_size=2), min_size=2, max_size=4))
def test_any_value_comes_back_as_it_was(tmp_path: Path, columns: Values) -> None:
    path = put(tmp_path / "a.jsonl", [{"prompt": f"q{i}", **row} for i, row in enumerate(columns)])
    output = prepared(tmp_path, path)
    for name in ("x", "y z"):
        found = by_prompt(output, name)
        assert all(same(found[f"q{i}"], row.get(name)) for i, row in enumerate(columns))


def test_a_column_of_the_data_comes_before_a_name_inside_extra_info_here_and_there(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", [{"prompt": f"q{i}", "level": i, "extra_info": {"level": -i}} for i in range(4)])
    for source in (path, prepared(tmp_path, path)):
        assert by_prompt(source, "level") == {f"q{i}": i for i in range(4)}


def test_the_truth_is_read_from_every_place_where_data_keeps_it(tmp_path: Path) -> None:
    places: Values = [
        {"answer": "4"},
        {"ground_truth": "4", "answer": "2 + 2 is 4"},
        {"reward_model": {"style": "rule", "ground_truth": "4"}, "answer": "2 + 2 is 4"},
        {"reward_model": {"style": "model", "ground_truth": 1.0}, "answer": "4"},
        {"extra_info": {"answer": "4"}},
    ]
    for place in places:
        path = put(tmp_path / "a.jsonl", [{"prompt": f"q{i}", **place} for i in range(4)])
        for source in (path, prepared(tmp_path, path)):
            assert set(by_prompt(source, "ground_truth").values()) == {"4"}, place


def test_parquet_columns_keep_their_types(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["q", "r"], "level": pa.array([1, None], pa.int16()), "parts": [[{"a": 1}], []]})
    pq.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    for source in (path, prepared(tmp_path, path)):
        assert by_prompt(source, "level") == {"q": 1, "r": None}
        assert by_prompt(source, "parts") == {"q": [{"a": 1}], "r": []}


# -- what the run sees, and what it does not --------------------------------------------------------------------------


def hash_of(path: str, want: type, wanted: Wanted) -> str:
    loaded = load_records(DataConfig(path=path), want, 0, wanted=wanted)
    return records_hash([loaded.train, loaded.test])


@pytest.mark.parametrize("want", [Pair, Demonstration, Rating, Prompt])
def test_only_columns_that_can_change_what_is_learnt_are_inputs_of_the_run(tmp_path: Path, want: type) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", "level": i, "note": "x"} for i in range(8)]
    changed = [{**row, "note": "y"} for row in rows]
    harder = [{**row, "level": 9} for row in rows]
    paths = [put(tmp_path / f"{i}.jsonl", r) for i, r in enumerate((rows, changed, harder))]
    level = Wanted(frozenset({"level"}))
    first, other_note, other_level = (hash_of(path, want, level) for path in paths)
    assert first == other_note
    assert (first != other_level) == (want is Prompt), "other stages read no column of a reward function"
    everything = [hash_of(path, want, EVERYTHING) for path in paths]
    assert len(set(everything)) == (3 if want is Prompt else 1)


def test_named_columns_have_one_order_in_every_process() -> None:
    names = [f"column {i}" for i in range(20)]
    extra = {name: 1 for name in reversed(names)}
    assert list(Wanted(frozenset(names)).of(extra)) == sorted(names)


def test_equal_prompts_are_given_once_unless_a_column_that_is_named_differs(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "level": level, "id": i} for i, level in enumerate([1, 1, 2])]
    config = DataConfig(path=put(tmp_path / "a.jsonl", rows)).whole()

    def count(wanted: Wanted) -> int:
        return len(load_records(config, Prompt, 0, wanted=wanted).train)

    named = frozenset({"level"})
    assert [count(w) for w in (Wanted(), EVERYTHING, Wanted(named), Wanted(named, every=True))] == [1, 1, 2, 2]
    config = DataConfig(path=put(tmp_path / "a.jsonl", [{"prompt": "q", "answer": a} for a in "445"])).whole()
    assert [count(w) for w in (Wanted(), EVERYTHING)] == [1, 2]


# -- which data it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["answer", "ground_truth", "solution", "target", "label", "topic", "test_cases"])
def test_a_prompt_beside_any_column_of_a_reward_is_a_prompt(tmp_path: Path, column: str) -> None:
    path = put(tmp_path / "a.jsonl", [{"prompt": f"{i} + 1?", column: str(i + 1)} for i in range(4)])
    assert by_prompt(path, column) == {f"{i} + 1?": str(i + 1) for i in range(4)}
    with pytest.raises(UserError, match=f"not read: {column} .--data.columns response={column} reads {column} as"):
        load_records(DataConfig(path=path), Demonstration, 0)


def test_the_card_says_which_columns_are_carried_along_and_which_are_left_alone(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "answer": "a", "id": i, "note": "x"} for i in range(4)]
    data = DataConfig(path=put(tmp_path / "a.jsonl", rows), columns=["ignore=note"])
    card = prepare(PrepareConfig(data=data, output=str(tmp_path / "out")))
    assert card.columns == {"used": ("prompt",), "carried along": ("answer", "id"), "not used": ("note",)}
    assert "note" not in (tmp_path / "out" / "rl" / "train.parquet").read_bytes().decode("latin-1")
    assert by_prompt(str(tmp_path / "out"), "id") == {f"q{i}": i for i in range(4)}
    assert set(by_prompt(str(tmp_path / "out"), "note").values()) == {None}


def test_questions_beside_an_answer_say_how_the_answers_are_imitated(tmp_path: Path) -> None:
    """SFT refuses them by the same option; prepare wrote prompts alone, without a word."""
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(4)]
    path, output = put(tmp_path / "a.jsonl", rows), str(tmp_path / "out")
    (note,) = prepare(PrepareConfig(data=DataConfig(path=path), output=output)).notes
    assert "read as prompts alone: answer is kept" in note and "--data.columns response=answer reads" in note
    card = prepare(PrepareConfig(data=DataConfig(path=path, columns=["response=answer"]), output=output))
    assert (card.notes, card.kinds) == ((), {"dialogues": 4})
    found = load_records(DataConfig(path=output), Demonstration, 0)
    assert {(r.messages[0].content, r.messages[1].content) for r in (*found.train, *found.test)} == {
        (row["question"], row["answer"]) for row in rows
    }


def test_prompts_without_an_answer_beside_dialogues_are_prompts_of_the_prepared_data_too(tmp_path: Path) -> None:
    asked = [{"messages": [{"role": "user", "content": f"q{i}"}]} for i in range(4)]
    answered = [
        {"messages": [{"role": "user", "content": f"r{i}"}, {"role": "assistant", "content": "a"}]} for i in range(4)
    ]
    path, output = put(tmp_path / "a.jsonl", [*asked, *answered]), str(tmp_path / "out")
    prepare(PrepareConfig(data=DataConfig(path=path), output=output))
    for want, prompts in ((Prompt, "qr"), (Demonstration, "r")):
        for source in (path, output):
            found = load_records(DataConfig(path=source), want, 0)
            seen = {record.messages[0].content for record in (*found.train, *found.test)}
            assert seen == {f"{letter}{i}" for letter in prompts for i in range(4)}, (want, source)


def test_the_card_lists_every_column_of_the_input_by_its_own_name(tmp_path: Path) -> None:
    rows = [{"ask": f"q{i}", "prompt": "the same each time", "id": i, "note": "x"} for i in range(4)]
    data = DataConfig(path=put(tmp_path / "a.jsonl", rows), columns=["prompt=ask,ignore=note"])
    card = prepare(PrepareConfig(data=data, output=str(tmp_path / "out")))
    assert card.columns == {"used": ("ask (as prompt)",), "carried along": ("id",), "not used": ("note", "prompt")}


def test_a_terminal_never_gets_the_escapes_of_a_column_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"\x1b[31mred": 1, "\x9b2J": 2, "a\x07": "\ud800"}
    path = put(tmp_path / "a.jsonl", [{"prompt": f"q{i}", "answer": "a", **columns} for i in range(4)])
    card = prepare(PrepareConfig(data=DataConfig(path=path), output=str(tmp_path / "out")))
    card.show()
    shown = capsys.readouterr().out + (tmp_path / "out" / "card.md").read_text()
    assert "\\x1b[31mred" in shown and not {"\x1b", "\x9b", "\x07"} & set(shown)
    assert by_prompt(str(tmp_path / "out"), "\x1b[31mred") == {f"q{i}": 1 for i in range(4)}


def test_a_value_that_no_file_of_ours_can_hold_is_left_out_and_counted(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    rows = [{"prompt": "q", "x": "\ud800"}, {"prompt": "r", "x": deep}, {"prompt": "s", "x": "fine"}]
    path = put(tmp_path / "a.jsonl", rows)
    card = prepare(PrepareConfig(data=DataConfig(path=path), output=str(tmp_path / "out")))
    assert card.rows_used == 3
    assert card.notes[0].startswith("column x: 2 values are left out")
    assert by_prompt(str(tmp_path / "out"), "x") == {"q": None, "r": None, "s": "fine"}
