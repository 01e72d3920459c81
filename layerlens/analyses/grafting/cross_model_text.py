"""The work of :mod:`layerlens.analyses.grafting.cross_model_patch`, text by text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Job, Variable
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.base import Base, record_base, wanted_logits
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric, MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SAME = 1e-6
"""Models whose metrics differ by less than this share of their size show nothing to recover."""

_MEANS = {
    f"{name}_{end}": Variable(("layer",), "float32", "1", f"{words}, {text}", summary=True)
    for name, words in (("recovered", "share of the difference"), ("metric", "metric"))
    for end, text in (
        ("mean", "mean over texts"),
        ("low", "lower end of the 95 % interval over texts"),
        ("high", "upper end of the 95 % interval over texts"),
    )
}
VARIABLES = {
    "recovered": Variable(
        ("layer",), "float32", "1", "share of the models' difference that goes with the states"
    ),
    "metric": Variable(("layer",), "float32", "1", "metric with the other model's states"),
    "norm_ratio": Variable(
        ("layer",), "float32", "1", "norm of the other model's states over that of its own"
    ),
    "cosine": Variable(("layer",), "float32", "1", "cosine of the two models' states"),
    "own_metric": Variable((), "float32", "1", "metric of this model"),
    "other_metric": Variable((), "float32", "1", "metric of the other model"),
    "answer_id": Variable((), "int32", "1", "answer", is_token=True),
    **_MEANS,
}


class CrossModel:
    """The work of one call."""

    def __init__(
        self, job: Job, model: LensModel, other: LensModel, tokens: Tokens, layers: list[int]
    ) -> None:
        self.job, self.model, self.other = job, model, other
        self.tokens, self.layers = tokens, layers
        self.own: list[float] = []
        self.theirs: list[float] = []
        self.values: list[np.ndarray] = []
        self.places: list[list[int]] = []
        self.measures: list[Metric] = []
        self.passes = 0.0
        self.methods: set[str] = set()
        self.head: tuple[float, float] | None = None

    def declare(self) -> None:
        """State axes and coordinates."""
        sizes = {"layer": len(self.layers)}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "layer": (("layer",), np.array(self.layers, dtype=np.int32))
        }
        if not self.tokens.single:
            sizes["batch"] = len(self.tokens.ids)
            coords["text"] = (("batch",), np.array([text or "" for text in self.tokens.texts]))
        self.job.declare(sizes, coords)

    def text(
        self,
        row: int,
        metric: str | MetricFunction,
        asked: dict[str, Any],
        positions: Any,
        verify: int,
        memory_limit: int,
    ) -> None:
        """Patch one text at every layer."""
        tokens = row_of(self.tokens, row)
        base = record_base(self.model, tokens)
        states, logits = other_states(self.job, self.model, self.other, base, self.layers)
        measure = self._measure(metric, base, logits, asked)
        theirs = float(measure.of_logits(logits.unsqueeze(0))[0])
        if row == 0:
            self.job.describe("metric", units=measure.units, long_name=measure.words)
        places = self.model.positions(tokens, positions)
        if not places:
            raise InputError(f"No position was chosen by {positions!r}: ask for at least one.")
        sweep = self._sweep(row, base, measure, theirs, memory_limit)
        for place, layer in enumerate(self.layers):
            change = Change(Site("resid_post", layer), "set", states[layer][places], tuple(places))
            sweep.add(Cell((change,)), {"layer": place})
        self._emit_base(row, sweep, states, places, theirs)
        sweep.run()
        sweep.verify(verify if row == 0 else 0)
        self._compare_head(sweep, states, places)
        self.own.append(sweep.base_value)
        self.theirs.append(theirs)
        self.values.append(sweep.values)
        self.places.append(places)
        self.measures.append(measure)
        self.methods.add(sweep.method)
        self.passes += sweep.passes + 2

    def _measure(
        self, metric: str | MetricFunction, base: Base, logits: Tensor, asked: dict[str, Any]
    ) -> Metric:
        """The metric of this model, with the other one's answer as the wrong one."""
        if metric == "kl" and len(logits) != self.model.d_vocab:
            raise InputError(
                f"{self.other.name} has {len(logits)} tokens and {self.model.name} "
                f"{self.model.d_vocab}: a KL divergence needs the same vocabulary; use another "
                "metric."
            )
        wrong = asked["wrong"]
        if wrong is None and metric == "logit_diff":
            wrong = self._wrong(base, logits, asked["answer"])
        answer = asked["answer"]
        return make_metric(self.model, metric, final=base.final, answer=answer, wrong=wrong)

    def _sweep(
        self, row: int, base: Base, measure: Metric, theirs: float, memory_limit: int
    ) -> Sweep:
        """A sweep of one text, without its cells."""

        def show(values: np.ndarray) -> dict[str, np.ndarray]:
            recovered = self._recovered(values, sweep.base_value, theirs)
            return {"metric": values.astype(np.float32), "recovered": recovered}

        sweep = Sweep(
            self.job,
            self.model,
            base,
            measure,
            show,
            lead=self._lead(row),
            share=(row, len(self.tokens.ids)),
            memory_limit=memory_limit,
        )
        return sweep

    def _lead(self, row: int) -> dict[str, int]:
        """Where everything of one text goes."""
        return {} if self.tokens.single else {"batch": row}

    def _wrong(self, base: Base, logits: Tensor, answer: Any) -> int | None:
        """The other model's answer, where it is another one."""
        own = self.model.unembed(base.final.unsqueeze(0))[0]
        right = int(own.argmax()) if answer is None else self.model.token_id(answer)
        theirs = int(logits[: len(own)].argmax())
        return None if theirs == right else theirs

    def _recovered(self, values: np.ndarray, own: float, theirs: float) -> np.ndarray:
        if abs(own - theirs) <= SAME * max(abs(own), abs(theirs), 1.0):
            self.job.remark("Both models have the same metric, so there is nothing to recover.")
            return np.full(values.shape, np.nan, dtype=np.float32)
        return ((own - values) / (own - theirs)).astype(np.float32)

    def _emit_base(
        self,
        row: int,
        sweep: Sweep,
        states: dict[int, Tensor],
        places: list[int],
        theirs: float,
    ) -> None:
        """Emit what is known before anything is patched."""
        ratios, cosines = [], []
        for layer in self.layers:
            mine = sweep.base.state(layer + 1)[places].float().cpu()
            given = states[layer][places].float().cpu()
            ratios.append((given.norm(dim=-1) / mine.norm(dim=-1)).mean().item())
            cosines.append(torch.cosine_similarity(mine, given, dim=-1).mean().item())
        arrays = {
            "norm_ratio": ratios,
            "cosine": cosines,
            "own_metric": sweep.base_value,
            "other_metric": theirs,
            "answer_id": sweep.metric.answer,
        }
        shown = {name: np.array(one, dtype=VARIABLES[name].dtype) for name, one in arrays.items()}
        self.job.emit(self._lead(row), shown)

    def _compare_head(self, sweep: Sweep, states: dict[int, Tensor], places: list[int]) -> None:
        """After the last block there is only this model's head left."""
        last = self.model.n_layers - 1
        at = sweep.base.at
        if self.layers[-1] != last or at not in places:
            return
        state = states[last][at : at + 1].to(sweep.base.final)
        error = abs(float(sweep.metric(state)[0]) - float(sweep.values[-1]))
        before = self.head or (0.0, 0.0)
        self.head = (max(before[0], error), max(before[1], sweep.tolerance))

    def finish(self) -> None:
        """Means over texts; what was run and compared."""
        if not self.tokens.single:
            values, own = np.stack(self.values), np.array(self.own)[:, None]
            over = np.array(self.own) - np.array(self.theirs)
            known = np.abs(over).max() > SAME * max(np.abs(own).max(), 1.0)
            shares = mean_interval(own - values, over if known else np.full(len(over), np.nan))
            found = {"recovered": shares, "metric": mean_interval(values)}
            for name, ends in found.items():
                for end, array in zip(("mean", "low", "high"), ends, strict=True):
                    self.job.emit({}, {f"{name}_{end}": array.astype(np.float32)})
        if self.head is not None:
            what = "states replaced after the last block against this model's head on them"
            self.job.check("last layer is the head alone", *self.head, what)
        measure = self.measures[0]
        self.job.note(
            passes=self.passes,
            method=", ".join(sorted(self.methods)),
            direction=f"states of {self.other.name} into {self.model.name}, after each block",
            other=self.other.name,
            metric=measure.name,
            metric_words=measure.words,
            positions=json.dumps(self.places),
        )


def other_states(
    job: Job, model: LensModel, other: LensModel, base: Base, layers: Sequence[int]
) -> tuple[dict[int, Tensor], Tensor]:
    """Run the other model on the text of a run of this one.

    Returns
    -------
    tuple
        Its states ``[position, d_model]`` after each of these blocks and the last one, and its
        logits where the text is answered.

    Raises
    ------
    InputError
        The other model has no head.
    """
    states: dict[int, Tensor] = {}

    def keep(site: Site, value: Tensor) -> None:
        job.tick()
        states[site.block] = value[0].clone()

    sites = [Site("resid_post", layer) for layer in sorted({*layers, other.n_layers - 1})]
    logits = forward(other, base.tokens, sites, keep, logits=wanted_logits(model))
    if logits is None:
        raise InputError(f"{other.name} has no language-model head to compare with.")
    return states, logits[0, base.at - base.length].float()
