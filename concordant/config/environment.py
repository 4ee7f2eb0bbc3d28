"""Settings of the environment that a policy speaks with in several turns."""

from __future__ import annotations

from dataclasses import dataclass

from concordant.config.made import Made
from concordant.config.names import EnvironmentOnError


@dataclass(kw_only=True)
class EnvironmentConfig(Made):
    name: str = ""  # calculator | guess | module:function, which replies to the policy's turns; empty: one turn
    turns: int = 8  # the most turns of the policy in an answer
    reply_tokens: int = 256  # the most tokens of a reply's own words; a longer reply is cut at its end
    on_error: EnvironmentOnError = "fail"  # fail | skip (the answer is counted and not learnt from)
    timeout: float = 60.0  # seconds a call of the environment may take; 0: no limit
