"""Elastic weight consolidation (EWC): weights that matter for given texts are held near their present values.

Kirkpatrick et al. 2017, 1612.00796, eq. 3: the loss gets the penalty strength / 2 · Σ F (θ - θ₀)². F is the diagonal of
the empirical Fisher information for one token. The scores of a text's tokens are uncorrelated under the model, so the
square of a text's summed gradient, divided by its number of tokens, estimates it. Then the sum without the strength
estimates how many nats a token the change of the weights costs on the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from concordant.core.trees import PromptTree


class Elastic:
    """The penalty on changes of ``parameters`` from their present values.

    ``learn`` gives the parameters the gradient of a text's mean log-prob a token, with any sign.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        texts: Sequence[PromptTree],
        strength: float,
        learn: Callable[[PromptTree], object],
    ) -> None:
        self.parameters, self.strength = parameters, strength
        self.start = [p.detach().clone() for p in parameters]
        self.fisher = [torch.zeros_like(p) for p in parameters]
        for text in texts:
            learn(text)
            tokens = sum(branch.response_length for branch in text.branches)
            for p, fisher in zip(parameters, self.fisher, strict=True):
                if p.grad is not None:  # mean² · tokens = sum² / tokens
                    fisher.addcmul_(p.grad, p.grad, value=tokens / len(texts))
                    p.grad = None

    @torch.no_grad()
    def pull(self) -> float:
        """Add the penalty's gradient, strength · F (θ - θ₀), to the gradients; returns the penalty."""
        products = []
        for p, start, fisher in zip(self.parameters, self.start, self.fisher, strict=True):
            moved = p - start
            force = self.strength * fisher * moved
            p.grad = force if p.grad is None else p.grad.add_(force)
            products.append((force * moved).sum())
        return float(torch.stack(products).sum()) / 2
