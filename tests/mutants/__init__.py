"""Planted bugs: what a subtle mistake in the package would look like, and which tests must notice it.

``mutant.py`` says what a planted bug is. ``planted/`` has a file of bugs for each folder of the package.
``__main__.py`` plants one bug at a time in a copy of the repository and runs the tests of the bug there.
"""
