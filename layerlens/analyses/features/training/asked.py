"""What a call that learns a dictionary asks for, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.options import nearest
from layerlens.analyses.features.activations import Places, special_ids
from layerlens.analyses.features.training.judge import ROWS, Judge
from layerlens.analyses.features.training.learner import Learner, Learns, Recipe
from layerlens.analyses.features.training.objective import KINDS
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
PER_BATCH = {"topk": 3, "batchtopk": 5, "relu": 4, "jumprelu": 5, "gated": 6}
"""Arrays ``[batch, feature]`` that a step of each kind holds at once, its slopes included."""


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


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options that any learning of a dictionary has, of one model; see ``ll.train_sae``.

    Raises
    ------
    InputError
        One does not fit.
    """

    LEARNS: ClassVar[str]
    """Kind of what is learned."""
    CONTROL: ClassVar[str]
    """What it has to beat."""
    SAME: ClassVar[tuple[str, ...]] = (
        "kind", "size", "k", "activations", "batch", "lr", "dead_after",
        "positions_skipped", "test", "test_tokens", "seed", "memory_limit",
    )  # fmt: skip
    """Options that it has to be begun and ended with; the limit sizes the buffer."""

    model: LensModel
    layers: int | Sequence[int] | str | None
    kind: str
    size: float
    k: int
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
            raise nearest(self.kind, KINDS, "Kind of dictionary")
        for name in ("activations", "batch", "dead_after", "test_tokens", "k"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise InputError(f"{name} is {given}; expected a number from 1.")
        for name in ("size", "lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; expected a number above 0.")
        if self.k > self.features:
            raise InputError(f"k is {self.k}; expected 1 to {self.features}, the features.")

    @property
    def places(self) -> Places:
        """Which activations are read."""
        raise NotImplementedError

    @property
    def dictionaries(self) -> int:
        """How many are learned at once."""
        raise NotImplementedError

    @property
    def per_token(self) -> int:
        """Activations to learn from that a token gives."""
        return len(self.places.sites) // self.sites_of_one

    @property
    def sites_of_one(self) -> int:
        """Sites that an activation to learn from is made of."""
        raise NotImplementedError

    def rows(self, x: Tensor) -> Tensor:
        """Activations ``[token, site, width]``, one to learn from a row."""
        return x.flatten(0, 1) if self.sites_of_one == 1 else x

    def learner(self, total: int, first: Tensor) -> Learns:
        """What learns from so many activations, the first of which are given."""
        raise NotImplementedError

    def judge(self, x: Tensor) -> Judge:
        """What measures on activations ``[token, site, width]`` that were set apart."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What stands among the options of what was learned, beside those of the call."""
        return {"layers": self.places.layers}

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
    def parameters(self) -> int:
        """Numbers that one dictionary is made of, without what has one a feature."""
        return 2 * self.width * self.features

    @property
    def beginning(self) -> int:
        """Bytes that are held while the control is found."""
        return 40 * self.width**2

    @property
    def beside_the_buffer(self) -> int:
        """Bytes that are held at once beside the buffer, at most.

        They are the parameters with Adam's two means of each; the same once more as they were last
        handed over, and again while they are handed over, of several dictionaries stacked before
        (the slopes of a step are fewer); the features of a batch, or of the activations set apart
        that are measured together; the latter; and what finds the control.
        """
        times = 9.5 if self.dictionaries == 1 else 12.5
        learned = round(4 * times * self.parameters) * self.dictionaries
        rows = max(PER_BATCH[self.kind] * self.batch, 3 * ROWS)
        apart = 4 * self.test_tokens * len(self.places.sites) * self.width
        return learned + 4 * rows * self.features + apart + self.beginning

    @property
    def row_bytes(self) -> int:
        """Bytes of an activation to learn from."""
        return 4 * self.width * self.sites_of_one

    @property
    def buffer(self) -> int:
        """Activations that are held to be shuffled.

        Raises
        ------
        MemoryLimitError
            Not even one batch fits.
        """
        beside, each = self.beside_the_buffer, self.row_bytes
        held = min(MOST_HELD, (self.memory_limit - beside) // each)
        if held < self.batch:
            few = "fewer layers, " if self.dictionaries > 1 else ""
            raise MemoryLimitError(
                f"To learn {self.features:,} features in batches of {self.batch:,} needs "
                f"{(beside + self.batch * each) / 1e6:.0f} MB of working memory and the limit is "
                f"{self.memory_limit / 1e6:.0f} MB: raise memory_limit, or give {few}a smaller "
                "size, batch or test_tokens."
            )
        return held // self.batch * self.batch

    def held(self, total: int) -> int:
        """Bytes that are held to learn from so many activations."""
        return self.beside_the_buffer + self.row_bytes * min(self.buffer, total)

    def recipe(self, total: int) -> Recipe:
        """How it is learned from so many activations."""
        return Recipe(
            kind=self.kind,
            features=self.features,
            k=self.k,
            lr=self.lr,
            batch=self.batch,
            total=total,
            dead_after=self.dead_after or max(1, total // 10),
            seed=self.seed,
            normalise=self.normalise,
        )

    @property
    def normalise(self) -> str:
        """How what is read is normalised, token by token."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class AskedSae(Asked):
    """The options of ``ll.train_sae``; see there."""

    LEARNS = "sae"
    CONTROL = "principal components"
    SAME = ("site", *Asked.SAME)

    site: str

    @cached_property
    def places(self) -> Places:
        """One kind of site, in one layer or in several."""
        layers = self.model.n_layers // 2 if self.layers is None else self.layers
        return Places.of(self.model, self.site, layers, self.positions_skipped)

    @property
    def dictionaries(self) -> int:
        """One, of all layers."""
        return 1

    @property
    def sites_of_one(self) -> int:
        """One: what is read is what is written."""
        return 1

    @property
    def normalise(self) -> str:
        """Layers are made alike where there are several."""
        return "none" if len(self.places.sites) == 1 else "layer_norm"

    def learner(self, total: int, first: Tensor) -> Learner:
        """An autoencoder."""
        return Learner(self.recipe(total), first)

    def judge(self, x: Tensor) -> Judge:
        """Beside principal components."""
        return Judge(x)


def sizes_of(asked: Asked, texts: Tokens | Texts, taught: frozenset[int] | None = None) -> Sizes:
    """Count tokens by reading the texts once; nothing is run.

    Parameters
    ----------
    taught
        Numbers of the texts to learn from; None where they are not drawn yet: the share that they
        are of all is taken.
    """
    fed, kept, share = 0, 0, 1 - asked.test if taught is None else 1.0
    special = special_ids(asked.model)
    for row in read_rows(asked.model, texts):
        fed += len(row.ids)
        if taught is None or text_of(row) in taught:
            kept += count(row, asked.positions_skipped, special)
    train = round(share * kept) * asked.per_token
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
    special, each = special_ids(asked.model), asked.per_token
    reading, first = start
    while True:
        number, size = 0, 0
        held: list[Row] = []
        for row in read_rows(asked.model, texts):
            if text_of(row) not in taught:
                continue
            more = count(row, asked.positions_skipped, special) * each
            if held and (size + more > asked.buffer or size >= total):
                if number >= first:
                    yield (reading, number), held
                number, held, size = number + 1, [], 0
            held.append(row)
            size += more
        if size > 1 and number >= first:  # one activation alone has no variance
            yield (reading, number), held
        reading, first = reading + 1, 0


def shuffled(seed: int, place: tuple[int, int], number: int) -> torch.Tensor:
    """Place of each of the activations of a chunk."""
    drawn = np.random.default_rng([seed, *place])
    return torch.from_numpy(drawn.permutation(number))
