"""Planted bugs of studio/: what a stranger may do, and what a curve shows."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="a-run-outside-the-folder-of-runs",
        file="studio/folders.py",
        old="inside = folder.is_relative_to(root) and folder != root and folder.is_dir()",
        new="inside = folder != root and folder.is_dir()",
        story="A link in the folder of runs shows any folder of the machine as a run.",
        tests=("studio/test_guard.py",),
    ),
    Mutant(
        name="a-body-of-any-size",
        file="serve/bodies.py",  # the studio's guard reads bodies by it
        old="                if size > most:\n",
        new="                if size > 100 * most:\n",
        story="A request without a length fills the memory of the studio.",
        tests=("studio/test_guard.py",),
    ),
    Mutant(
        name="cookies-for-other-sites",
        file="studio/guard.py",
        old="Path=/; HttpOnly; SameSite=Strict",
        new="Path=/; HttpOnly; SameSite=None",
        story="A page of another site sends requests in the name of the studio's owner.",
        tests=("studio/test_guard.py",),
    ),
    Mutant(
        name="a-rater-reads-the-results",
        file="studio/ask.py",
        old='Guests(("/ask", "/api/ask/"), desk.accepts, desk.learn)',
        new='Guests(("/ask", "/api/"), desk.accepts, desk.learn)',
        story="A rater reads which policy gave which answer, and who leads, before the vote.",
        tests=("studio/test_ask.py",),
    ),
    Mutant(
        name="a-curve-without-its-peaks",
        file="studio/decimate.py",
        old="    keep[starts + np.where(gaps, -np.inf, table).argmax(axis=1)] = True\n",
        new="",
        story="A curve of many points does not show a spike.",
        tests=("studio/test_curves.py",),
    ),
)
