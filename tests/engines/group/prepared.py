"""Imported before any process is forked: the pairs that every run of ``bench.small_run`` reads are drawn once."""

from concordant.data import toytalk

toytalk.training_pairs("demo", 0)
toytalk.heldout_pairs("demo", 0)
