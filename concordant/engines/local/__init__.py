"""The engine of this process: one CPU or one GPU."""
