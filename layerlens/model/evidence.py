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
    """Return the largest difference, relative to the largest finite value of ``b``.

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
    size = _largest(b if scale is None else scale)
    return _difference(a, b).max().item() / max(size, torch.finfo(torch.float32).tiny)


#: Float32 cannot tell the probability of a logit this far below the largest from 0.
OUT_OF_REACH = 104.0


def logit_size(logits: Tensor) -> float:
    """Return the largest magnitude of logits that are not masked, at least 1.

    Masked are those so far below the largest of their row that their probability is 0 in float32:
    a vocabulary is cut by adding -1e9 or minus infinity, which says nothing about how exact the
    other logits are.

    Parameters
    ----------
    logits
        ``[..., vocabulary]``.
    """
    seen = logits >= logits.amax(-1, keepdim=True) - OUT_OF_REACH
    return max(1.0, _largest(logits[seen]))


def logit_error(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two computations of logits, relative to their size.

    Each is relative to :func:`logit_size`, or to itself where it is larger still (masked).
    Infinite if the shapes differ.
    """
    if a.shape != b.shape:
        return float("inf")
    size = b.double().abs().clamp(min=logit_size(b))
    return (_difference(a, b) / size.where(size.isfinite(), 1.0)).max().item()


def _largest(values: Tensor) -> float:
    """The largest finite magnitude, 0 if there is none."""
    finite = values[values.isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """``|a - b|`` in float64, 0 also between equal infinities."""
    return torch.where(a == b, 0.0, (a.double() - b.double()).abs())
