"""A module a verb: each verb's function takes the verb's config and does the whole stage.

``concordant`` gives the functions by their names (``concordant.sft``) and imports a module when its function is first
used; this package imports nothing.
"""
