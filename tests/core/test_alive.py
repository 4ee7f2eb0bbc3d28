from __future__ import annotations

from concordant.core.alive import heard_by, sign_of_life


def test_every_listener_hears_and_none_afterwards():
    outer, inner = [], []
    sign_of_life("steps", 0, 3)
    with heard_by(lambda *sign: outer.append(sign)):
        with heard_by(lambda *sign: inner.append(sign)):
            sign_of_life("steps", 1, 3)
        sign_of_life("steps", 2, 3)
    sign_of_life("steps", 3, 3)
    assert inner == [("steps", 1, 3)] and outer == [("steps", 1, 3), ("steps", 2, 3)]
