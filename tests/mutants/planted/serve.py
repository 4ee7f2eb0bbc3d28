"""Planted bugs of serve/: who is let in, whose turn it is, whose settings a row has."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="a-client-that-left-keeps-its-slot",
        file="serve/answers.py",
        old="            if not call.is_over:\n                self.loop.forget(call)",
        new="            pass",
        story="Answers for people who closed the page are sampled to their end, and the others wait.",
        tests=("serve/test_openai.py::test_a_client_that_goes_away_frees_its_slot",),
    ),
    Mutant(
        name="one-caller-takes-every-turn",
        file="serve/queue.py",
        old="self._lines.move_to_end(caller)",
        new="pass",
        story="Who sends a hundred requests is answered a hundred times before anybody else.",
        tests=("serve/test_queue.py",),
    ),
    Mutant(
        name="any-host-is-this-machine",
        file="serve/gate.py",
        old='or "origin" in request.headers',
        new="",
        story="A web page in the user's browser talks with the model on the user's machine.",
        tests=("serve/test_gate.py::test_without_keys_only_programs_of_this_machine_are_served",),
    ),
    Mutant(
        name="a-queue-without-end",
        file="serve/queue.py",
        old="if self.waiting + len(call.samples) > self.most:",
        new="if False:",
        story="Requests pile up in memory, and nobody is told to come again later.",
        tests=("serve/test_queue.py",),
    ),
    Mutant(
        name="text-that-was-held-back-is-lost",
        file="serve/answers.py",
        old="new = self.texts[i].rest(ids) if reason else self.texts[i].more(ids)",
        new="new = self.texts[i].more(ids)",
        story="The last letters of a streamed answer are missing where they could have begun a stop string.",
        tests=("serve/test_openai.py",),
    ),
)
