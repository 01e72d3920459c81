"""Runs of a model in which a layer's activations are replaced, beside the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.features.activations import Places, flat
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.corpus.rows import Row
from layerlens.corpus.shard import batches
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

RUNS = ("clean", "sae", "zero", "mean")
"""The model as it is, and with a layer's activations replaced by what each is called after."""
Tick = Callable[[], None]


def batches_of(places: Places, rows: Sequence[Row], limit: int) -> list[Tokens]:
    """Passes whose logits, held a few times over, stay below half a limit of bytes."""
    most = max(1, limit // 2 // (5 * 4 * places.model.d_vocab))
    found = [tokens for tokens, _ in batches(places.model, rows, most)]
    return [tokens for tokens in found if places.kept(tokens).any()]


class Sums:
    """Sums over tokens; they do not grow with the texts."""

    def __init__(self, places: Places, dictionary: Dictionary) -> None:
        layers, self.places, self.dictionary = len(places.sites), places, dictionary
        self.tokens = self._seen = 0
        self.targets = 0.0
        self._mean = torch.zeros(layers, places.width, dtype=torch.float64)
        self._around = torch.zeros(layers, dtype=torch.float64)
        self.on = torch.zeros(layers, dictionary.features, dtype=torch.float64)
        self.mass = torch.zeros(layers, dictionary.features, dtype=torch.float64)
        names = ("left", "ratio", "square", "product")
        self._of = {name: torch.zeros(layers, dtype=torch.float64) for name in names}
        self._run = {name: torch.zeros(layers, len(RUNS)).double() for name in ("ce", "kl")}
        self._kl_tokens = 0

    def see_mean(self, tokens: Tokens, tick: Tick) -> None:
        """Take a pass into the mean of each layer."""
        states, _, kept = read(self.places, tokens, tick, logits=False)
        self._mean += torch.stack([x[kept] for x in states]).double().sum(1)
        self._seen += int(kept.sum())

    def means(self) -> Tensor:
        """``[layer, width]`` float32: the mean activation."""
        return (self._mean / max(1, self._seen)).float()

    def reconstruct(self, layer: int, x: Tensor) -> Tensor:
        """What is decoded of ``[n, width]`` in a layer, which is counted."""
        y, features = self.dictionary.reconstruct(x)
        self.on[layer] += (features > 0).sum(0)
        self.mass[layer] += features.sum(0)
        wide, narrow = x.double(), y.double()
        self._around[layer] += (wide - self.means()[layer].double()).square().sum()
        self._of["left"][layer] += (wide - narrow).square().sum()
        norms = wide.norm(dim=-1).clamp_min(1e-12)
        self._of["ratio"][layer] += (narrow.norm(dim=-1) / norms).sum()
        self._of["square"][layer] += narrow.square().sum()
        self._of["product"][layer] += (wide * narrow).sum()
        return y

    def add(self, name: str, layer: int, run: int, value: float) -> None:
        """Add to the sum of ``ce`` or ``kl`` of a run."""
        self._run[name][layer, run] += value

    def count(self, tokens: int, targets: int, answers: int) -> None:
        """Count tokens that were encoded, that are followed by one, and whose answer counts."""
        self.tokens += tokens
        self.targets += targets
        self._kl_tokens += answers

    def runs(self, name: str) -> np.ndarray:
        """``[layer, run]``: means of ``ce`` or ``kl``."""
        number = self.targets if name == "ce" else self._kl_tokens
        found: np.ndarray = (self._run[name] / max(1, number)).numpy()
        return found

    def l0(self) -> np.ndarray:
        """``[layer]``: features on for a token."""
        found: np.ndarray = (self.on.sum(1) / max(1, self.tokens)).numpy()
        return found

    def reconstruction(self) -> dict[str, np.ndarray]:
        """How near what is decoded comes to the activations."""
        found = {
            "explained_variance": 1 - self._of["left"] / self._around,
            "shrinkage": self._of["ratio"] / max(1, self.tokens),
            "bias": self._of["square"] / self._of["product"],
        }
        return {name: value.numpy() for name, value in found.items()}


def read(
    places: Places, tokens: Tokens, tick: Tick, *, logits: bool = True
) -> tuple[list[Tensor], Tensor | None, Tensor]:
    """Activations of a pass ``[batch, position, width]`` by layer, its logits, and what counts."""
    found: dict[Site, Tensor] = {}

    def see(site: Site, value: Tensor) -> None:
        tick()
        found[site] = flat(value).float().clone()

    given = forward(places.model, tokens, places.sites, see, logits="all" if logits else None)
    return [found[site] for site in places.sites], given, places.kept(tokens)


class Replaced:
    """Runs with the activations of one layer replaced.

    Parameters
    ----------
    means
        ``[layer, width]``: the mean activation, for one of the ablations.
    """

    def __init__(
        self, model: LensModel, places: Places, dictionary: Dictionary, means: Tensor
    ) -> None:
        self.model, self.places, self.dictionary, self._means = model, places, dictionary, means
        self.error_of_identity = 0.0
        self.tolerance = 0.0

    def measure(self, tokens: Tokens, sums: Sums, tick: Tick) -> None:
        """Run a pass as it is and with each layer replaced in each way, and sum what came."""
        states, clean, kept = read(self.places, tokens, tick)
        if clean is None:
            raise RuntimeError("a model with a head gave no logits")
        if not sums.tokens:
            self.put_back(tokens, states, kept, clean)
        known = clean.float().log_softmax(-1)
        target = _targets(tokens, self.model.d_vocab)
        own = _ce(known, target)
        for layer, x in enumerate(states):
            y = sums.reconstruct(layer, x[kept])
            new = {"sae": y, "zero": torch.zeros_like(y), "mean": self._means[layer].expand_as(y)}
            sums.add("ce", layer, 0, own)
            for run, name in enumerate(RUNS[1:], 1):
                tick()
                logits = self.run(tokens, layer, _put(x, kept, new[name]))
                said = logits.float().log_softmax(-1)
                sums.add("ce", layer, run, _ce(said, target))
                sums.add("kl", layer, run, _kl(known, said, tokens.mask))
        sums.count(int(kept.sum()), int((target >= 0).sum()), int(tokens.mask.sum()))

    def run(self, tokens: Tokens, layer: int, new: Tensor) -> Tensor:
        """Logits with all activations of one layer replaced, ``[batch, position, width]``."""
        site = self.places.sites[layer]
        if site.kind == "z":
            new = new.unflatten(-1, (self.model.anatomy.blocks[site.block].n_heads, -1))
        changes = [Change(site, "set", new[row], row=row) for row in range(len(new))]
        found = forward(self.model, tokens, (), lambda *_: None, logits="all", changes=changes)
        if found is None:
            raise RuntimeError("a model with a head gave no logits")
        return found

    def put_back(self, tokens: Tokens, states: list[Tensor], kept: Tensor, clean: Tensor) -> None:
        """Put back what is not decoded: the model has to be itself again, by its logits."""
        for layer, x in enumerate(states):
            y = self.dictionary.reconstruct(x[kept])[0]
            whole = _put(x, kept, y + (x[kept] - y))
            off = (self.run(tokens, layer, whole) - clean)[tokens.mask].abs().max()
            self.error_of_identity = max(self.error_of_identity, float(off))
        self.tolerance = logit_tolerance(self.model.dtype) * float(clean[tokens.mask].abs().max())


def _put(x: Tensor, kept: Tensor, new: Tensor) -> Tensor:
    found = x.clone()
    found[kept] = new
    return found


def _targets(tokens: Tokens, vocabulary: int) -> Tensor:
    """``[batch, position]``: the next token, -1 where none follows."""
    found = torch.full_like(tokens.ids, -1)
    following, there = tokens.ids[:, 1:], tokens.mask[:, 1:] & tokens.mask[:, :-1]
    found[:, :-1] = following.where(there & (following < vocabulary), -1)
    return found


def _ce(said: Tensor, target: Tensor) -> float:
    counted = target >= 0
    return -float(said[counted].gather(-1, target[counted][:, None]).double().sum())


def _kl(known: Tensor, said: Tensor, mask: Tensor) -> float:
    return float((known.exp() * (known - said)).sum(-1)[mask].double().sum())
