"""Planted bugs of training/: the loop, checkpoints, the schedule, defaults."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="patience-starts-again-after-a-resume",
        file="training/loop.py",
        old='self.state = LoopState(**saved["loop"])',
        new='self.state = LoopState(**saved["loop"] | {"stale_evaluations": 0})',
        story="A run with early stopping that is interrupted trains longer than one that is not.",
        tests=("training/test_loop.py",),
    ),
    Mutant(
        name="skipped-steps-forgotten-after-a-resume",
        file="training/loop.py",
        old='self.state = LoopState(**saved["loop"])',
        new='self.state = LoopState(**saved["loop"] | {"skipped": 0, "skipped_in_a_row": 0})',
        story="A run that is resumed says that no step was left out, whatever was before.",
        tests=("training/test_loop.py",),
    ),
    Mutant(
        name="steps-draw-from-where-the-last-one-left-off",
        file="training/loop.py",
        old='        reseed(self.seed, "loop/step", state.step)\n',
        new="",
        story="Dropout and people's rewards draw other numbers after a resume, so the run is another one.",
        tests=("training/test_loop.py",),
    ),
    Mutant(
        name="a-resume-forgets-the-algorithms-numbers",
        file="training/loop.py",
        old='        self.algorithm.load_numbers(saved["algorithm"])\n',
        new="",
        story="A resumed PPO run starts with the first KL coefficient and without reward statistics.",
        tests=("training/test_loop.py",),
    ),
    Mutant(
        name="an-equal-evaluation-is-better",
        file="training/loop.py",
        old="return value > best if self.algorithm.greater_is_better else value < best",
        new="return value >= best if self.algorithm.greater_is_better else value <= best",
        story="A run that no longer improves never stops early, and exports the longest trained of equal weights.",
        tests=("training/test_loop.py",),
    ),
    Mutant(
        name="a-checkpoints-folder-is-not-synced",
        file="training/checkpoint.py",
        old="        sync(temporary)\n",
        new="",
        story="After a power cut a checkpoint's folder may lack the files whose contents are safe.",
        tests=("training/test_checkpoint.py",),
    ),
    Mutant(
        name="the-manifest-does-not-vouch-for-itself",
        file="training/checkpoint.py",
        old='if text != _render_manifest(content["step"], content["files"], content["about"], content["format"]):',
        new='if content["format"] < 0:',
        story="A flipped bit in the manifest changes the recorded settings, and a resume is refused or wrongly taken.",
        tests=("training/test_checkpoint.py",),
    ),
    Mutant(
        name="the-rate-falls-one-step-too-early",
        file="training/schedule.py",
        old="start = warmup - 1 if warmup else 0",
        new="start = warmup - 1 if warmup else -1",
        story="Without warm-up no step has the learning rate that was asked for.",
        tests=("training/test_schedule.py",),
    ),
    Mutant(
        name="time-left-counts-steps-of-before",
        file="training/progress.py",
        old="steps = self._last_line - self._started, self._done - self._first",
        new="steps = self._last_line - self._started, self._done",
        story="A resumed run promises to end much sooner than it does.",
        tests=("training/test_progress.py",),
    ),
    Mutant(
        name="a-slow-save-is-made-more-often",
        file="training/saver.py",
        old="waited >= max(60 * config.save_minutes, self._cost / SHARE)",
        new="waited >= max(60 * config.save_minutes, self._cost)",
        story="Half of the time of a run with a large model goes into saving.",
        tests=("training/test_saver.py",),
    ),
    Mutant(
        name="an-encoder-at-a-decoders-rate",
        file="training/defaults.py",
        old="        (start.is_encoder, ENCODER),\n",
        new="",
        story="A reward model on BERT is trained at more than three times the rate that suits it.",
        tests=("training/test_defaults.py",),
    ),
    Mutant(
        name="one-checkpoint-too-few-on-the-disk",
        file="training/disk.py",
        old="checkpoints = train.keep_last + 1 if saves else 1",
        new="checkpoints = train.keep_last if saves else 1",
        story="A disk that is said to suffice fills up at the first save that removes an older one.",
        tests=("training/test_disk.py",),
    ),
)
