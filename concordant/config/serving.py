"""Settings of ``concordant serve`` and of the course."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.made import Made
from concordant.config.model import ModelConfig
from concordant.config.names import CourseAction


@dataclass(kw_only=True)
class ServeConfig(Made):
    model: ModelConfig = field(default_factory=ModelConfig)
    name: str = ""  # what requests call the model; empty: the name of its run or folder
    adapters: list[str] = field(default_factory=list)  # NAME=FOLDER of other adapters over the model's base
    reward: list[str] = field(default_factory=list)  # reward models behind /v1/score; of several, an ensemble's mean
    host: str = "127.0.0.1"  # address to listen at; an address that other machines reach needs keys
    port: int = 8000  # port to listen at; 0 takes a free one
    keys: str = ""  # file with one API key on each line; every request must bring one of them
    slots: int = 64  # answers that are sampled at once
    context: int = 2_048  # tokens that a prompt and its answer may have together; slots × context sets the memory
    queue: int = 256  # answers that may wait for a slot; a request beyond them gets status 429


@dataclass(kw_only=True)
class CourseConfig(Made):
    action: CourseAction = "list"  # list | start: write a skeleton | check | hint | solution | answer: of a break
    exercise: int = 0  # number of the exercise
    file: str = ""  # Python file of the learner; empty: exercise_NUMBER.py; of check in break and repair: the rule
