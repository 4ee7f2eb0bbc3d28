"""Planted bugs of runs/: what outlives a kill, and what makes a resumed run another one."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="logs-are-not-synced-before-a-checkpoint",
        file="runs/folder.py",
        old="""        for name in _LOGS:
            if (self.path / name).exists():
                sync(self.path / name)
        return {name: _size""",
        new="""        return {name: _size""",
        story="After a power cut a checkpoint knows of more metrics than the disk, and the resumed log has a hole.",
        tests=("runs/test_folder.py",),
    ),
    Mutant(
        name="a-shorter-log-is-filled-with-zeros",
        file="runs/folder.py",
        old="os.truncate(self.path / name, min(_size(self.path / name), offsets.get(name, 0)))",
        new="os.truncate(self.path / name, offsets.get(name, 0))",
        story="A log that is shorter than its checkpoint says is filled up with zero bytes.",
        tests=("runs/test_folder.py",),
    ),
    Mutant(
        name="a-file-is-renamed-before-it-is-written",
        file="runs/atomic.py",
        old="            if durable:\n                os.fsync(file.fileno())\n",
        new="",
        story="After a power cut status.json or a report is empty.",
        tests=("runs/test_atomic.py",),
    ),
    Mutant(
        name="the-seal-is-replaced-first",
        file="runs/atomic.py",
        old="        (folder / seal).unlink(missing_ok=True)\n",
        new="",
        story="A kill between two files leaves an adapter's new weights beside its old config.",
        tests=("runs/test_atomic.py",),
    ),
    Mutant(
        name="template-arguments-are-only-data",
        file="runs/inputs.py",
        old='        "max_samples",\n        "test_fraction",',
        new='        "max_samples",\n        "template_args",\n        "test_fraction",',
        story="A run resumes with --data.template_args enable_thinking=false that it was not begun with.",
        tests=("runs/test_inputs.py",),
    ),
    Mutant(
        name="train-and-held-out-hash-as-one",
        file="runs/inputs.py",
        old='        digest.update(b"\\0")\n',
        new="",
        story="A run resumes after its last training record has become its first held-out one.",
        tests=("runs/test_inputs.py",),
    ),
    Mutant(
        name="files-of-one-size-are-one-file",
        file="runs/identity.py",
        old="_content(entry) if is_small else _stamp(entry)]",
        new="entry.stat().st_size]",
        story="A run resumes with a reward model that was trained again, because its files are as long as before.",
        tests=("runs/test_inputs.py",),
    ),
    Mutant(
        name="a-replaced-log-goes-on-where-the-old-one-was",
        file="runs/logs.py",
        old="self._tail = (self._tail + whole[-_TAIL:])[-_TAIL:]",
        new="self._tail = whole[-1:]",
        story="Whoever follows a run misses the rows of a resume that cut the log and wrote a longer one.",
        tests=("runs/test_logs.py",),
    ),
    Mutant(
        name="a-stopped-run-has-failed",
        file="runs/status.py",
        old="if isinstance(error, RunStopped | KeyboardInterrupt):",
        new="if isinstance(error, KeyboardInterrupt):",
        story="A run that saved and can be resumed is shown as failed.",
        tests=("runs/test_status.py", "training/test_loop.py"),
    ),
    Mutant(
        name="a-part-of-the-weights",
        file="runs/facts.py",
        old="return sum(known) if known and len(known) == len(sizes) else None",
        new="return sum(known) if known else None",
        story="The report counts the weights of the shards that can be read, as if they were the model.",
        tests=("runs/test_facts.py",),
    ),
    Mutant(
        name="a-run-began-when-it-was-last-seen",
        file="runs/facts.py",
        old='started=str(status.get("started", "")),',
        new='started=str(status.get("updated", status.get("started", ""))),',
        story="The report dates a run by its end.",
        tests=("runs/test_facts.py",),
    ),
)
