"""Reads the rows of a Parquet file in limited memory, whatever the file unpacks to.

A page may hold one text once for a million rows. As Python objects, each row has its own copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from concordant.core.errors import UserError
from concordant.data.rows import LONGEST_ROW, TOO_LARGE, TRUNCATED, UNREADABLE, BadRows, Row, printable, too_large

BATCH = 1024  # rows read at a time
BOMB_SIZE, BOMB_RATIO = 1 << 28, 1000  # a column of more bytes that shrinks more than so many times is refused


def parquet_rows(stream: IO[bytes], name: str, bad: BadRows) -> Iterator[Row]:
    """The rows of a Parquet file, as ``data/files.py::read_file`` gives them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        file = pq.ParquetFile(stream)
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            twice = next(column for column in names if names.count(column) > 1)
            raise UserError(f'{name}: the column "{printable(twice)}" stands twice in the Parquet file')
        _refuse_bomb(file, name)
        # Texts that a page holds once for many rows stay so, and rows are unpacked only as far as memory allows.
        texts = [c.path for c in file.schema if c.physical_type == "BYTE_ARRAY"]
        file = pq.ParquetFile(stream, read_dictionary=texts)
        for batch in file.iter_batches(batch_size=BATCH):
            for part in _fitting(batch):
                if unpacked_size(part) > LONGEST_ROW:
                    number += 1
                    bad.report(TOO_LARGE, too_large(f"{name} row {number}"))
                    continue
                for values in _parquet_values(part, f"{name} row", number, bad):
                    number += 1
                    if values is not None:
                        yield Row(file=name, unit="row", number=number, values=values)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        bad.report(TRUNCATED, f"{name} row {number + 1}: the Parquet file is truncated or damaged ({reason})")


def _refuse_bomb(file: Any, name: str) -> None:
    """Raise UserError for a column that unpacks to so many times its size that no data does.

    A page is unpacked as a whole, before its rows are counted.
    """
    for group in range(file.metadata.num_row_groups):
        about = file.metadata.row_group(group)
        for column in map(about.column, range(about.num_columns)):
            unpacked, packed = column.total_uncompressed_size, max(1, column.total_compressed_size)
            if unpacked > BOMB_SIZE and unpacked > BOMB_RATIO * packed:
                raise UserError(
                    f'{name}: refused, the column "{printable(column.path_in_schema)}" unpacks from {packed:,} to '
                    f"{unpacked:,} bytes. Data does not shrink so much"
                )


def _fitting(batch: Any) -> Iterator[Any]:
    """The batch in parts of at most ``LONGEST_ROW`` bytes as Python objects; a row that is larger stands alone."""
    if batch.num_rows < 2 or unpacked_size(batch) <= LONGEST_ROW:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _fitting(batch.slice(0, half))
    yield from _fitting(batch.slice(half))


def unpacked_size(array: Any) -> int:
    """About how many bytes an Arrow array or batch has when each of its values is there with its own copy."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, pa.RecordBatch):
        return sum(map(unpacked_size, array.columns))
    if isinstance(array, pa.DictionaryArray):
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return int(pc.sum(lengths).as_py() or 0)
    if isinstance(array, pa.StructArray):
        return sum(map(unpacked_size, array.flatten()))
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return 8 * len(array) + unpacked_size(array.flatten())
    return int(array.nbytes)


def _parquet_values(batch: Any, place: str, before: int, bad: BadRows) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch as Python objects. A row with a value that Python cannot hold is reported and gives None."""
    unreadable = unreadable_values()
    try:
        yield from batch.to_pylist()
        return
    except unreadable:
        pass  # the loop below finds the row
    for i in range(batch.num_rows):
        values = None
        try:
            (values,) = batch.slice(i, 1).to_pylist()
        except unreadable as error:
            report_unreadable(f"{place} {before + i + 1}", error, bad)
        yield values


def unreadable_values() -> tuple[type[Exception], ...]:
    """What Arrow raises for a value that Python cannot hold: bytes that are no UTF-8, a date of the year 40,000."""
    import pyarrow as pa

    return (pa.ArrowException, ValueError, OverflowError, TypeError, RecursionError)


def report_unreadable(where: str, error: Exception, bad: BadRows) -> None:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    bad.report(UNREADABLE, f"{where}: a value that cannot be read ({reason})")
