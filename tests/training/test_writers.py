"""faults.md row 26: a tracker that is down never stops the training."""

from __future__ import annotations

from concordant.training.writers import TensorBoard, Trackers


class Broken:
    def __init__(self, fail_at):
        self.logged, self.fail_at = [], fail_at

    def log(self, step, metrics):
        if step >= self.fail_at:
            raise ConnectionError("tracker is down")
        self.logged.append(step)

    def close(self, done=True):
        raise AssertionError("a dropped tracker is not called again")


def test_a_tracker_that_fails_is_dropped_with_one_message():
    said, broken = [], Broken(fail_at=2)
    trackers = Trackers({"T": lambda: broken}, said.append)
    for step in range(1, 5):
        trackers.log(step, {})
    trackers.close()
    assert broken.logged == [1]
    assert said == ["T stopped (ConnectionError: tracker is down); the run goes on, metrics.jsonl has it all"]


def test_a_tracker_that_cannot_start_does_not_stop_the_others():
    class Good(Broken):
        def close(self, done=True):
            self.logged.append("closed")

    said, good = [], Good(fail_at=99)

    def missing():
        raise ModuleNotFoundError("No module named 'x'")

    trackers = Trackers({"missing": missing, "good": lambda: good}, said.append)
    trackers.log(1, {})
    trackers.close()
    assert good.logged == [1, "closed"]
    assert said[0].startswith("missing stopped (ModuleNotFoundError")


def test_tensorboard_files_are_written(tmp_path):
    board = TensorBoard(tmp_path / "tb", first_step=1)
    board.log(1, {"step": 1, "loss": 0.5, "bad": float("nan")})
    board.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5)]
