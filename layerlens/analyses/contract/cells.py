"""What one cell of an answer opens in a view: tables of numbers, and texts with marked tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from layerlens.analyses.contract.options import written
from layerlens.errors import InputError
from layerlens.run.edits import Edit

FOUND = "token"
"""The label of a place that is no cell, but what was looked for by a token; with its id."""


@dataclass(frozen=True)
class Place:
    """One cell of an answer.

    Parameters
    ----------
    array
        The variable that it is of.
    labels
        Name of each of its axes to the label there: ``{"layer": 3, "head": 1}``.
    value
        The number in it.
    companions
        The numbers of other arrays of the same axes, there.
    given
        The texts as they were given, by name.
    call
        The call of the analysis, as Python.
    add_bos
        As the texts were asked to be read.
    answer
        All numbers of the answer by name, as far as they are there: where a cell stands for what
        earlier ones led to, such as a step of a search.
    """

    array: str
    labels: Mapping[str, Any]
    value: float
    companions: Mapping[str, float] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    call: str = ""
    add_bos: bool | None = None
    answer: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def need(self, axis: str) -> Any:
        """The label along an axis.

        Raises
        ------
        InputError
            The cell has no such axis, so it opens nothing.
        """
        if axis not in self.labels:
            raise InputError(f"A cell of {self.array} has no {axis}: open one of another array.")
        return self.labels[axis]

    @property
    def one_text(self) -> Any:
        """The text, where it is one that can be written down again; else None."""
        return self.one("text")

    def one(self, name: str) -> Any:
        """A text by its name, where it is one that can be written down again; else None."""
        given = self.given.get(name)
        ids = isinstance(given, list) and all(isinstance(i, int) for i in given)
        return given if isinstance(given, str) or ids else None

    def run_with(self, edits: Sequence[Edit], name: str = "text") -> str:
        """Python that runs a text with edits; the call of the analysis where there are none."""
        if not edits:
            return self.call
        listed = ", ".join(edit.code for edit in edits)
        how = "" if self.add_bos is None else f", add_bos={self.add_bos}"
        return f"ll.run(model, {written(self.given[name])}, edits=[{listed}]{how})"

    def __str__(self) -> str:
        return ", ".join(f"{axis} {label}" for axis, label in self.labels.items())


@dataclass(frozen=True)
class Table:
    """Rows of words and numbers under their headings.

    Parameters
    ----------
    head, rows
        The headings, and what stands under them.
    title
        What they are, or whose, beside another's.
    opens
        For each row the cell that it opens, as the name of an array and labels of its axes:
        ``("prominence", {"layer": 3, "neuron": 5})``; none for rows that open nothing.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    opens: Sequence[tuple[str, Mapping[str, Any]]] = ()


@dataclass(frozen=True)
class Opened:
    """What is shown of a cell.

    Parameters
    ----------
    title
        What it is of.
    code
        Python that computes the same.
    tables
        Numbers.
    texts
        Each a list of (token, how strongly it is marked, from 0 to 1).
    """

    title: str
    code: str = ""
    tables: Sequence[Table] = ()
    texts: Sequence[Sequence[tuple[str, float]]] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """As it travels to a front end."""
        return {
            "title": self.title,
            "code": self.code,
            "tables": [
                {
                    "title": table.title,
                    "head": [*table.head],
                    "rows": [[_sent(cell) for cell in row] for row in table.rows],
                    "opens": [{"array": array, "at": dict(at)} for array, at in table.opens],
                }
                for table in self.tables
            ],
            "texts": [
                {"tokens": [{"text": text, "mark": float(mark)} for text, mark in tokens]}
                for tokens in self.texts
            ],
        }


def _sent(cell: Any) -> Any:
    """A word or number of a table; None for what JSON has no number for."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


Opener = Callable[..., Opened]
"""``(job, model, tokens, place, *, options)``, as the analysis, with the cell after the texts."""
