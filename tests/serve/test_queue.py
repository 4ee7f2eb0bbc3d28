"""Callers take turns, and no more answers wait than may."""

from __future__ import annotations

import pytest
import torch

from concordant.config.sampling import SamplingConfig
from concordant.engines.samples import Sample
from concordant.serve.queue import Call, FairQueue, Full


def call(caller, n=1):
    made = Call(caller=caller)
    prompt = torch.tensor([1])
    made.samples = [
        Sample(owner=made, prompt_T=prompt, sampling=SamplingConfig(), seed=0, room=1, number=i) for i in range(n)
    ]
    return made


def taken(queue, free):
    return [s.owner.caller for s in queue.take(lambda sample, joining: len(joining) < free)]


def test_one_who_asks_for_much_does_not_keep_others_waiting():
    queue = FairQueue(100)
    for _ in range(10):
        queue.put(call("much"))
    queue.put(call("little"))
    queue.put(call("other"))
    assert taken(queue, 4) == ["much", "little", "other", "much"]
    assert taken(queue, 100) == ["much"] * 8 and queue.waiting == 0 and taken(queue, 1) == []


def test_the_answers_of_a_call_stay_together_and_may_come_in_two_steps():
    queue = FairQueue(100)
    queue.put(call("a", 3))
    queue.put(call("b", 2))
    assert taken(queue, 2) == ["a", "a"]
    assert taken(queue, 3) == ["a", "b", "b"]


def test_a_call_that_is_gone_is_left_out_and_frees_its_place():
    queue = FairQueue(3)
    first = call("a", 3)
    queue.put(first)
    with pytest.raises(Full):
        queue.put(call("b"))
    first.gone = True
    assert taken(queue, 0) == [] and queue.waiting == 0
    queue.put(call("b", 3))
    assert taken(queue, 9) == ["b"] * 3


def test_clearing_gives_every_call_once():
    queue = FairQueue(9)
    calls = [call("a", 2), call("a"), call("b", 3)]
    for one in calls:
        queue.put(one)
    assert {id(c) for c in queue.clear()} == {id(c) for c in calls} and queue.waiting == 0
