"""A dictionary while it is learned: its parameters, the optimiser, and which features sleep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from layerlens.analyses.features.dictionaries.dictionary import Dictionary, Form, normalised
from layerlens.analyses.features.training.judge import COMPONENT_ROWS
from layerlens.analyses.features.training.objective import CHOOSING, Batch, Loss, loss_of
from layerlens.analyses.features.training.price import Price
from layerlens.errors import ActivationError

THRESHOLD = 0.01
"""Of a jumprelu feature at the start."""
SMALL = 0.1
"""Norm of the decoder's rows at the start, of kinds that pay for what is on."""
DECAY = 0.2
"""Share of the training, at its end, in which the step falls to 0."""
BETAS = (0.9, 0.999)
"""Of Adam: how much of the running means of a gradient and of its square stays."""
SWITCHES = {"relu": "b_enc", "jumprelu": "threshold", "gated": "b_gate"}
"""What decides whether a feature is on, of the kinds that pay for it."""
QUICK = 10.0
"""A switch steps so many times as far as the rest, or through so much in a whole training,
whichever is more: it has to follow the price."""
KEEP = 0.99
"""Of the running mean of what a batchtopk one lets pass."""
STATE = "state."
"""What the names of arrays begin with that are there to go on learning."""


@dataclass(frozen=True)
class Recipe:
    """How a dictionary is learned; the options of ``ll.train_sae`` that say so."""

    kind: str
    features: int
    k: int
    lr: float
    batch: int
    total: int
    dead_after: int
    seed: int
    normalise: str


class Learns(Protocol):
    """What a training talks to: one dictionary, or several, while they are learned."""

    @property
    def seen(self) -> int:
        """Activations that were learned from."""

    @property
    def dead(self) -> Tensor:
        """bool: features that were off for long."""

    def step(self, x: Tensor) -> Loss:
        """Learn from a batch."""

    def look(self, x: Tensor) -> Loss:
        """The loss of activations that are not learned from."""

    def form(self) -> Form:
        """What is computed."""

    def dictionaries(self) -> list[Dictionary]:
        """What is learned by now, in the units of the model."""

    def arrays(self) -> dict[str, Tensor]:
        """The same by name."""

    def state(self) -> dict[str, Tensor]:
        """What else is needed to go on from here exactly."""

    def take(self, begun: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`arrays` and :meth:`state` gave."""


class Learner:
    """Parameters that are learned batch by batch.

    Parameters
    ----------
    recipe
        How.
    first
        ``[n, d]`` activations that say where to begin: their mean is ``b_dec`` at the start, and
        ``scale`` brings them near the norm ``sqrt(d)``. It is a power of two, so that what is
        learned is folded into the units of the model, and taken back, without rounding.
    """

    def __init__(self, recipe: Recipe, first: Tensor) -> None:
        self.recipe = recipe
        first = first[:COMPONENT_ROWS]
        self.scale = 1.0
        if recipe.normalise == "none":
            self.scale = scale_of(first)
        rows = drawn_rows(recipe, first.shape[1])
        rows = rows if recipe.kind in CHOOSING else rows * SMALL
        self._begin({"encoder": rows.clone(), "decoder": rows.clone()}, self._inside(first).mean(0))

    def _begin(self, given: dict[str, Tensor], mean: Tensor) -> None:
        """Begin with an encoder and a decoder, and what else the kind has."""
        recipe = self.recipe
        zeros = torch.zeros(recipe.features)
        self.given = given | {"b_dec": mean}
        if recipe.kind == "gated":
            self.given |= {name: zeros.clone() for name in ("b_gate", "b_mag", "r_mag")}
        else:
            self.given["b_enc"] = zeros.clone()
        if recipe.kind == "jumprelu":
            self.given["threshold"] = torch.full_like(zeros, THRESHOLD)
        self.mean = {name: torch.zeros_like(one) for name, one in self.given.items()}
        self.square = {name: torch.zeros_like(one) for name, one in self.given.items()}
        self.asleep = torch.zeros(recipe.features, dtype=torch.int64)
        self.cut = torch.zeros((), dtype=torch.float32)
        self.price = Price(recipe.kind, recipe.k)
        self.steps = self.seen = 0

    def _inside(self, x: Tensor) -> Tensor:
        return normalised(x, self.recipe.normalise)[0] * self.scale

    @property
    def dead(self) -> Tensor:
        """[m] bool: features that were off for ``dead_after`` activations."""
        return self.asleep >= self.recipe.dead_after

    def batch(self, x: Tensor, given: Mapping[str, Tensor]) -> Batch:
        """Activations as they are learned from."""
        x = self._inside(x)
        return Batch(x, x, given["b_dec"])

    def step(self, x: Tensor) -> Loss:
        """Learn from a batch of activations ``[n, d]``.

        Raises
        ------
        ActivationError
            The loss is not finite.
        """
        given = self.leaves()
        loss = loss_of(
            self.recipe.kind, given, self.batch(x, given), k=self.recipe.k, price=self.price.now,
            dead=self.dead, aux=self.aux,
        )  # fmt: skip
        slopes = torch.autograd.grad(loss.total, list(given.values()))
        self.price.steer(loss.l0, len(x) / self.recipe.total, self.seen / self.recipe.total)
        named = dict(zip(given, slopes, strict=True))
        del slopes  # each is let go when its step is taken
        self.descend(named, loss, len(x))
        return loss

    @property
    def aux(self) -> int:
        """How many dead features are taught at once, at most."""
        return int(self.given["encoder"].shape[1]) // 2

    def leaves(self) -> dict[str, Tensor]:
        """The parameters, of which gradients are recorded until the next step."""
        return {name: one.requires_grad_() for name, one in self.given.items()}

    def descend(self, slopes: dict[str, Tensor], loss: Loss, number: int) -> None:
        """One step down the slopes, which are used up, of a batch of so many activations.

        Raises
        ------
        ActivationError
            The loss is not finite.
        """
        recipe, done = self.recipe, self.seen / self.recipe.total
        if not math.isfinite(loss.total.item()):
            raise ActivationError(
                f"The loss was not finite after {self.seen:,} activations: give a smaller lr."
            )
        quick = QUICK * max(recipe.lr, recipe.batch / recipe.total)
        for name in self.given:
            self.given[name].requires_grad_(False)
            rate = quick if name == SWITCHES.get(recipe.kind) else recipe.lr
            self._adam(name, slopes.pop(name), rate * min(1.0, (1 - done) / DECAY))
        if recipe.kind == "jumprelu":
            self.given["threshold"].clamp_min_(0)
        if recipe.kind in CHOOSING:
            self.given["decoder"] /= self.given["decoder"].norm(dim=-1, keepdim=True)
        self._count(loss, number)

    def look(self, x: Tensor) -> Loss:
        """The loss of activations ``[n, d]`` that are not learned from."""
        recipe = self.recipe
        with torch.no_grad():
            return loss_of(
                recipe.kind, self.given, self.batch(x, self.given), k=recipe.k, price=0.0,
                dead=torch.zeros_like(self.dead), aux=0,
            )  # fmt: skip

    def _adam(self, name: str, slope: Tensor, rate: float) -> None:
        """One step of Adam (Kingma and Ba, 2015), whose whole state is ours to keep."""
        if name == "decoder" and self.recipe.kind in CHOOSING:
            rows = self.given[name]  # of norm 1: what only lengthens them is left out
            slope.addcmul_((slope * rows).sum(-1, keepdim=True), rows, value=-1)
        number = self.steps + 1
        mean = self.mean[name].mul_(BETAS[0]).add_(slope, alpha=1 - BETAS[0])
        square = self.square[name].mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
        root = (square / (1 - BETAS[1] ** number)).sqrt_().add_(1e-8)
        self.given[name].addcdiv_(mean, root, value=-rate / (1 - BETAS[0] ** number))

    def _count(self, loss: Loss, number: int) -> None:
        self.asleep += number
        self.asleep[loss.on] = 0
        if self.recipe.kind == "batchtopk":
            before = self.cut if self.steps else loss.cut
            self.cut = torch.as_tensor(KEEP * before + (1 - KEEP) * loss.cut)
        self.steps += 1
        self.seen += number

    def form(self) -> Form:
        """What the learned dictionary computes."""
        kind = "jumprelu" if self.recipe.kind == "batchtopk" else self.recipe.kind
        k = self.recipe.k if kind == "topk" else None
        return Form(kind, k, self.recipe.normalise)

    def dictionaries(self) -> list[Dictionary]:
        """The dictionary as it is by now, in the units of the model."""
        return [Dictionary(self.form(), self.arrays())]

    def arrays(self) -> dict[str, Tensor]:
        """The dictionary in the units of the model, as :class:`Dictionary` takes it."""
        found = {"W_enc": self.given["encoder"].T.contiguous(), "W_dec": self.given["decoder"]}
        for name in ("b_dec", "b_enc", "b_gate", "b_mag"):
            if name in self.given:
                found[name] = self.given[name] / self.scale
        if "r_mag" in self.given:
            found["r_mag"] = self.given["r_mag"]
        if self.recipe.kind == "jumprelu":
            found["threshold"] = self.given["threshold"] / self.scale
        elif self.recipe.kind == "batchtopk":
            found["threshold"] = (self.cut / self.scale).expand(self.recipe.features).contiguous()
        return found

    def state(self) -> dict[str, Tensor]:
        """What else is needed to go on from here exactly."""
        found = {"asleep": self.asleep, "cut": self.cut}
        found["counts"] = torch.tensor([self.steps, self.seen])
        found["scale"] = torch.tensor(self.scale, dtype=torch.float64)
        found["price"] = torch.tensor(self.price.state(), dtype=torch.float64)
        for name, one in self.given.items():
            found |= {f"mean.{name}": self.mean[name], f"square.{name}": self.square[name]}
            if name not in ("encoder", "decoder"):
                found[name] = one
        return {STATE + name: one for name, one in found.items()}

    def take(self, begun: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`arrays` and :meth:`state` gave."""
        state = ((name, one) for name, one in begun.items() if name.startswith(STATE))
        held = {name.removeprefix(STATE): one for name, one in state}
        held |= {"encoder": begun["W_enc"].T, "decoder": begun["W_dec"]}
        for name in self.given:
            self.given[name] = held[name].clone(memory_format=torch.contiguous_format)
            self.mean[name] = held[f"mean.{name}"].clone()
            self.square[name] = held[f"square.{name}"].clone()
        self.asleep, self.cut = held["asleep"].clone(), held["cut"].clone()
        self.steps, self.seen = held["counts"].tolist()
        self.scale = float(held["scale"])
        self.price.take(held["price"].tolist())


def scale_of(x: Tensor) -> float:
    """The power of two that brings activations ``[n, d]`` near the norm ``sqrt(d)``."""
    norm = float(x.norm(dim=-1).mean())
    return 2.0 ** round(math.log2(x.shape[1] ** 0.5 / norm)) if norm > 0 else 1.0


def drawn_rows(recipe: Recipe, width: int) -> Tensor:
    """Random rows of norm 1 to begin with, ``[features, width]``."""
    drawn = torch.Generator().manual_seed(recipe.seed)
    rows: Tensor = torch.nn.functional.normalize(
        torch.randn(recipe.features, width, generator=drawn), dim=-1
    )
    return rows
