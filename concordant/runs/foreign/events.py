"""Reads the event files of TensorBoard.

An event file is a sequence of records: eight bytes of length, four of a checksum, the event, four of a checksum. This
framing is read here, because TensorBoard's own reader loads TensorFlow if it is installed. The events themselves are
protocol buffers, which TensorBoard's classes decode; TensorBoard is one of our dependencies. Checksums are not
compared: a damaged event does not decode, and the reader stops there.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "tfevents"
_LENGTH = struct.Struct("<Q")
_LONGEST = 2**28  # bytes of an event; a greater length is damage


def read_events(paths: list[Path]) -> tuple[list[dict[str, Any]], str]:
    """A row ``{"step": …, name: value}`` for each scalar, in the order of the files; and a sentence about damage."""
    rows: list[dict[str, Any]] = []
    damage = ""
    for path in paths:
        for event in _events(path):
            if isinstance(event, str):
                damage = f"{path}: {event}"
                continue
            for value in event.summary.value:
                scalar = _scalar(value)
                if scalar is not None:
                    rows.append({"step": event.step, value.tag: scalar})
    return rows, damage


def _events(path: Path) -> Iterator[Any]:
    """The events of a file; a text for damage, after which nothing follows."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    with path.open("rb") as file:
        while header := file.read(_LENGTH.size + 4):
            if len(header) < _LENGTH.size + 4:
                return  # the writer is still writing, or was killed
            (length,) = _LENGTH.unpack(header[: _LENGTH.size])
            if length > _LONGEST:
                yield f"damaged at byte {file.tell()}; the rest is left out"
                return
            data = file.read(length)
            if len(data) < length or len(file.read(4)) < 4:
                return
            try:
                yield Event.FromString(data)
            except DecodeError:
                yield f"damaged at byte {file.tell()}; the rest is left out"
                return


def _scalar(value: Any) -> float | None:
    """The number of a summary value: PyTorch writes it plainly, TensorFlow 2 as a tensor."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or math.prod(d.size for d in value.tensor.tensor_shape.dim) != 1:
        return None
    tensor = value.tensor
    if tensor.float_val:
        return float(tensor.float_val[0])
    if tensor.double_val:
        return float(tensor.double_val[0])
    sizes = {4: "<f", 8: "<d"}
    form = sizes.get(len(tensor.tensor_content))
    return float(struct.unpack(form, tensor.tensor_content)[0]) if form else None
