"""The laws of RLHF, tested in a world with a known truth: ``make science``. Each law is one short script.

The scripts use the library as any user would: ``import concordant`` and nothing else of it.
"""
