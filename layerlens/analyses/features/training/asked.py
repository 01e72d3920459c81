"""What a call of ``ll.train_sae`` asks for, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from layerlens.analyses.contract.options import nearest
from layerlens.analyses.features.activations import Places, special_ids
from layerlens.analyses.features.training.learner import Recipe
from layerlens.analyses.features.training.objective import CHOOSING, KINDS
from layerlens.analyses.lenses.fitting.documents import read_rows, text_of
from layerlens.errors import InputError, MemoryLimitError
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.corpus.texts import Texts
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 1_000_000_000
MOST_HELD = 1 << 18
"""Activations in the buffer, at most."""


class Sizes(NamedTuple):
    """Tokens of the texts.

    Attributes
    ----------
    fed
        All.
    train
        Activations that one reading gives to learn from.
    total
        Activations to learn from.
    """

    fed: int
    train: int
    total: int


@dataclass(frozen=True)
class Asked:
    """The options of ``ll.train_sae`` for one model; see there.

    Raises
    ------
    InputError
        One does not fit.
    """

    model: LensModel
    site: str
    layers: int | Sequence[int] | str | None
    kind: str
    size: float
    k: int
    sparsity: float
    activations: int | None
    batch: int
    lr: float
    dead_after: int | None
    positions_skipped: int
    test: float
    test_tokens: int
    seed: int
    resume: Fitted | str | os.PathLike[str] | None
    memory_limit: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise nearest(self.kind, KINDS, "Kind of sparse autoencoder")
        for name in ("activations", "batch", "dead_after", "test_tokens", "k"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise InputError(f"{name} is {given}; expected a number from 1.")
        for name in ("size", "lr", "sparsity"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; expected a number above 0.")
        if self.kind in CHOOSING and self.k > self.features:
            raise InputError(f"k is {self.k}; expected 1 to {self.features}, the features.")

    @cached_property
    def places(self) -> Places:
        """Which activations are read."""
        layers = self.model.n_layers // 2 if self.layers is None else self.layers
        return Places.of(self.model, self.site, layers, self.positions_skipped)

    @property
    def width(self) -> int:
        """Entries of an activation."""
        return self.places.width

    @property
    def features(self) -> int:
        """How many are learned."""
        return max(1, round(self.size * self.width))

    @property
    def depth_share(self) -> float:
        """Share of a pass that is run: blocks up to the last layer that is read."""
        return (max(self.places.layers) + 1) / self.model.n_layers

    @property
    def buffer(self) -> int:
        """Activations that are held to be shuffled.

        Raises
        ------
        MemoryLimitError
            Not even one batch fits.
        """
        room = self.memory_limit - 24 * self.width * self.features - 8 * self.batch * self.features
        # They are held twice while they are shuffled.
        held = min(MOST_HELD, room // (8 * self.width))
        if held < self.batch:
            least = self.memory_limit - room + self.batch * 8 * self.width
            raise MemoryLimitError(
                f"To learn {self.features:,} features in batches of {self.batch:,} needs "
                f"{least / 1e6:.0f} MB of working memory and the limit is "
                f"{self.memory_limit / 1e6:.0f} MB: raise memory_limit, or lower size or batch."
            )
        return held // self.batch * self.batch

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the buffer while it is shuffled."""
        return self.buffer * self.width * 8

    def recipe(self, total: int) -> Recipe:
        """How it is learned from so many activations."""
        return Recipe(
            kind=self.kind,
            features=self.features,
            k=self.k,
            sparsity=self.sparsity,
            lr=self.lr,
            batch=self.batch,
            total=total,
            dead_after=self.dead_after or max(1, total // 10),
            seed=self.seed,
            normalise="none" if len(self.places.sites) == 1 else "layer_norm",
        )


def sizes_of(asked: Asked, texts: Tokens | Texts) -> Sizes:
    """Count tokens by reading the texts once; nothing is run."""
    fed = kept = 0
    special = special_ids(asked.model)
    for row in read_rows(asked.model, texts):
        fed += len(row.ids)
        kept += count(row, asked.positions_skipped, special)
    train = round((1 - asked.test) * kept) * len(asked.places.sites)
    return Sizes(fed, train, asked.activations or train)


def count(row: Row, skipped: int, special: set[int]) -> int:
    """Tokens of a row that count."""
    return sum(token not in special for token in row.ids[skipped:])


def chunks(
    asked: Asked,
    texts: Tokens | Texts,
    taught: frozenset[int],
    start: tuple[int, int],
    total: int,
) -> Iterator[tuple[tuple[int, int], list[Row]]]:
    """Rows that fill the buffer together, in the order of the texts, again and again.

    Parameters
    ----------
    taught
        Numbers of the texts to learn from.
    start
        Reading and chunk of it to begin with.
    total
        Activations to learn from: no more are held.

    Yields
    ------
    tuple
        (Number of the reading, of the chunk in it), and its rows.
    """
    special, layers = special_ids(asked.model), len(asked.places.sites)
    full = min(asked.buffer - asked.batch, total)
    reading, first = start
    while True:
        number, held, size = 0, [], 0
        for row in read_rows(asked.model, texts):
            if text_of(row) not in taught:
                continue
            held.append(row)
            size += count(row, asked.positions_skipped, special) * layers
            if size >= full:
                if number >= first:
                    yield (reading, number), held
                number, held, size = number + 1, [], 0
        if held and size and number >= first:
            yield (reading, number), held
        reading, first = reading + 1, 0


def shuffled(seed: int, place: tuple[int, int], number: int) -> torch.Tensor:
    """Order of the activations of a chunk."""
    drawn = np.random.default_rng([seed, *place])
    return torch.from_numpy(drawn.permutation(number))
