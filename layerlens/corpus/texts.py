"""``ll.texts()``: many texts from wherever they are, read one after the other."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from layerlens.corpus.files import field_of, has_fields, read_file, require_file
from layerlens.corpus.reading import Counts, Reading
from layerlens.corpus.rows import Rows
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


Mark = str | Sequence[Any] | Callable[[Any], Any] | None
"""A field, one value for each text, or a function of the record."""


@dataclass(frozen=True)
class Item:
    """One text and what is said of it."""

    text: Any
    label: Any
    group: Any


class Texts:
    """Many texts, read lazily; made by :func:`texts`.

    Iterate over it for the texts themselves. It can be read again and again unless it was made
    from an iterator.

    Attributes
    ----------
    reading
        How it is read.
    label, group
        What is said of each text; see :func:`texts`.
    add_bos
        As in ``model.tokens``; an option of the analysis that reads it.
    literal
        Whether `code` writes out lists, for which nobody has a variable.
    labelled_by
        What gave the labels where no person did; results say so. None: they are the user's.
    """

    def __init__(
        self, source: Any, reading: Reading, label: Mark = None, group: Mark = None
    ) -> None:
        self.source = source
        self.reading = reading
        self.label = _checked_mark("label", label, source, reading)
        self.group = _checked_mark("group", group, source, reading)
        self.add_bos: bool | None = None
        self.literal = False
        self.labelled_by: str | None = None
        self._files = _files(source)
        self._used: list[bool] = []

    def with_bos(self, add_bos: bool | None) -> Self:
        """Return the same texts, to be read with or without a begin token."""
        found = copy.copy(self)
        found.add_bos = add_bos
        return found

    @property
    def in_files(self) -> bool:
        """Whether its source names files."""
        return self._files is not None

    def read(self) -> Iterator[tuple[Any, float | None]]:
        """Each text as it is in the source, and the share of the source read by then, if known.

        Neither limit is applied here.

        Raises
        ------
        InputError
            When a file is damaged or a field is missing; when it was made from an iterator that
            was read before.
        """
        for record, share, where in self._records([self._field]):
            yield field_of(record, self._field, where), share

    def items(self) -> Iterator[Item]:
        """Each text with its label and its group, up to ``limit``.

        Raises
        ------
        InputError
            As :meth:`read`, or when there are more or fewer labels or groups than texts.
        """
        named = [mark for mark in (self.label, self.group) if isinstance(mark, str)]
        marks = {"label": _Marks("label", self.label), "group": _Marks("group", self.group)}
        records = self._records(list(dict.fromkeys([self._field, *named])))
        count = 0
        for record, _, where in records:
            if count == self.reading.limit:
                return
            found = {name: mark.of(record, count, where) for name, mark in marks.items()}
            yield Item(field_of(record, self._field, where), **found)
            count += 1
        for mark in marks.values():
            mark.require_used(count)

    @property
    def _field(self) -> str:
        return self.reading.field or "text"

    def _records(self, fields: Sequence[str]) -> Iterator[tuple[Any, float | None, str]]:
        """What the source holds one by one, the share read by then, and where it stands."""
        if self._files is not None:
            return self._read_files(self._files, fields)
        if isinstance(self.source, Iterator):
            if self._used:
                raise InputError(
                    "These texts came from an iterator and were read already: make them from a "
                    "list, a file or a dataset, which can be read again."
                )
            self._used.append(True)
        return self._read_items(fields)

    def __iter__(self) -> Iterator[Any]:
        for number, (text, _) in enumerate(self.read()):
            if number == self.reading.limit:
                return
            yield text

    def _read_files(
        self, files: Sequence[Path], fields: Sequence[str]
    ) -> Iterator[tuple[Any, float | None, str]]:
        asked = [name for name in (self.reading.field, self.label, self.group) if name]
        for path in files:
            if any(isinstance(name, str) for name in asked) and not has_fields(path):
                raise InputError(
                    f"'{path.name}' has no fields: leave field out, or give a .jsonl file."
                )
        sizes = [path.stat().st_size for path in files]
        total = max(sum(sizes), 1)
        for index, path in enumerate(files):
            before = sum(sizes[:index])
            for record, share, where in read_file(path, fields, self.reading.split):
                yield record, (before + share * sizes[index]) / total, where

    def _read_items(self, fields: Sequence[str]) -> Iterator[tuple[Any, float | None, str]]:
        source = self.source
        count = len(source) if hasattr(source, "__len__") else None
        if hasattr(source, "select_columns"):  # a dataset, which would decode every column
            names = getattr(source, "column_names", None)
            known = dict.fromkeys(names or fields)
            for field in fields:
                field_of(known, field, "the dataset")
            source = source.select_columns(list(fields))
        elif hasattr(source, "itertuples"):  # a data frame, whose own iterator gives its columns
            source = _records(source)
        for number, record in enumerate(source):
            share = None if count is None else (number + 1) / count
            yield record, share, f"text {number}"

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
        for name, mark in (("label", self.label), ("group", self.group)):
            if mark is not None:
                plain = isinstance(mark, str) or self.literal
                own = repr(mark) if plain else getattr(mark, "__name__", f"{name}s")
                options.append(f"{name}={own}")
        return f"ll.texts({', '.join([self._written(), *options])})"

    def _written(self) -> str:
        if self._files is not None:
            paths = [str(path) for path in self._files]
            return repr(paths[0] if len(paths) == 1 else [f"{path}" for path in paths])
        if self.literal:
            return repr(self.source)
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
    label: Mark = None,
    group: Mark = None,
) -> Texts:
    """Many texts as the input of an analysis that measures a corpus, such as ``layer_metrics``.

    Nothing is read until it is used, and never more than a few texts are held.

    Parameters
    ----------
    source
        A list or another iterable of texts (strings, or lists of token ids); the path of a
        ``.txt``, ``.md``, ``.jsonl``, ``.ndjson``, ``.csv`` or ``.tsv`` file, each also with
        ``.gz`` behind it, or of a ``.parquet`` file (needs pyarrow, extra ``[corpus]``); a list of
        ``pathlib.Path``; a pandas data frame; or a dataset of Hugging Face ``datasets``, streamed
        or not.
    field
        The field of a JSON line, column of a table or feature of a dataset that holds the text; by
        default ``"text"``.
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
    label
        What each text is, for analyses that learn to tell: the name of a field or column, a list
        with one for each text, or a function of the record. A ``.csv`` holds strings only:
        ``label=lambda row: float(row["score"])`` makes numbers of them.
    group
        What each text belongs with (a speaker, a template), in the same forms: texts of one group
        are never both learned from and tested on.

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
    >>> model = ll.load("toy:induction")
    >>> few = ll.texts(["cat dog owl", "owl fox bee"])
    >>> ll.layer_metrics(model, few, ["block_influence"]).data.attrs["texts"]
    2
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
    return Texts(source, reading, label, group)


def _records(frame: Any) -> Iterator[dict[str, Any]]:
    """Rows of a pandas data frame by the names of its columns; None where one has nothing."""
    plain = frame.astype(object).where(frame.notna(), None)
    names = list(map(str, frame.columns))
    for row in plain.itertuples(index=False, name=None):
        yield dict(zip(names, row, strict=True))


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


def _checked_mark(name: str, mark: Mark, source: Any, reading: Reading) -> Mark:
    """A label or group that fits its texts as far as can be told without reading them."""
    if mark is None:
        return None
    if hasattr(mark, "tolist"):
        mark = mark.tolist()
    if not isinstance(mark, str | list | tuple) and not callable(mark):
        raise InputError(
            f"{name} is {type(mark).__name__}; expected the name of a field, a list with one for "
            "each text, or a function."
        )
    if reading.pack:
        raise InputError(f"Packed rows hold several texts, so they have no {name}: leave pack out.")
    if isinstance(mark, list | tuple) and isinstance(source, list | tuple):
        _require_count(name, mark, len(source))
    return mark


def _require_count(name: str, mark: Sequence[Any], texts: int) -> None:
    if len(mark) != texts:
        raise InputError(f"There are {len(mark)} {name}s for {texts} texts: give one for each.")


class _Marks:
    """Labels or groups, read beside the texts."""

    def __init__(self, name: str, mark: Mark) -> None:
        self._name, self._mark = name, mark

    def of(self, record: Any, number: int, where: str) -> Any:
        """What is said of one text; None where nothing is."""
        mark = self._mark
        if mark is None:
            return None
        if isinstance(mark, str):
            if not hasattr(record, "keys"):
                raise InputError(
                    f"There is no field {mark!r} in {where}, which is a text alone: give "
                    f"{self._name}= a list with one for each text."
                )
            return field_of(record, mark, where)
        if callable(mark):
            return mark(record)
        if number >= len(mark):
            _require_count(self._name, mark, number + 1)
        return mark[number]

    def require_used(self, texts: int) -> None:
        """Refuse a list that is longer than the texts."""
        if isinstance(self._mark, list | tuple):
            _require_count(self._name, self._mark, texts)
