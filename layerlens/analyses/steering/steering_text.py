"""The work of :mod:`layerlens.analyses.steering.steering`: directions, separation, doses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Job, Variable
from layerlens.analyses.steering.directions import Separation, separate
from layerlens.analyses.steering.front import Front, find_front
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

NEUTRAL = "The meeting starts at ten, and the room is on the second"
"""What the side effect is measured on unless another text is given."""

_DOSE = ("layer", "coefficient")
_SEPARATION = {
    "norm_ratio": ("1", "length of the direction over that of the states"),
    "auc": ("1", "chance that a positive prompt projects higher, held out"),
    "fisher": ("1", "Fisher ratio of the held-out projections"),
    "jsd": ("nats", "JS divergence of the states' softmax over channels"),
    "consistency": ("1", "cosine of single pairs' differences with the direction"),
}
VARIABLES = {
    **{
        name: Variable(("layer",), "float32", units, words)
        for name, (units, words) in _SEPARATION.items()
    },
    "dose_metric": Variable(_DOSE, "float32", "1", "metric of the steered run", signed=True),
    "dose_change": Variable(_DOSE, "float32", "1", "change of the metric", signed=True),
    "neutral_kl": Variable(_DOSE, "float32", "nats", "KL divergence on the neutral text"),
    "direction": Variable(
        ("layer", "channel"),
        "float32",
        "activation",
        "mean difference of the conditions",
        signed=True,
    ),
    "mean_norm": Variable(("layer",), "float32", "activation", "mean length of the states"),
    "scale": Variable(("layer",), "float32", "directions", "a coefficient of 1, in directions"),
    "front_ratio": Variable(
        ("layer", "front"), "float32", "1", "length of the difference there over that of the states"
    ),
    "front_direction": Variable(
        ("layer", "front", "channel"),
        "float32",
        "activation",
        "mean difference of the conditions, position by position",
        signed=True,
    ),
}


class Steering:
    """The work of one call."""

    def __init__(self, job: Job, model: LensModel, sites: list[Site]) -> None:
        self.job, self.model, self.sites = job, model, sites
        self.found: list[Separation] = []
        self.scales: list[float] = []
        self.passes = 0.0
        self.methods: set[str] = set()
        self.front: Front | None = None
        self.sides: list[np.ndarray] = []

    def find(
        self,
        positive: Tokens,
        negative: Tokens,
        doses: list[float],
        *,
        position: Any,
        relative: bool,
        front: bool,
    ) -> None:
        """Find the directions, or what goes along a front, and how well they separate."""
        self.require_pairs(positive, negative)
        if front:
            self.front = find_front(self.job, self.model, self.sites, positive, negative)
            self.passes += self.front.passes
        self.declare(doses)
        places = one_each(position, len(positive.ids), "position")
        self.sides = [self.states(tokens, places) for tokens in (positive, negative)]
        self.separate(*self.sides, relative=relative)

    def require_pairs(self, positive: Tokens, negative: Tokens) -> None:
        """Raise unless the prompts pair up."""
        counts = len(positive.ids), len(negative.ids)
        if counts[0] != counts[1]:
            raise InputError(
                f"There are {counts[0]} positive and {counts[1]} negative prompts: they are paired "
                "one by one, so give as many of each."
            )

    def declare(self, coefficients: list[float]) -> None:
        """State axes and coordinates."""
        layers = [site.block for site in self.sites]
        sizes = {"layer": len(layers), "channel": self.model.d_model}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "layer": (("layer",), np.array(layers, dtype=np.int32))
        }
        if coefficients:
            sizes["coefficient"] = len(coefficients)
            coords["coefficient"] = (("coefficient",), np.array(coefficients))
        if self.front is not None:
            sizes["front"] = self.front.length
            coords["front"] = (("front",), np.arange(self.front.length, dtype=np.int32))
        self.job.declare(sizes, coords)
        if self.front is not None:
            found = {"front_ratio": self.front.ratio, "front_direction": self.front.difference}
            self.job.emit({}, {name: array.astype(np.float32) for name, array in found.items()})

    def states(self, tokens: Tokens, places: list[Any]) -> np.ndarray:
        """States ``[layer, prompt, width]`` float64 at one position of each prompt."""
        found = np.empty((len(self.sites), len(tokens.ids), self.model.d_model))
        index = {site: i for i, site in enumerate(self.sites)}
        for row in range(len(tokens.ids)):
            one = row_of(tokens, row)
            place = self.model.positions(one, places[row])[-1]

            def keep(site: Site, value: Tensor, row: int = row, place: int = place) -> None:
                self.job.tick()
                found[index[site], row] = value[0, place].float().cpu().numpy()

            forward(self.model, one, self.sites, keep, logits=None)
            self.passes += 1
        if not np.isfinite(found).all():
            raise InputError(
                "The states hold NaN or infinity: check the model's weights and dtype (float16 "
                "overflows where bfloat16 or float32 do not)."
            )
        return found

    def separate(self, positive: np.ndarray, negative: np.ndarray, *, relative: bool) -> None:
        """Find the directions, and how well each separates the conditions."""
        for place, (high, low) in enumerate(zip(positive, negative, strict=True)):
            found = separate(high, low)
            scale = 1.0
            if relative:
                scale = found.mean_norm / found.norm if found.norm else 0.0
            self.found.append(found)
            self.scales.append(scale)
            arrays = {
                "norm_ratio": found.norm / found.mean_norm if found.mean_norm else np.nan,
                **{name: getattr(found, name) for name in _SEPARATION if name != "norm_ratio"},
                "direction": found.direction,
                "mean_norm": found.mean_norm,
                "scale": scale,
            }
            shown = {name: np.array(value, dtype=np.float32) for name, value in arrays.items()}
            self.job.emit({"layer": place}, shown)
        worst = max(max(found.jsd - np.log(2), -found.jsd) for found in self.found)
        what = "by how much a divergence lies outside [0, ln 2] (nats)"
        self.job.check("JS divergence in its range", max(0.0, worst), 1e-9, what)

    def steer(
        self,
        tokens: Tokens,
        doses: list[float],
        metric: str | MetricFunction,
        *,
        answer: Any,
        wrong: Any,
        verify: int,
        limit: int,
        at: Any,
    ) -> None:
        """Add multiples of the directions while the text runs."""
        base = record_base(self.model, tokens)
        measure = make_metric(self.model, metric, final=base.final, answer=answer, wrong=wrong)
        self.job.describe("dose_metric", units=measure.units, long_name=measure.words)
        words = f"change of the {measure.words}"
        self.job.describe("dose_change", units=measure.units, long_name=words)
        sweep = Sweep(
            self.job,
            self.model,
            base,
            measure,
            lambda values: {
                "dose_metric": values.astype(np.float32),
                "dose_change": (values - sweep.base_value).astype(np.float32),
            },
            share=(0, 2),
            memory_limit=limit,
        )
        self._sweep(sweep, doses, self.model.positions(tokens, at), verify)
        if 0.0 in doses:
            none = sweep.values.reshape(-1, len(doses))[:, doses.index(0.0)]
            error = float(np.abs(none - sweep.base_value).max())
            what = "metric with coefficient 0 against the plain run"
            self.job.check("coefficient 0 changes nothing", error, sweep.tolerance, what)
        self.job.note(
            metric=measure.name,
            metric_words=measure.words,
            base_metric=sweep.base_value,
            steered_text="".join(tokens.strings[0]),
        )

    def disturb(
        self, neutral: Any, doses: list[float], *, verify: int, limit: int, at: Any
    ) -> None:
        """Add the same to a text that should not care."""
        if neutral is None and self.model.tokenizer is None:
            nothing = np.full((len(self.sites), len(doses)), np.nan, dtype=np.float32)
            self.job.emit({}, {"neutral_kl": nothing})
            self.job.remark("There is no tokenizer for the neutral sentence: give neutral=.")
            return
        tokens = row_of(self.job.tokens(NEUTRAL if neutral is None else neutral), 0)
        base = record_base(self.model, tokens)
        measure = make_metric(self.model, "kl", final=base.final)
        sweep = Sweep(
            self.job,
            self.model,
            base,
            measure,
            lambda values: {"neutral_kl": values.astype(np.float32)},
            share=(1, 2),
            memory_limit=limit,
        )
        # The text's positions mean nothing here: every one is steered.
        self._sweep(sweep, doses, list(range(base.length)), verify)
        self.job.note(neutral_text="".join(tokens.strings[0]))

    def _sweep(self, sweep: Sweep, doses: list[float], positions: list[int], verify: int) -> None:
        """Run one text with each dose at each layer."""
        for place in range(len(self.sites)):
            for column, dose in enumerate(doses):
                change = self.change(place, dose, sweep.base.length, positions)
                sweep.add(Cell((change,)), {"layer": place, "coefficient": column})
        sweep.run()
        sweep.verify(verify)
        self.methods.add(sweep.method)
        self.passes += sweep.passes + 1

    def change(self, place: int, dose: float, length: int, positions: Sequence[int]) -> Change:
        """So much of what steers at one layer, for a text of a length.

        Raises
        ------
        InputError
            No position was chosen, or the text is shorter than what goes along its front.
        """
        step, where = self.found[place].direction, tuple(positions)
        if self.front is not None:
            step, where = self.front.difference[place], tuple(range(self.front.length))
            if length < len(where):
                raise InputError(
                    f"The prompts have up to {len(where)} tokens and the text {length}: along its "
                    "front goes only what is no longer than it; give a longer text (or neutral=)."
                )
        if not where:
            raise InputError("No position of the text was chosen: ask for at least one.")
        value = torch.from_numpy(dose * self.scales[place] * step).float()
        return Change(self.sites[place], "add", value, where)

    def finish(self) -> None:
        """Say which layers separate best."""
        layers = [site.block for site in self.sites]
        for name in ("auc", "fisher", "jsd"):
            values = np.array([getattr(found, name) for found in self.found])
            if np.isfinite(values).any():
                self.job.note(**{f"layer_by_{name}": layers[int(np.nanargmax(values))]})
        ratios = [found.norm / found.mean_norm if found.mean_norm else 0.0 for found in self.found]
        self.job.note(
            layer_by_norm_ratio=layers[int(np.argmax(ratios))],
            passes=self.passes,
            site=self.sites[0].kind,
            direction_words="mean of the positive states minus mean of the negative ones",
        )
        if self.methods:
            self.job.note(method=", ".join(sorted(self.methods)))
