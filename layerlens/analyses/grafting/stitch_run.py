"""The work of ``stitch``: moments over training texts, maps, and runs on from mapped states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.prediction_change import Outputs
from layerlens.analyses.lenses.fitting.affine import Moments, ridge_solution
from layerlens.analyses.probing.untrained import untrained
from layerlens.analyses.sweeps.clean_pass import Pass, TokenMeans, passes, tolerance
from layerlens.errors import InputError
from layerlens.metrics.batch import split as split_batches

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.contract.split import Split
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

CONTROLS = ("untrained", "shuffled", "none")
MOST_LAYERS = 8
"""Layers of a model where none are named."""
FEW = 10
"""Tokens for each entry of a state, below which a map may be fitted to chance."""


def spread(model: LensModel, which: Any) -> list[int]:
    """The layers that are named; else all, or of many some that are evenly spaced."""
    if which is not None or model.n_layers <= MOST_LAYERS:
        return model.layers(which)
    places = np.linspace(0, model.n_layers - 1, MOST_LAYERS).round()
    return [int(place) for place in places]


@dataclass
class Source:
    """Whose states are mapped, and what was found with them.

    Attributes
    ----------
    end
        What the names of its variables end in.
    model
        That is run.
    shuffled
        Each state stands for that of another token.
    """

    end: str
    model: LensModel
    shuffled: bool = False
    moments: list[Moments] = field(default_factory=list)
    maps: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class StitchRun:
    """The work of one call.

    Parameters
    ----------
    layers
        Of this model, and of the other.
    ridge
        Penalty, as a share of the mean variance.
    skip
        Tokens at the beginning of a text that do not count.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        other: LensModel,
        tokens: Tokens,
        layers: tuple[list[int], list[int]],
        ridge: float,
        skip: int,
        batch_size: int | None,
    ) -> None:
        self.job, self.model, self.other, self.tokens = job, model, other, tokens
        self.layers, self.targets = layers
        self.ridge, self.skip, self.batch_size = ridge, skip, batch_size
        self.shape = (len(self.layers), len(self.targets))
        self.exact = torch.float64 if torch.float64 in (model.dtype, other.dtype) else torch.float32
        self.passes = 0.0
        self.again = 0.0
        self.done = 0

    def run(self, split: Split, control: str, seed: int, declared: list[str]) -> None:
        """Fit on some of the texts, and try on the others."""
        sources = [Source("", self.model)]
        if control == "untrained":
            sources.append(Source("_chance", untrained(self.model, seed)))
        elif control == "shuffled":
            sources.append(Source("_chance", self.model, shuffled=True))
        self.random = torch.Generator().manual_seed(seed)
        self._declare(declared)
        train, test = self.tokens.chosen(split.train), self.tokens.chosen(split.test)
        batches = [len(split_batches(part, self.batch_size)) for part in (train, test)]
        self.total = batches[0] + batches[1] * len(sources) * len(self.layers)
        with self.other.running():
            mean = self._fit(sources, train)
            tried = _Trial(self, sources, mean)
            for ours, theirs in self._together(sources, test):
                tried.batch(ours, theirs)
            tried.finish()
        self._finish(control)

    def _declare(self, declared: list[str]) -> None:
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "layer": (("layer",), np.array(self.layers, dtype=np.int32)),
            "layer_other": (("layer_other",), np.array(self.targets, dtype=np.int32)),
        }
        sizes = dict(zip(coords, self.shape, strict=True))
        self.job.declare(sizes, coords, only=declared)

    def _together(self, sources: list[Source], tokens: Tokens) -> Iterator[tuple[list[Pass], Pass]]:
        """Passes of all models over the same batches; a model that is there twice runs once."""
        models = list({id(source.model): source.model for source in sources}.values())
        each = [
            passes(model, tokens, self.skip, self.batch_size, self.job.tick)
            for model in (*models, self.other)
        ]
        for *ours, theirs in zip(*each, strict=True):
            self.passes += len(each)
            by_model = dict(zip(map(id, models), ours, strict=True))
            yield [by_model[id(source.model)] for source in sources], theirs

    def states(self, source: Source, one: Pass, layer: int) -> Tensor:
        """States ``[n, width]`` of the tokens that count, after a block."""
        rows = one.taken(one.states[layer + 1])
        if source.shuffled:
            rows = rows[torch.randperm(len(rows), generator=self.random).to(rows.device)]
        return rows

    def _fit(self, sources: list[Source], train: Tokens) -> Tensor:
        """Moments of all pairs of layers, and the maps from them; the other's mean states."""
        width = len(self.targets) * self.other.d_model
        for source in sources:
            source.moments = [
                Moments(self.model.d_model, products=True, device=self.model.device, width_y=width)
                for _ in self.layers
            ]
        for ours, theirs in self._together(sources, train):
            y = torch.cat([theirs.taken(theirs.states[m + 1]) for m in self.targets], -1)
            for source, one in zip(sources, ours, strict=True):
                for moments, layer in zip(source.moments, self.layers, strict=True):
                    moments.add(self.states(source, one, layer), y)
            self.step("fits")
        self._require_enough(sources[0].moments[0].n)
        mean = sources[0].moments[0].y / sources[0].moments[0].n
        for source in sources:
            while source.moments:  # each is freed as soon as it is solved
                self.job.tick()
                product, bias = ridge_solution(source.moments.pop(0), self.ridge)
                source.maps.append((product.to(self.exact), bias.to(self.exact)))
        return mean.to(self.exact)

    def _require_enough(self, count: int) -> None:
        width = self.model.d_model
        if self.ridge == 0 and count <= width:
            raise InputError(
                f"{count} tokens cannot determine a map of {width} entries: give more texts, or a "
                "ridge above 0."
            )
        if count < FEW * width:
            self.job.remark(
                f"The maps were fitted to {count} tokens for states of {width} entries: with fewer "
                f"than {FEW * width} they may follow chance; look at the control."
            )
        self.job.note(tokens_fitted=count)

    def step(self, what: str) -> None:
        """One more of all steps."""
        self.done += 1
        self.job.progress(self.done, self.total, what)

    def _finish(self, control: str) -> None:
        self.job.note(
            passes=self.passes,
            method="ridge maps in closed form; the other model goes on from mapped states",
            direction=f"from {self.model.name} into {self.other.name}",
            other=self.other.name,
            control=control,
        )
        what = "loss of a token when the other model goes on from its own states"
        self.job.check("own states go on as they did", self.again, tolerance(self.other), what)


class _Trial:
    """The maps on held-out texts."""

    def __init__(self, work: StitchRun, sources: list[Source], mean: Tensor) -> None:
        self.work, self.sources = work, sources
        self.mean = mean.split(work.other.d_model)
        self.squares = np.zeros((len(sources), *work.shape))
        self.total = np.zeros(len(work.targets))
        self.losses = [TokenMeans(*work.shape) for _ in sources]
        self.agree = [TokenMeans(*work.shape) for _ in sources]
        self.means = TokenMeans(len(work.targets))
        self.whole = TokenMeans(2)

    def batch(self, ours: list[Pass], theirs: Pass) -> None:
        """Every pair of layers on one batch."""
        work, other = self.work, self.work.other
        said = Outputs(other, theirs.batch, theirs.taken(theirs.states[-1]))
        own = Outputs(work.model, ours[0].batch, ours[0].taken(ours[0].states[-1]))
        self.whole.add((0,), own.loss, ours[0].batch)
        self.whole.add((1,), said.loss, theirs.batch)
        truths = [theirs.taken(theirs.states[m + 1]).to(work.exact) for m in work.targets]
        for column, truth in enumerate(truths):
            self.total[column] += float((truth - self.mean[column].to(truth)).square().sum())
            loss, _ = self._on(theirs, said, column, self.mean[column].expand_as(truth))
            self.means.add((column,), loss - said.loss, theirs.batch)
            again, _ = self._on(theirs, said, column, truth)
            work.again = max(work.again, float((again - said.loss).nan_to_num().abs().max()))
        for number, (source, one) in enumerate(zip(self.sources, ours, strict=True)):
            for row, (layer, (product, bias)) in enumerate(
                zip(work.layers, source.maps, strict=True)
            ):
                states = work.states(source, one, layer).to(product)
                fitted = (states @ product + bias).split(other.d_model, -1)
                for column, truth in enumerate(truths):
                    off = fitted[column].to(truth) - truth
                    self.squares[number, row, column] += float(off.square().sum())
                    loss, differs = self._on(theirs, said, column, fitted[column])
                    change = loss - said.loss
                    self.losses[number].add((row, column), change, theirs.batch)
                    self.agree[number].add((row, column), 1 - differs, theirs.batch)
                work.step(f"after layer {layer}")
                self._emit(number, row)

    def _on(self, theirs: Pass, said: Outputs, column: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Let the other model go on from states of the tokens that count, ``[n, width]``."""
        layer = self.work.targets[column]
        state = theirs.batch.kept.put(theirs.states[layer + 1], rows)
        later = range(layer + 1, self.work.other.n_layers)
        self.work.passes += len(later) / self.work.other.n_layers
        differs, loss = said.compare(theirs.taken(theirs.run(state, later)), other_choice)
        return loss, differs

    def _emit(self, number: int, row: int) -> None:
        end = self.sources[number].end
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = 1 - self.squares[number, row] / self.total
        found = {
            f"r2{end}": r2,
            f"loss_change{end}": self.losses[number].mean()[row],
            f"agreement{end}": self.agree[number].mean()[row],
        }
        self.work.job.emit({"layer": row}, found)
        whole = self.whole.mean()
        loose = {"own_loss": whole[0], "other_loss": whole[1]}
        self.work.job.emit({}, {**loose, "mean_loss_change": self.means.mean()})

    def finish(self) -> None:
        """Which layer of the other fits best, and what the choice of texts leaves open."""
        agreed = self.agree[0].mean()
        targets = np.array(self.work.targets, dtype=np.int32)
        self.work.job.emit({}, {"best_match": targets[agreed.argmax(1)]})
        for source, losses, agree in zip(self.sources, self.losses, self.agree, strict=True):
            low, high = losses.interval()
            name = f"loss_change{source.end}"
            self.work.job.emit({}, {f"{name}_low": low, f"{name}_high": high})
            self.work.job.emit({}, {f"best_agreement{source.end}": agree.mean().max(-1)})


def other_choice(clean: Tensor, other: Tensor) -> Tensor:
    """1 where the likeliest token is another one, else 0."""
    return (clean.argmax(-1) != other.argmax(-1)).double()
