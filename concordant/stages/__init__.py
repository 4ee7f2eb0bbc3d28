"""One module for each verb. The function of a verb takes the verb's config and does the whole stage.

``concordant`` offers the functions by name (``concordant.sft``) and imports a module when its function is first used.
This package imports nothing.
"""
