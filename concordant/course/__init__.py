"""Exercises of RLHF whose files are checked by real tests, and runs with one planted bug."""
