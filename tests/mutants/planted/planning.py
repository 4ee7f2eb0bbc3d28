"""Planted bugs of planning/: memory that is forgotten or counted twice."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="a-planned-optimizer-with-one-moment",
        file="planning/memory.py",
        old="MOMENTS = 2  #",
        new="MOMENTS = 1  #",
        story="The plan says that a run fits whose optimizer does not.",
        tests=("planning/test_memory.py",),
    ),
    Mutant(
        name="sharded-weights-planned-whole",
        file="planning/memory.py",
        old="return whole / setup.data if setup.sharded else whole",
        new="return whole",
        story="Sharding over more GPUs does not lower the planned memory.",
        tests=("planning/test_memory.py", "planning/test_search.py"),
    ),
    Mutant(
        name="all-phases-of-a-step-at-once",
        file="planning/memory.py",
        old="return sum(self.resident.values()) + sum(self.phases[self.largest].values())",
        new="return sum(self.resident.values()) + sum(sum(phase.values()) for phase in self.phases.values())",
        story="The plan adds the cache of sampling to the activations of learning, which are never there together.",
        tests=("planning/test_memory.py", "planning/test_page.py"),
    ),
    Mutant(
        name="an-adapter-planned-as-a-whole-model",
        file="planning/memory.py",
        old="adapters = work.shape.adapters(work.rank, setup.tensor, setup.pipeline)",
        new="adapters = weights_of(work.shape, setup, work.has_head)",
        story="LoRA needs as much memory as full training in the plan.",
        tests=("planning/test_memory.py",),
    ),
)
