"""The environment ``guess``: the policy looks for a secret number and hears after each guess where the number lies."""

from __future__ import annotations

import re


class Guess:
    """Replies "higher" or "lower" to a guess; the right number ends the game.

    The secret number is the column ``ground_truth``. The score is 1 if the last guess was right, less ``COST`` for each
    guess after the first, and 0 for a game without a right guess.
    """

    role = "user"
    COST = 0.1
    LEAST = 0.1  # the score of a right guess is never below this number

    def __init__(self, ground_truth: object) -> None:
        self.secret = int(str(ground_truth))
        self.guesses = 0
        self.found = False

    def reply(self, said: str) -> str | None:
        numbers = re.findall(r"-?\d+", said)
        self.guesses += 1
        if not numbers:
            return "say a number"
        guess = int(numbers[-1][:20])
        self.found = guess == self.secret
        return None if self.found else "higher" if guess < self.secret else "lower"

    def score(self) -> float:
        return max(self.LEAST, 1 - self.COST * (self.guesses - 1)) if self.found else 0.0
