"""Plain tensor mathematics, without models and files.

The name of a tensor ends in one letter for each dimension. The letters mean the same in the whole package: B branches
(responses), G prompts (groups), N response tokens of all branches one after another, T tokens of one row, one trunk or
one branch, P pairs, R rows, L row length, V vocabulary, H hidden size, C tokens of a chunk, I and O a layer's inputs
and outputs, D head size, K keys, Q queries.
"""
