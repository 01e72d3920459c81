"""Texts from files: plain text, JSON lines, tables and Parquet, read piece by piece."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from layerlens.errors import InputError

Read = tuple[Any, float, str]
"""A record (a text, or an object with fields), the share of the file that was read with it, 0 to
1, and where it stands, for errors."""

SPLITS = ("paragraph", "line", "file")
DELIMITERS = {"csv": ",", "tsv": "\t"}
"""Of plain tables."""
KINDS = ("txt", "md", "jsonl", "ndjson", *DELIMITERS, "parquet")
ROWS_AT_ONCE = 256


def read_file(path: Path, fields: Sequence[str], split: str) -> Iterator[Read]:
    """Read the records of a file, in their order.

    Parameters
    ----------
    path
        ``.txt``, ``.md``, ``.jsonl``, ``.ndjson``, ``.csv`` or ``.tsv``, each also with ``.gz``
        behind; ``.parquet``.
    fields
        Columns of a Parquet table to read; plain text has none.
    split
        What one text of a plain file is: ``paragraph``, ``line`` or ``file``.

    Raises
    ------
    InputError
        The file is not there, of another format or damaged, or a column is not in it.
    """
    kind = _kind(path)
    if kind == "parquet":
        return _parquet(path, list(fields))
    if kind in ("jsonl", "ndjson"):
        return _json_lines(path)
    if kind in DELIMITERS:
        return _table(path, DELIMITERS[kind])
    return {"paragraph": _paragraphs, "line": _lines, "file": _whole}[split](path)


def has_fields(path: Path) -> bool:
    """Whether its records are objects with fields."""
    return _kind(path) not in ("txt", "md")


def require_file(path: Path) -> None:
    """Raise `InputError` unless the file can be read and its format is known."""
    if not path.is_file():
        raise InputError(
            f"There is no file '{path}'; check the path (texts themselves are given as a list)."
        )
    _kind(path)


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    kind = name.rpartition(".")[2]
    if kind not in KINDS:
        known = ", ".join(f".{one}" for one in KINDS[:-1])
        raise InputError(f"'{path.name}' is no file of texts: expected {known} or .{KINDS[-1]}.")
    return kind


def _numbered_lines(path: Path) -> Iterator[tuple[int, str, float]]:
    """Number from 1, text without the line's end, and share read."""
    size = max(path.stat().st_size, 1)
    with path.open("rb") as raw:
        file: IO[bytes] = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw  # type: ignore[assignment]
        try:
            for number, line in enumerate(file, 1):
                # A compressed file is read ahead by blocks; the share is right to a block.
                yield number, line.decode().rstrip("\r\n"), raw.tell() / size
        except UnicodeDecodeError:
            raise InputError(
                f"'{path}' is not UTF-8 text (line {number}): convert it first."
            ) from None
        except (OSError, EOFError) as error:
            raise InputError(f"'{path}' could not be read to its end: {error}.") from error


def _lines(path: Path) -> Iterator[Read]:
    for _, line, share in _numbered_lines(path):
        yield line, share, path.name


def _paragraphs(path: Path) -> Iterator[Read]:
    """Runs of lines between empty ones; their own line breaks stay."""
    lines: list[str] = []
    share = 0.0
    for _, line, share in _numbered_lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines), share, path.name
            lines = []
    if lines:
        yield "\n".join(lines), share, path.name


def _whole(path: Path) -> Iterator[Read]:
    yield "\n".join(line for _, line, _ in _numbered_lines(path)), 1.0, path.name


def _json_lines(path: Path) -> Iterator[Read]:
    for number, line, share in _numbered_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"Line {number} of '{path}' is not JSON ({error.msg}): each line is one object."
            ) from None
        yield record, share, f"line {number} of '{path.name}'"


def _table(path: Path, delimiter: str) -> Iterator[Read]:
    """Rows by the names in the first line; everything in them is a string."""
    line, share = 0, 0.0

    def lines() -> Iterator[str]:
        nonlocal line, share
        for read in _numbered_lines(path):
            line, words, share = read
            yield (words.removeprefix("\ufeff") if line == 1 else words) + "\n"

    rows = csv.DictReader(lines(), delimiter=delimiter, strict=True)
    try:
        for record in rows:
            if None in record or None in record.values():
                raise InputError(
                    f"The row that ends in line {line} of '{path}' has not as many fields "
                    f"as the first line, which names {', '.join(rows.fieldnames or ())}: quote "
                    "fields that hold a delimiter or a quotation mark."
                )
            yield record, share, f"line {line} of '{path.name}'"
    except csv.Error as error:
        raise InputError(f"Line {line} of '{path}' is not that of a table: {error}.") from None


def _parquet(path: Path, fields: list[str]) -> Iterator[Read]:
    table = _parquet_file(path)
    names = list(table.schema_arrow.names)
    for field in fields:
        if field not in names:
            raise InputError(f"'{path.name}' has no column {field!r}: it has {', '.join(names)}.")
    total = max(table.metadata.num_rows, 1)
    done = 0
    for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=fields):
        for record in batch.to_pylist():
            done += 1
            yield record, done / total, path.name


def _parquet_file(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(
            "Reading .parquet needs pyarrow: pip install 'jupyter-layerlens[corpus]', or give a "
            ".jsonl file."
        ) from None
    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise InputError(f"'{path}' is not a Parquet file, or it is damaged: {error}") from error


def field_of(record: Any, field: str, where: str) -> Any:
    """Take a text out of a record; a record that is a text itself, or token ids, stays as it is.

    Raises
    ------
    InputError
        When the record has no such field; names those it has.
    """
    if not hasattr(record, "keys"):
        return record
    if field not in record:
        raise InputError(
            f"There is no field {field!r} in {where}: it has {', '.join(map(str, record))}; "
            "name one with field=."
        )
    return record[field]
