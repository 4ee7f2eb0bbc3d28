"""Arithmetic of ``concordant plan``: memory, time and cost of a run before it is started. This package loads no torch.

A shape (``shapes.py``) and a piece of hardware (``hardware.py``) give the memory (``memory.py``) and the time
(``duration.py``) of a step on a mesh. ``search.py`` looks for the smallest mesh that fits.
"""
