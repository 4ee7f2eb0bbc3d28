"""Planted bugs of pipeline/: what is kept, what runs again, which key wins."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="a-stage-does-not-notice-what-it-builds-on",
        file="pipeline/fingerprint.py",
        old='"needs": dict(needs), "files": files',
        new='"needs": sorted(needs), "files": files',
        story="After a changed SFT stage the old DPO and PPO results are kept and compared.",
        tests=("test_pipeline.py",),
    ),
    Mutant(
        name="a-pipeline-keeps-results-of-other-code",
        file="pipeline/fingerprint.py",
        old='"files": files, "code": code_version()}',
        new='"files": files}',
        story="After an update the report mixes results of two versions.",
        tests=("test_pipeline.py",),
    ),
    Mutant(
        name="a-continued-stage-forgets-its-first-part",
        file="pipeline/runner.py",
        old="    seconds = spent + time.monotonic() - started\n",
        new="    seconds = time.monotonic() - started\n",
        story="The table of times shows of an interrupted stage only the time after its resume.",
        tests=("test_pipeline.py",),
    ),
    Mutant(
        name="kept-stages-count-in-the-total",
        file="pipeline/runner.py",
        old='total = sum(report.seconds for report in reports if report.outcome != "kept")',
        new="total = sum(report.seconds for report in reports)",
        story="A pipeline that had nothing to do says that it took an hour.",
        tests=("test_pipeline.py",),
    ),
    Mutant(
        name="a-shared-option-beats-a-stages-own-key",
        file="pipeline/plan.py",
        old="            _assigned(keys, own[name]),\n",
        new="            _assigned(keys, [(k, v) for k, v in options if k.partition('.')[0] in top] + own[name]),\n",
        story="--seed on the command line changes a stage whose seed the file fixes.",
        tests=("test_pipeline.py",),
    ),
    Mutant(
        name="a-stage-whose-model-and-folder-are-both-named",
        file="pipeline/plan.py",
        old="needs[stage] = needs.get(stage, False) or not dot",
        new="needs[stage] = not dot",
        story="A stage that names a run folder last is not told before it starts that the model is missing.",
        tests=("test_pipeline.py",),
    ),
    Mutant(
        name="a-done-stage-is-continued",
        file="pipeline/runner.py",
        old="goes_on = record is not None and not record.done and record.fingerprint == now",
        new="goes_on = record is not None and record.fingerprint == now",
        story="A finished stage whose model was deleted is not made again.",
        tests=("test_pipeline.py",),
    ),
    Mutant(
        name="a-round-is-not-compared-with-itself",
        file="pipeline/rounds.py",
        old="for k in range(1, self.number + 1)]",
        new="for k in range(1, self.number)]",
        story="The report of a round leaves out the policy of this round.",
        tests=("test_rounds.py",),
    ),
    Mutant(
        name="every-round-begins-at-the-first-policy",
        file="pipeline/rounds.py",
        old="if self.number > 1:",
        new="if self.number > 9:",
        story="No round goes on from the policy of the round before.",
        tests=("test_rounds.py",),
    ),
    Mutant(
        name="votes-begin-a-stage-again",
        file="config/paths.py",
        old="return [] if is_votes(text) else [text]",
        new="return [text]",
        story="As soon as somebody has voted, the pairs are sampled again, and on a GPU they may be others.",
        tests=("stages/test_collect.py",),
    ),
    Mutant(
        name="answers-of-a-judge-removed",
        file="pipeline/runner.py",
        old="elif entry.name not in (LOCK, ASKED):",
        new="elif entry.name != LOCK:",
        story="A stage that is run again asks a judge every question a second time, and pays for it.",
        tests=("stages/test_collect_words.py",),
    ),
)
