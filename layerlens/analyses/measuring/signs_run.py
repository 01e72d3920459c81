"""The work of ``delta_signs``: cut the changes of each model, and hold their signs together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.block_weights import of_block, short_names

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel

HALF = 16
"""Bits of a number that are counted at once."""
SUMS = ("several", "equal", "equal_chance", "left", "left_chance", "moved", "any", "both_chance",
        "any_chance", "kept", "entries")  # fmt: skip
"""What is added up of a weight, in this order."""


class SignsRun:
    """The work of one call."""

    def __init__(
        self, job: Job, model: LensModel, others: list[LensModel], keep: float, seed: int
    ) -> None:
        self.job, self.model, self.others = job, model, others
        self.keep, self.seed = keep, seed
        self.steps = (2 * len(others) + 1) * model.n_layers
        self.done = 0

    def run(self) -> None:
        """Where each model's changes are cut, then every weight."""
        names = [list(of_block(self.model, layer)) for layer in range(self.model.n_layers)]
        self.names = list(dict.fromkeys(name for some in names for name in some))
        self._declare()
        cuts = [cut(partial(self._changes, one), self.keep) for one in self.others]
        for other, (least, _) in zip(self.others, cuts, strict=True):
            if least == 0:
                raise InputError(
                    f"{other.name} has changed fewer weights of {self.model.name} than keep asks "
                    "for: give a smaller keep, or a model that was tuned."
                )
        limits = [least for least, _ in cuts]
        self.job.emit({}, {"threshold": np.array(limits)})
        random = torch.Generator().manual_seed(self.seed)
        kept = np.zeros(len(self.others), dtype=np.int64)
        for layer in range(self.model.n_layers):
            self._layer(layer, limits, random, kept)
            self._step(f"layer {layer}")
        self._finish(kept, cuts)

    def _declare(self) -> None:
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "weight": (("weight",), np.array(short_names(self.names))),
            "weight_path": (("weight",), np.array(self.names)),
            "layer": (("layer",), np.arange(self.model.n_layers, dtype=np.int32)),
            "model": (("model",), np.array([other.name for other in self.others])),
        }
        sizes = {axis: len(coords[axis][1]) for axis in ("weight", "layer", "model")}
        self.job.declare(sizes, coords)

    def _step(self, what: str) -> None:
        self.done += 1
        self.job.tick()
        self.job.progress(self.done, self.steps, what)

    def _changes(self, other: LensModel) -> Iterator[Tensor]:
        """Magnitudes of the changes of each weight, one after the other."""
        for layer in range(self.model.n_layers):
            self._step(f"cut of {other.name}")
            theirs = of_block(other, layer)
            for name, own in of_block(self.model, layer).items():
                yield change(own, theirs[name]).abs()

    def _layer(
        self, layer: int, limits: list[float], random: torch.Generator, kept: np.ndarray
    ) -> None:
        """Every weight of a layer, and the layer."""
        own = of_block(self.model, layer)
        theirs = [of_block(other, layer) for other in self.others]
        total = dict.fromkeys(SUMS, 0.0)
        for place, name in enumerate(self.names):
            if name not in own:
                continue
            self.job.tick()
            deltas = [change(own[name], weights[name]) for weights in theirs]
            sums, counts = signs(deltas, limits, random)
            kept += counts
            for key, value in sums.items():
                total[key] += value
            self.job.emit({"weight": place, "layer": layer}, told(sums))
        found = {f"layer_{name}": value for name, value in told(total).items()}
        self.job.emit({"layer": layer}, found)

    def _finish(self, kept: np.ndarray, cuts: list[tuple[float, tuple[int, int]]]) -> None:
        self.job.note(
            passes=0,
            method="weights only",
            others=", ".join(other.name for other in self.others),
        )
        # Entries as large as the smallest one kept are kept, too.
        off = [
            max(asked - number, number - asked - tied + 1)
            for number, (_, (asked, tied)) in zip(kept.tolist(), cuts, strict=True)
        ]
        what = "entries kept beyond those asked for and their ties, or short of them"
        self.job.check("kept as many as asked", max(0, *off), 0, what)


def change(own: Tensor, theirs: Tensor) -> Tensor:
    """What a model has changed, flat, float32."""
    return (theirs.detach().cpu().float() - own.detach().cpu().float()).flatten()


def cut(magnitudes: Callable[[], Iterable[Tensor]], keep: float) -> tuple[float, tuple[int, int]]:
    """The smallest number among the largest, exactly, without holding them.

    The bits of positive floats are in the order of the numbers: their upper half is counted
    first, then the lower half of those in the bin where the cut lies.

    Parameters
    ----------
    magnitudes
        Gives float32 numbers of at least 0, the same each time it is called.
    keep
        Share of them.

    Returns
    -------
    float, (int, int)
        The number; how many were asked for, and how many are equal to it.

    Examples
    --------
    >>> cut(lambda: [torch.tensor([1.0, 4.0]), torch.tensor([2.0, 3.0, 5.0])], 0.4)
    (4.0, (2, 1))
    """

    def bits() -> Iterator[Tensor]:
        for part in magnitudes():
            yield part.view(torch.int32)

    size = 1 << HALF
    upper = sum(torch.bincount(part >> HALF, minlength=size) for part in bits())
    assert isinstance(upper, Tensor)
    asked = max(1, round(keep * int(upper.sum())))
    bin_, above = _from_top(upper, asked)
    lower = sum(
        torch.bincount(part[part >> HALF == bin_] & (size - 1), minlength=size) for part in bits()
    )
    assert isinstance(lower, Tensor)
    last, _ = _from_top(lower, asked - above)
    number = torch.tensor([(bin_ << HALF) | last], dtype=torch.int32).view(torch.float32)
    return float(number), (asked, int(lower[last]))


def _from_top(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The bin in which the count from the top reaches a number, and how many lie above it."""
    reached = counts.flip(0).cumsum(0)
    place = int((reached < wanted).sum())
    return len(counts) - 1 - place, int(reached[place - 1]) if place else 0


def signs(
    deltas: list[Tensor], limits: list[float], random: torch.Generator
) -> tuple[dict[str, float], np.ndarray]:
    """Sums over the entries of a weight, and how many each model keeps."""
    masks = torch.stack([d.abs() >= limit for d, limit in zip(deltas, limits, strict=True)])
    own = torch.stack(deltas) * masks
    number = masks.sum(0)
    several = number > 1
    equal = own.sign().sum(0).abs() == number
    drawn = own.abs() * (torch.randint(0, 2, own.shape, generator=random) * 2 - 1)
    shares = masks.double().mean(1)
    none = float((1 - shares).prod())
    rest = [float((1 - shares[torch.arange(len(shares)) != i]).prod()) for i in range(len(shares))]
    one = sum(float(share) * other for share, other in zip(shares, rest, strict=True))
    count = own.shape[1]
    values: tuple[Any, ...] = (
        several.sum(),
        (equal & several).sum(),
        (several * 2.0 ** (1 - number.double())).sum(),
        own.sum(0).abs().double().sum(),
        drawn.sum(0).abs().double().sum(),
        own.abs().double().sum(),
        (number > 0).sum(),
        (1 - none - one) * count,
        (1 - none) * count,
        masks.sum() / len(deltas),
        count,
    )
    found = {name: float(value) for name, value in zip(SUMS, values, strict=True)}
    return found, masks.sum(1).numpy()


def told(sums: dict[str, float]) -> dict[str, np.ndarray]:
    """The measures of a weight or a layer; NaN where no entry counts."""
    parts = {
        "agreement": ("equal", "several"),
        "agreement_chance": ("equal_chance", "several"),
        "strength": ("left", "moved"),
        "strength_chance": ("left_chance", "moved"),
        "shared": ("several", "any"),
        "shared_chance": ("both_chance", "any_chance"),
        "kept": ("kept", "entries"),
    }
    return {
        name: np.array(sums[top] / sums[below] if sums[below] else np.nan)
        for name, (top, below) in parts.items()
    }
