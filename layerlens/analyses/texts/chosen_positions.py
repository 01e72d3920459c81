"""Which positions of which texts are computed, and how rows of numbers go back to their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class Cells:
    """The real tokens that were asked for, as ``N`` rows in the order text, position.

    Positions count from the first real token of each text, so padding on either side gives the
    same arrays.

    Attributes
    ----------
    text, position
        [N] int64 arrays: which text, and which index along the position axis.
    positions
        Values of the position axis.
    input_id, target_id
        [N] int64: the token itself, and the next one (-1 at the last of a text).
    last
        Indices of the rows that are the last token of their text.
    """

    def __init__(self, model: LensModel, tokens: Tokens, where: Any = None) -> None:
        self.single = tokens.single
        self.n_texts, self._length = tokens.ids.shape
        real = [np.flatnonzero(row) for row in tokens.mask.numpy()]
        wanted = [np.array(model.positions(tokens, where, i), dtype=int) for i in range(len(real))]
        index = [np.searchsorted(r, w) for r, w in zip(real, wanted, strict=True)]
        self.positions = np.unique(np.concatenate(index))
        if not len(self.positions):
            raise InputError(f"No position was chosen by {where!r}: ask for at least one.")
        index = [np.unique(i) for i in index]
        self.text = np.concatenate([np.full(len(i), row) for row, i in enumerate(index)])
        self.position = np.searchsorted(self.positions, np.concatenate(index))
        self.column = np.concatenate([r[i] for r, i in zip(real, index, strict=True)])
        ids = tokens.ids.numpy()
        self.input_id = ids[self.text, self.column]
        ends = np.array([r[-1] for r in real])
        following = ids[self.text, np.minimum(self.column + 1, self._length - 1)]
        at_end = self.column == ends[self.text]
        self.target_id = np.where(at_end, -1, following)
        self.last = np.flatnonzero(at_end)
        self._flat: Tensor | None = torch.from_numpy(self.text * self._length + self.column)
        if len(self.text) == ids.size:
            self._flat = None
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self.text)

    def pick(self, values: Tensor) -> Tensor:
        """Rows [N, width] of what passes at a site, [batch, position, width]."""
        rows = values.reshape(-1, values.shape[-1])
        return rows if self._flat is None else rows[self._flat.to(rows.device)]

    def spread(self, values: np.ndarray, missing: float) -> np.ndarray:
        """Values [N, ...] as [(batch,) position, ...]; padding and gaps hold ``missing``."""
        shape = (self.n_texts, len(self.positions), *values.shape[1:])
        if len(values) == shape[0] * shape[1]:
            table = values.reshape(shape)
        else:
            table = np.full(shape, missing, dtype=values.dtype)
            table[self.text, self.position] = values
        return table[0] if self.single else table

    def coords(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Coordinates along ``position`` (and ``batch``): index, token, id, continuation."""
        dims = ("position",) if self.single else ("batch", "position")
        tokens = self._tokens
        strings = [tokens.strings[b][c] for b, c in zip(self.text, self.column, strict=True)]
        joins = [tokens.continues[b][c] for b, c in zip(self.text, self.column, strict=True)]
        texts = np.array(strings, dtype=object)
        found: dict[str, tuple[tuple[str, ...], Any]] = {
            "position": (("position",), self.positions.astype(np.int32)),
            "token": (dims, self.spread(texts, "").astype(str)),  # type: ignore[arg-type]
            "input_id": (dims, self.spread(self.input_id.astype(np.int32), -1)),
            "continues": (dims, self.spread(np.array(joins, dtype=bool), False)),
        }
        if not self.single:
            found["text"] = (
                ("batch",),
                np.array([text or "" for text in tokens.texts]),
            )
        return found

    def sizes(self) -> dict[str, int]:
        """Lengths of the axes ``position`` and, for several texts, ``batch``."""
        lengths = {"position": len(self.positions)}
        return lengths if self.single else {"batch": self.n_texts, **lengths}

    def name(self, row: int) -> str:
        """Where a row is, in words."""
        place = f"position {self.positions[self.position[row]]}"
        return place if self.single else f"text {self.text[row]}, {place}"
