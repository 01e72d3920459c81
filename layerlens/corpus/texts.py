"""``ll.texts()``: many texts from wherever they are, read one after the other."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from layerlens.corpus.files import field_of, read_file, require_file
from layerlens.corpus.reading import Counts, Reading
from layerlens.corpus.rows import Rows
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


class Texts:
    """Many texts, read lazily; made by :func:`texts`.

    Iterate over it for the texts themselves. It can be read again and again unless it was made
    from an iterator.

    Attributes
    ----------
    reading
        How it is read.
    add_bos
        As in ``model.tokens``; an option of the analysis that reads it.
    """

    def __init__(self, source: Any, reading: Reading) -> None:
        self.source = source
        self.reading = reading
        self.add_bos: bool | None = None
        self._files = _files(source)
        self._used: list[bool] = []

    def with_bos(self, add_bos: bool | None) -> Self:
        """Return the same texts, to be read with or without a begin token."""
        found = copy.copy(self)
        found.add_bos = add_bos
        return found

    def read(self) -> Iterator[tuple[Any, float | None]]:
        """Each text as it is in the source, and the share of the source read by then, if known.

        Neither limit is applied here.

        Raises
        ------
        InputError
            When a file is damaged or a field is missing; when it was made from an iterator that
            was read before.
        """
        if self._files is not None:
            return self._read_files(self._files)
        if isinstance(self.source, Iterator):
            if self._used:
                raise InputError(
                    "These texts came from an iterator and were read already: make them from a "
                    "list, a file or a dataset, which can be read again."
                )
            self._used.append(True)
        return self._read_items()

    def __iter__(self) -> Iterator[Any]:
        for number, (text, _) in enumerate(self.read()):
            if number == self.reading.limit:
                return
            yield text

    def _read_files(self, files: Sequence[Path]) -> Iterator[tuple[Any, float | None]]:
        sizes = [path.stat().st_size for path in files]
        total = max(sum(sizes), 1)
        for index, path in enumerate(files):
            before = sum(sizes[:index])
            for text, share in read_file(path, self.reading.field, self.reading.split):
                yield text, (before + share * sizes[index]) / total

    def _read_items(self) -> Iterator[tuple[Any, float | None]]:
        source, field = self.source, self.reading.field or "text"
        count = len(source) if hasattr(source, "__len__") else None
        if hasattr(source, "select_columns"):  # a dataset, which would decode every column
            names = getattr(source, "column_names", None)
            if names and field not in names:
                field_of(dict.fromkeys(names), field, "the dataset")
            source = source.select_columns([field])
        for number, record in enumerate(source):
            share = None if count is None else (number + 1) / count
            yield field_of(record, field, f"text {number}"), share

    def count(self, model: LensModel, *, add_bos: bool | None = None) -> Counts:
        """Count the texts and their tokens for a model; reads all, and runs nothing.

        Returns
        -------
        Counts
            Texts, rows, tokens, and how many were empty, cut or split.
        """
        return Rows(self.with_bos(add_bos), model).count()

    @property
    def code(self) -> str:
        """The call that makes it again."""
        options = [
            f"{name}={value!r}"
            for name, value in vars(self.reading).items()
            if value != getattr(Reading, name)
        ]
        return f"ll.texts({', '.join([self._written(), *options])})"

    def _written(self) -> str:
        if self._files is not None:
            paths = [str(path) for path in self._files]
            return repr(paths[0] if len(paths) == 1 else [f"{path}" for path in paths])
        return "texts" if isinstance(self.source, list | tuple) else "source"

    def __repr__(self) -> str:
        if self._files is not None:
            what = ", ".join(path.name for path in self._files[:3])
            what += f" and {len(self._files) - 3} more" if len(self._files) > 3 else ""
        elif hasattr(self.source, "__len__"):
            what = f"{type(self.source).__name__} of {len(self.source)}"
        else:
            what = type(self.source).__name__
        return f"Texts({what})"


def texts(
    source: Any,
    *,
    field: str | None = None,
    split: str = "paragraph",
    limit: int | None = None,
    limit_tokens: int | None = None,
    pack: bool = False,
    length: int | None = None,
    long: str = "split",
) -> Texts:
    """Many texts as the input of an analysis that measures a corpus, such as ``layer_metrics``.

    Nothing is read until it is used, and never more than a few texts are held.

    Parameters
    ----------
    source
        A list or another iterable of texts (strings, or lists of token ids); the path of a
        ``.txt``, ``.md``, ``.jsonl`` or ``.ndjson`` file, each also with ``.gz`` behind it, or of
        a ``.parquet`` file (needs pyarrow, extra ``[corpus]``); a list of ``pathlib.Path``; or a
        dataset of Hugging Face ``datasets``, streamed or not.
    field
        The field of a JSON line, column of a Parquet file or feature of a dataset that holds the
        text; by default ``"text"``.
    split
        What one text of a ``.txt`` or ``.md`` file is: a ``"paragraph"`` (between empty lines), a
        ``"line"`` or the whole ``"file"``.
    limit
        Read at most so many texts, empty ones included.
    limit_tokens
        Stop after the text with which so many tokens are reached.
    pack
        Join all texts with the tokenizer's end token and cut the stream into rows of ``length``
        tokens, so that no row is padded. Tokens then see texts that are not their own.
    length
        Tokens in a row at most; None for the model's context, or ``batch_tokens`` of the analysis
        where that is less.
    long
        What is done with a text that is longer: ``"split"`` it into rows, or ``"cut"`` it off.

    Returns
    -------
    Texts
        To iterate over, to count in tokens (``.count(model)``) and to hand to an analysis.

    Raises
    ------
    InputError
        When the source is of no known kind, a file is not there, or an option does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> list(ll.texts(["one", "two", "three"], limit=2))
    ['one', 'two']
    >>> ll.layer_metrics(model, ll.texts("file.jsonl"), ["block_influence"])  # doctest: +SKIP
    """
    reading = Reading(field, split, limit, limit_tokens, pack, length, long)
    if isinstance(source, Texts):
        raise InputError("These are ll.texts already: give the list, file or dataset itself.")
    if isinstance(source, Mapping):
        raise InputError(
            f"A text is to be chosen from {', '.join(map(repr, source))}: give one of these, "
            "source['train'] for example."
        )
    if isinstance(source, bytes) or not isinstance(source, Iterable | os.PathLike):
        raise InputError(
            f"Texts come from a list, a file or a dataset, not from {type(source).__name__}."
        )
    return Texts(source, reading)


def _files(source: Any) -> list[Path] | None:
    """The files that a source names, each known to be there; None where it is no file."""
    several = isinstance(source, list | tuple) and bool(source)
    if isinstance(source, str | os.PathLike):
        paths = [source]
    elif several and all(isinstance(item, os.PathLike) for item in source):
        paths = list(source)
    else:
        return None
    files = [Path(path).expanduser() for path in paths]
    for path in files:
        require_file(path)
    return files
