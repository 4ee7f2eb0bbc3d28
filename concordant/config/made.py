"""The base of every config class: a wrong value is refused on the line that makes the config."""

from __future__ import annotations


class Made:
    """Checks each value alone when the config is made.

    Keys that are missing and keys that contradict each other are found when a verb gets the whole config
    (``checks.checked``), because a config may be made in several steps.
    """

    def __post_init__(self) -> None:
        from concordant.config.checks import validate_values  # that file imports the classes that extend this one

        validate_values(self, prefix=f"{type(self).__name__}.")
