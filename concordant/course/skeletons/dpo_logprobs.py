"""Exercise 4: the log-probs of responses. Then run: concordant course check 4 exercise_4.py"""

from __future__ import annotations

from torch import Tensor


def compute_log_probs(logits_BTV: Tensor, ids_BT: Tensor, is_response_BT: Tensor) -> Tensor:
    """The sum of the response tokens' log-probs, (B,), in nats.

    ``is_response_BT`` is True where ``ids_BT`` has a response token, and False for the prompt and for padding.
    B texts, T positions, V tokens of the vocabulary.
    """
    raise NotImplementedError("the logits at t predict the token at t + 1")
