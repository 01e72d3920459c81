"""Path patching: what one head does to a later head, or straight to the logits, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.contract import Job, Variable, Work, analysis
from layerlens.analyses.metric import make_metric
from layerlens.analyses.pair import Align, make_pairs
from layerlens.analyses.paths import Edges, Sender, parse_receivers, parse_senders
from layerlens.errors import InputError
from layerlens.run.cells import DEFAULT_LIMIT, Cell, Method, run_cells

if TYPE_CHECKING:
    from layerlens.analyses.metric import Metric, MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

CELLS = 128
"""Fourth runs that are collected before they are run together."""

SMALL = 1e-6
"""Two runs whose metric differs by less, relative to its size, have nothing to recover."""

_GRID = ("layer", "head")
VARIABLES = {
    "recovered": Variable(
        _GRID, "float32", "1", "share of the two runs' difference that this path carries"
    ),
    "effect": Variable(_GRID, "float32", "metric", "change of the metric through this path alone"),
    "metric": Variable(_GRID, "float32", "metric", "metric of the run with the path patched"),
}


def count_work(
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    *,
    sender: Any,
    receiver: Any,
    verify: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    receivers = parse_receivers(model, receiver)
    end = max((site.block for site in receivers), default=model.n_layers)
    senders = sum(layer < end for layer, _ in parse_senders(model, sender))
    texts, length = clean.ids.shape
    runs = (1 if not receivers else 2) * (senders + 1 + verify)
    size = 4 * length * model.d_model * model.n_layers * 4
    return Work(texts * (2 + runs), texts * (senders + 3 + verify), size)


@analysis(
    name="path_patch",
    question="What does a head do to a later head, or straight to the logits, and no more?",
    source=(
        "Wang et al., Interpretability in the Wild (2022); Goldowsky-Dill et al., Localizing Model "
        "Behavior with Path Patching (2023)"
    ),
    cost="2 passes, and 2 for each sender (1 where the logits receive)",
    view="grid",
    variables=VARIABLES,
    work=count_work,
    inputs=("clean", "corrupt"),
)
def path_patch(
    job: Job,
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    *,
    sender: Sender | Sequence[Sender] | None = None,
    receiver: Any = "logits",
    direction: str = "noise",
    freeze_mlps: bool = False,
    positions: Any = None,
    align: Align | None = None,
    metric: str | MetricFunction = "logit_diff",
    answer: str | int | None = None,
    wrong: str | int | None = None,
    verify: int = 2,
    method: Method = "auto",
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Change what one receiver reads of one sender, and see what becomes of the answer.

    Four runs for each sender: (1) the run that is changed, (2) the run that the sender's
    activation comes from, (3) the first one again with the sender at its value in the second and
    every other head held at its value in the first, in which what the receiver would read is
    kept, (4) the first one with the receiver reading just that. MLPs between sender and receiver
    are part of the path unless they are frozen.

    Parameters
    ----------
    sender
        ``(layer, head)``, a list of these, or None for every head that can reach the receiver.
    receiver
        ``"logits"``, ``(layer, head, "q" | "k" | "v")``, or a list of such triples, which then
        receive together. Heads of k and v are key-value heads.
    direction
        ``"noise"``: corrupted activations into the clean run (as in both papers); ``"denoise"``:
        clean activations into the corrupted run.
    freeze_mlps
        Hold MLPs too, so that only the direct path through the residual stream is left.
    positions
        Where the sender is changed: an index, a slice, a list or the text of a span; None for
        everywhere.
    align, metric, answer, wrong
        As in ``ll.patch_sweep``.
    verify
        How many of the strongest senders to compute again with four whole passes.
    method
        How edited runs are computed: ``"auto"``, ``"packed"``, ``"restart"`` or ``"naive"``.
    memory_limit
        Bytes of working memory above the model's own.

    Notes
    -----
    ``recovered`` is ``effect`` over the difference of the two plain runs: 1 where the path alone
    turns the answer of the one into that of the other. Senders that cannot reach the receiver
    are not on the grid.

    Raises
    ------
    InputError
        An option does not fit, or nothing can reach the receiver.
    SiteError
        The model has no such site, or its q and k cannot be changed.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")  # doctest: +SKIP
    >>> clean, corrupt = [1, 2, 3, 4, 1], [3, 2, 1, 4, 1]  # doctest: +SKIP
    >>> edges = ll.path_patch(model, clean, corrupt, receiver=(1, 0, "k"))  # doctest: +SKIP
    """
    receivers = parse_receivers(model, receiver)
    pairs = make_pairs(clean, corrupt, align, direction)
    end = max((site.block for site in receivers), default=model.n_layers)
    senders = [place for place in parse_senders(model, sender) if place[0] < end]
    if not senders:
        raise InputError(
            f"No sender can reach the receiver: it is in layer {end}, and only heads of layers "
            "before it can."
        )
    layers = sorted({layer for layer, _ in senders})
    _declare(job, model, layers, len(pairs))
    job.note(
        direction=f"{pairs[0].words}, through one path alone",
        receiver="logits" if not receivers else json.dumps([str(site) for site in receivers]),
    )
    found = []
    run = partial(run_cells, method=method, memory_limit=memory_limit, tick=job.tick)
    for row, pair in enumerate(pairs):
        edges = Edges.make(model, pair, receivers, freeze_mlps=freeze_mlps, where=positions)
        plain = (edges.base, edges.source)
        first, other = plain if direction == "noise" else plain[::-1]
        measure = make_metric(
            model, metric, final=first.final, other=other.final, answer=answer, wrong=wrong
        )
        sweep = _Sweep(job, edges, measure, senders, layers, (row, len(pairs)), run)
        sweep.run()
        sweep.check(verify)
        found.append(sweep)
    _note(job, found)


def _declare(job: Job, model: LensModel, layers: list[int], texts: int) -> None:
    sizes = {"layer": len(layers), "head": model.n_heads}
    if job.batched:
        sizes["batch"] = texts
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "layer": (("layer",), np.array(layers, dtype=np.int32)),
        "head": (("head",), np.arange(model.n_heads, dtype=np.int32)),
    }
    job.declare(sizes, coords)


class _Sweep:
    """All senders of one pair."""

    def __init__(
        self,
        job: Job,
        edges: Edges,
        measure: Metric,
        senders: list[Sender],
        layers: list[int],
        place: tuple[int, int],
        run: Callable[..., str],
    ) -> None:
        self.job, self.edges, self.measure, self.run_cells = job, edges, measure, run
        # Late senders have the shortest way, so they come first.
        self.senders = sorted(senders, key=lambda place: (-place[0], place[1]))
        self.layers, (self.row, self.texts) = layers, place
        plain = measure(torch.stack([edges.base.final, edges.source.final])).tolist()
        self.base, self.source = plain
        gap = self.source - self.base
        scale = max(abs(self.base), abs(self.source), 1.0)
        self.gap = gap if abs(gap) >= SMALL * scale else float("nan")
        self.values: dict[Sender, float] = {}
        self.method = ""

    def run(self) -> None:
        """Measure every sender, the last layers first, and emit as they are finished."""
        if self.gap != self.gap:
            self.job.remark(
                "Both texts give the same value of the metric, so there is nothing to recover."
            )
        self._emit_gaps()
        waiting: list[tuple[Sender, Cell]] = []
        for layer in reversed(self.layers):
            self.job.tick()
            heads = [place for place in self.senders if place[0] == layer]
            waiting += zip(heads, self._cells(heads), strict=True)
            if len(waiting) >= CELLS or layer == self.layers[0]:
                self._measure(waiting)
                waiting = []

    def _cells(self, heads: list[Sender], *, own: bool = False) -> list[Cell]:
        if self.edges.receivers:
            return list(self.edges.carried(heads, own=own))
        return [self.edges.straight(place, own=own) for place in heads]

    def _measure(self, waiting: list[tuple[Sender, Cell]]) -> None:
        def take(indices: Sequence[int], final: torch.Tensor) -> None:
            for index, value in zip(indices, self.measure(final).tolist(), strict=True):
                self._emit(waiting[index][0], value)

        cells = [cell for _, cell in waiting]
        edges = self.edges
        self.method = self.run_cells(edges.model, edges.base, cells, take)

    def _emit(self, sender: Sender, value: float) -> None:
        self.values[sender] = value
        effect = value - self.base
        where = {"layer": self.layers.index(sender[0]), "head": sender[1]}
        numbers = {"recovered": effect / self.gap + 0.0, "effect": effect, "metric": value}
        self._put(where, {name: np.array(number) for name, number in numbers.items()})
        done = self.row * len(self.senders) + len(self.values)
        self.job.progress(done, self.texts * len(self.senders), f"head {sender[0]}.{sender[1]}")

    def _emit_gaps(self) -> None:
        """Heads that were not asked for, or that a layer does not have, are NaN for good."""
        asked = set(self.senders)
        for index, layer in enumerate(self.layers):
            for head in range(self.edges.model.n_heads):
                if (layer, head) not in asked:
                    nothing = {name: np.array(np.nan) for name in VARIABLES}
                    self._put({"layer": index, "head": head}, nothing)

    def _put(self, where: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.job.emit({**where, "batch": self.row} if self.job.batched else where, arrays)

    def check(self, verify: int) -> None:
        """A sender at its own value changes nothing; the strongest ones by four whole passes."""
        text = f" of pair {self.row}" if self.job.batched else ""
        scale = max(abs(self.base), abs(self.source), 1.0)
        limit = 1e-4 * scale if self.edges.base.final.dtype == torch.float32 else 0.05 * scale
        (cell,) = self._cells([self.senders[-1]], own=True)
        finals: list[torch.Tensor] = []
        keep = lambda _, final: finals.append(final)  # noqa: E731
        self.run_cells(self.edges.model, self.edges.base, [cell], keep)
        error = abs(float(self.measure(finals[0])[0]) - self.base)
        name = f"own value changes nothing{text}"
        self.job.check(name, error, limit, "metric with a sender at its own value, less without")
        strongest = sorted(self.senders, key=lambda place: -abs(self.values[place] - self.base))
        for sender in strongest[:verify]:
            self.job.tick()
            value = float(self.measure(self.edges.plainly(sender).unsqueeze(0))[0])
            what = "metric by four whole passes, less the one found"
            name = f"head {sender[0]}.{sender[1]} by whole passes{text}"
            self.job.check(name, abs(value - self.values[sender]), limit, what)


def _note(job: Job, found: list[_Sweep]) -> None:
    """Say what was measured, and how."""
    first = found[0]
    clean_first = first.edges.pair.direction == "noise"
    clean = [sweep.base if clean_first else sweep.source for sweep in found]
    corrupt = [sweep.source if clean_first else sweep.base for sweep in found]
    runs = 2 if first.edges.receivers else 1
    job.note(
        metric=first.measure.words if len(found) == 1 else first.measure.long_name,
        metric_units=first.measure.units,
        answer=json.dumps([sweep.measure.answer for sweep in found]),
        metric_clean=json.dumps(clean) if job.batched else clean[0],
        metric_corrupt=json.dumps(corrupt) if job.batched else corrupt[0],
        method=first.method,
        passes=float(sum(2 + runs * (len(sweep.values) + 1) for sweep in found)),
    )
