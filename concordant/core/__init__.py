"""Plain tensor mathematics, without models and files.

Names of tensors end in one letter a dimension. The letters mean the same in the whole package: B branches (responses),
G prompts (groups), N response tokens of all branches one after another, T tokens of one row or one branch, P pairs,
R rows, L row length, V vocabulary, H hidden size, C tokens of a chunk, I and O a layer's inputs and outputs, D head
size, K keys, Q queries.
"""
