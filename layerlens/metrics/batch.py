"""The texts of one pass: which tokens count, and which text each belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.text import Tokens

GROUPS = 128
"""Texts are resampled in this many groups (text number modulo this), so that what a metric keeps
does not grow with the corpus. Up to this many texts, a group is one text."""

Numbered = tuple[Tokens, Sequence[int]]
"""The tokens of a pass and the number of each row's text among all texts, from 0."""


class Picked:
    """Some of the tokens of a batch, row by row in the order of the text.

    Attributes
    ----------
    text
        [n] int64, the row that each token is in.
    position
        [n] int64, its position in its text, padding not counted.
    ids
        [n] int64, its token id.
    counts
        [batch] int64, how many of each row.
    """

    def __init__(self, tokens: Tokens, mask: Tensor) -> None:
        self._mask = mask
        self._flat = mask.flatten().nonzero()[:, 0]
        self.text = self._flat // mask.shape[1]
        self.position = tokens.position_ids.flatten()[self._flat]
        self.ids = tokens.ids.flatten()[self._flat]
        self.counts = mask.sum(-1)
        self._whole = bool(mask.all())
        first, last = (int(self._flat[0]), int(self._flat[-1])) if len(self) else (0, -1)
        # Of one text without gaps a slice will do, which copies nothing.
        self._slice = slice(first, last + 1) if last - first + 1 == len(self) else None

    def __len__(self) -> int:
        return len(self._flat)

    def take(self, value: Tensor) -> Tensor:
        """Take these tokens of ``[batch, position, ...]``: ``[n, ...]``."""
        flat = value.flatten(0, 1)
        if self._whole:
            return flat
        if self._slice is not None:
            return flat[self._slice]
        return flat.index_select(0, self._flat.to(value.device))

    def put(self, value: Tensor, rows: Tensor) -> Tensor:
        """A copy of ``[batch, position, width]`` with these tokens' rows ``[n, width]`` in it."""
        flat = value.flatten(0, 1).clone()
        flat[self._flat.to(value.device)] = rows.to(flat)
        return flat.view_as(value)

    def by_text(self, values: Tensor) -> Tensor:
        """Sum values ``[n, ...]`` of the tokens of each text: ``[batch, ...]``."""
        if len(self.counts) == 1:
            return values.sum(0, keepdim=True)
        sums = values.new_zeros(len(self.counts), *values.shape[1:])
        return sums.index_add_(0, self.text.to(values.device), values)

    def rows(self) -> Iterator[tuple[int, slice]]:
        """Each row that has tokens here, and where they are among the ``n``."""
        start = 0
        for row, count in enumerate(self.counts.tolist()):
            if count:
                yield row, slice(start, start + count)
            start += count

    @cached_property
    def alike(self) -> list[tuple[list[int], list[slice]]]:
        """Rows that have as many tokens here, and where those of each are among the ``n``."""
        found: dict[int, tuple[list[int], list[slice]]] = {}
        for row, span in self.rows():
            rows, spans = found.setdefault(span.stop - span.start, ([], []))
            rows.append(row)
            spans.append(span)
        return list(found.values())


class Batch:
    """The texts of one pass.

    Parameters
    ----------
    tokens
        What is fed; padding may be on either side.
    numbers
        Number of each row's text among all texts, from 0. It decides what is resampled with
        what, so a text has the same number however the texts are spread over passes.
    skip_first
        How many tokens at the beginning of each text do not count.

    Attributes
    ----------
    kept
        The tokens that count.
    every
        All tokens but padding.
    groups
        [batch] int64, the group of each row's text.
    """

    def __init__(self, tokens: Tokens, numbers: Sequence[int], skip_first: int = 0) -> None:
        if len(numbers) != len(tokens.ids):
            raise InputError(f"{len(tokens.ids)} texts have {len(numbers)} numbers: give one each.")
        self.tokens = tokens
        self.numbers = np.asarray(numbers, dtype=np.int64)
        self.groups = self.numbers % GROUPS
        self.skip_first = skip_first
        self.every = Picked(tokens, tokens.mask)
        late = tokens.mask & (tokens.position_ids >= skip_first)
        self.kept = self.every if skip_first == 0 else Picked(tokens, late)

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def alike(self) -> list[tuple[list[int], slice]]:
        """Rows whose texts lie in the same columns, and these columns."""
        found: dict[tuple[int, int], list[int]] = {}
        for row, mask in enumerate(self.tokens.mask):
            real = mask.nonzero()[:, 0]
            found.setdefault((int(real[0]), int(real[-1]) + 1), []).append(row)
        return [(rows, slice(*columns)) for columns, rows in found.items()]

    @cached_property
    def keys(self) -> np.ndarray:
        """[n] uint64, a number for each kept token that looks random and is always the same.

        It depends on the number of the text and the position alone. Keeping the tokens with the
        smallest keys gives a random sample of all tokens that can be merged (a bottom-k sketch,
        Cohen and Kaplan 2007, "Summarizing data using bottom-k sketches").
        """
        text = self.numbers[self.kept.text.numpy()].astype(np.uint64)
        mixed = (text << np.uint64(24)) + self.kept.position.numpy().astype(np.uint64)
        with np.errstate(over="ignore"):  # the mixing function of splitmix64
            mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))


MOST_TOKENS = 2048
"""Tokens in one pass, where no number of texts is given."""


def split(
    tokens: Tokens, size: int | None = None, *, most_tokens: int = MOST_TOKENS
) -> list[Numbered]:
    """Cut texts into batches, in their order, each without padding that none of its rows needs.

    Parameters
    ----------
    size
        Texts in a batch; None for as many as keep it below ``most_tokens`` with padding.

    Raises
    ------
    InputError
        When ``size`` is not positive.
    """
    if size is not None and size < 1:
        raise InputError(f"batch_size is {size}; expected a positive number, or None.")
    lengths = tokens.lengths
    starts, longest = [0], 0
    for row, length in enumerate(lengths):
        longest = max(longest, length)
        number = row - starts[-1] + 1
        full = number > size if size is not None else number * longest > most_tokens
        if full and number > 1:
            starts.append(row)
            longest = length
    ends = [*starts[1:], len(lengths)]
    return [
        (rows_of(tokens, start, end), range(start, end))
        for start, end in zip(starts, ends, strict=True)
    ]


def rows_of(tokens: Tokens, start: int, end: int) -> Tokens:
    """Rows ``start`` to ``end`` as tokens of their own, without columns that are padding in all."""
    mask = tokens.mask[start:end]
    used = mask.any(0).nonzero()[:, 0]
    return tokens.chosen(range(start, end), range(int(used[0]), int(used[-1]) + 1))


def accumulate(
    into: np.ndarray, groups: np.ndarray, cell: tuple[int | slice, ...], values: Tensor
) -> None:
    """Add the values [batch, ...] of each text to its group's cell of ``into``, in float64."""
    given = values.detach().to("cpu", torch.float64).numpy()
    index: Any = (groups, *cell)
    if len(set(groups.tolist())) == len(groups):
        into[index] += given
    else:  # several texts of one group, of which += would count one: ten times as slow
        np.add.at(into, index, given)
