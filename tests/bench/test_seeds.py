"""Seeds of a long measurement are run one by one: what was measured before stays."""

import json
from pathlib import Path

from bench.distill import RESULTS, results
from bench.drive import save, with_earlier


def seed(number, share):
    return {"seed": number, "share_of_teacher": {"student": share}}


def test_rows_of_other_seeds_stay_and_one_that_is_measured_anew_is_replaced(tmp_path):
    path = tmp_path / "rows.json"
    one = [{"example": "b", "seed": 0, "x": 1}, {"example": "a", "seed": 1, "x": 2}]
    assert with_earlier(path, one, ("example", "seed")) == one[::-1]
    save(path, {"rows": one})
    anew = [{"example": "b", "seed": 0, "x": 3}, {"example": "b", "seed": 2, "x": 4}]
    assert [row["x"] for row in with_earlier(path, anew, ("example", "seed"))] == [2, 3, 4]


def test_students_of_other_seeds_stay_where_their_steps_are_the_same(tmp_path):
    path = tmp_path / "distill.json"
    save(path, results(path, [seed(3, 1.0)], 300, 100))
    both = results(path, [seed(1, 0.5)], 300, 100)
    assert (both["share_of_teacher"], both["mean"]) == ([0.5, 1.0], 0.75)
    assert results(path, [seed(1, 0.5)], 300, 99)["share_of_teacher"] == [0.5]


def test_the_measured_file_can_be_gone_on_with(tmp_path):
    path = tmp_path / "distill.json"
    path.write_text((RESULTS / "distill.json").read_text())
    measured = [one["seed"] for one in json.loads(Path(path).read_text())["seeds"]]
    assert [one["seed"] for one in results(path, [seed(99, 0.5)], 300, 100)["seeds"]] == [*measured, 99]
