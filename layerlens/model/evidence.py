"""The comparisons that were made for one model, and how large an error may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.errors import ProofError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True)
class ProofLine:
    """One comparison: the largest error, relative to the largest value, and its limit."""

    name: str
    error: float
    limit: float
    what: str

    @property
    def ok(self) -> bool:
        """Whether the error is within the limit (never for NaN)."""
        return self.error <= self.limit


@dataclass
class Proof:
    """All comparisons that were made for one model.

    Attributes
    ----------
    lines
        The comparisons, in the order of the design: sites, sums, head, heads, replay.
    notes
        What could not be compared, and why.
    """

    model: str
    lines: list[ProofLine] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every line holds."""
        return all(line.ok for line in self.lines)

    @property
    def full(self) -> bool:
        """Whether every line holds and none had to be left out."""
        return self.ok and not self.notes

    def require(self) -> None:
        """Raise a ``ProofError`` that names the first line that fails."""
        for line in self.lines:
            if not line.ok:
                raise ProofError(
                    f"{self.model} is refused because its anatomy is not proven: {line.name} "
                    f"({line.what}) is off by {line.error:.2g}, allowed is {line.limit:.2g}; "
                    "load it with prove=False to look at it all the same."
                )

    def __str__(self) -> str:
        rows = [
            f"  {'ok ' if line.ok else 'NOT'}  {line.error:8.1e} <= {line.limit:7.1e}  "
            f"{line.name}: {line.what}"
            for line in self.lines
        ]
        notes = [f"  note  {note}" for note in self.notes]
        title = f"Proof of {self.model}: {'holds' if self.ok else 'FAILS'}"
        return "\n".join([title, *rows, *notes])


def limit(model: LensModel, factor: float = 16.0) -> float:
    """Return the largest relative error allowed: ``factor`` roundings of the model's dtype.

    Never finer than float32, because families take norms and softmax in float32 and so do
    the logits here.
    """
    return factor * max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)


def error(a: Tensor, b: Tensor, scale: Tensor | None = None) -> float:
    """Return the largest difference, relative to the largest value of ``b``.

    Parameters
    ----------
    scale
        What to be relative to in place of ``b``: the magnitudes that were added up to it,
        which may be far larger than their sum.

    Returns
    -------
    float
        Infinite if the shapes differ.
    """
    if a.shape != b.shape:
        return float("inf")
    largest = (b if scale is None else scale).abs().max().item()
    size = max(largest, torch.finfo(torch.float32).tiny)
    return (a.double() - b.double()).abs().max().item() / size
