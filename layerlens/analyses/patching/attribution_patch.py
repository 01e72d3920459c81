"""Attribution patching: what every patch would do, estimated from one pass each way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.answers.answer_metric import MetricFunction
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import When
from layerlens.analyses.patching import checks as patch_checks
from layerlens.analyses.patching import estimate_checks
from layerlens.analyses.patching.attributed_cell import open_attributed
from layerlens.analyses.patching.gradient_effects import (
    IN_THE_BLOCK,
    Attribution,
    block_writes,
    part_effect,
)
from layerlens.analyses.patching.grid import Part, PatchGrid
from layerlens.analyses.patching.pair_runs import PatchRuns
from layerlens.analyses.patching.quick_estimate import effects_at
from layerlens.analyses.patching.softmax_effects import QUERY_KEY
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.analyses.sweeps.estimates import flat
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import Align, make_pairs
from layerlens.errors import InputError
from layerlens.model.sites import Site, parse_site
from layerlens.run.base import Base, record_base
from layerlens.run.many_edits import DEFAULT_LIMIT, Method

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

GRID = ("layer", "head?", "position?", "neuron?")
Planned = tuple[Part, tuple[int, ...] | None]
"""A part of the grid and the positions where it can matter; None: nowhere to take it from."""

METHODS = {
    "plain": "gradient of the run that is patched",
    "qk_fix": "gradient of the pattern, softmax computed anew",
    "path": "mean gradient of {steps} runs on the way to the other text",
    "grad_drop": "mean magnitude over gradients that leave out one block",
}

VARIABLES = {
    "attribution": Variable(GRID, "float32", "1", "estimated change of the metric", signed=True),
    "recovered": Variable(GRID, "float32", "1", "estimated recovered fraction", signed=True),
    "patched": Variable(GRID, "float32", "1", "change of the metric by true patching", signed=True),
}


def count_work(model: LensModel, clean: Tokens, corrupt: Tokens, **options: Any) -> Work:
    """Count passes, rows through the head and bytes of one call."""
    pairs = len(make_pairs(clean, corrupt, options["align"], options["direction"]))
    runs = max(1, options["steps"]) * (model.n_layers if options["grad_drop"] else 1)
    verified = 0 if options["verify"] == "all" else 2 * int(options["verify"])
    length = clean.ids.shape[1]
    kept = 30 * model.n_layers * length * model.d_model * model.dtype.itemsize
    return Work(pairs * (2 + 3 * runs + verified), pairs * (runs + verified), kept)


def _is_query_or_key(site: Any) -> bool:
    return parse_site(site).kind in QUERY_KEY


@analysis(
    name="attribution_patch",
    question="Which activations would matter if they were patched, estimated all at once?",
    source="Nanda (2023), Attribution Patching: Activation Patching at Industrial Scale; Syed, "
    "Rager and Conmy (2023), arXiv 2310.10348; softmax and cancelling: Kramár et al. "
    "(2024), AtP*, arXiv 2403.00745; integrated: Hanna, Pezzelle and Belinkov (2024), Have "
    "Faith in Faithfulness, arXiv 2403.17806",
    cost="2 passes, one forward and backward, and 2 passes for each cell that is verified",
    view="grid",
    lead="A cell is an estimate, by one gradient, of what patching there would do: look at the "
    "strongest ones and check them with a real patch.",
    variables=VARIABLES,
    work=count_work,
    needs=("head", "gradients"),  # recorded by the passes that are derived, not throughout
    inputs=("clean", "corrupt"),
    effects={"qk_fix": When("site", "for the sites q, k, rot_q and rot_k", _is_query_or_key)},
    opens=open_attributed,
)
def attribution_patch(
    job: Job,
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    *,
    answer: str | int | Sequence[str | int] | None = None,
    wrong: str | int | Sequence[str | int] | None = None,
    site: str = "resid_pre",
    by: str | None = None,
    metric: str | MetricFunction = "logit_diff",
    direction: str = "denoise",
    layers: Any = None,
    positions: Any = None,
    heads: Any = None,
    neurons: Any = None,
    align: Align | Sequence[Align | None] | None = None,
    steps: int = 0,
    qk_fix: bool = True,
    grad_drop: bool = False,
    method: Method = "auto",
    verify: int | str = 10,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Estimate a patching sweep by the gradient of the metric in the run that is patched.

    The effect of replacing an activation is taken to be linear in it: ``(a' - a) . dm/da``. That
    is exact where nothing but sums follows, and worst in the first layers, in saturated softmax
    and where a norm's scale changes much; so some cells are patched truly and compared.

    Parameters
    ----------
    answer, wrong, site, by, metric, direction, layers, positions, heads, neurons, align
        As in ``patch_sweep``. The metric must have a gradient.
    steps
        0: the gradient of the run that is patched. From 1 on: the mean gradient over this many
        runs whose embeddings lie between the two texts (integrated gradients, midpoint rule),
        which sees past flat places; 5 is common.
    qk_fix
        For sites ``q`` and ``k`` (before the rotary embedding, where there is one) and ``rot_q``
        and ``rot_k`` (after it): compute the softmax anew with the patched query or key, which
        mends misses where attention is saturated. Not together with ``steps``.
    grad_drop
        Mean magnitude over gradients that leave out one block each, against effects that cancel;
        costs a forward and backward pass a block, and gives no sign.
    method, memory_limit
        Of the true patches, as in ``patch_sweep``.
    verify
        How many of the strongest cells, and as many of the others drawn at random, to patch
        truly; ``"all"`` for every one.

    Notes
    -----
    ``attribution`` estimates the metric's change by the patch, ``patched`` is the true change of
    the cells that were verified; ``recovered`` divides by the difference between the two runs as
    ``patch_sweep`` does. The attributes ``pearson``, ``spearman`` and ``overlap`` (share of the
    truly strongest cells that the estimate also names) compare them on the verified cells.

    Raises
    ------
    InputError
        The metric has no gradient, or a zero one (KL from a run to itself); or as in
        ``patch_sweep``.
    SiteError
        The site does not exist in this model, or cannot be changed.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> quick = ll.attribution_patch(
    ...     model,
    ...     "cat dog owl cat",
    ...     "cat fox owl cat",
    ...     answer="dog",
    ...     wrong="fox",
    ...     site="z",
    ... )
    >>> quick.data.attribution.dims
    ('layer', 'head')
    """
    options = {"site": site, "by": by, "layers": layers, "heads": heads, "neurons": neurons}
    grid = PatchGrid.of(model, options)
    _check_options(metric, direction, steps, grad_drop, verify)
    pairs = make_pairs(clean, corrupt, align, direction)
    runs = PatchRuns(job, model, grid, pairs, positions, [model.anatomy.entry] if steps else [])
    texts = len(clean.ids)
    runs.measure(metric, one_each(answer, texts, "answer"), one_each(wrong, texts, "wrong"))
    how = "qk_fix" if qk_fix and grid.kind in QUERY_KEY and not steps else "plain"
    how = "grad_drop" if grad_drop else "path" if steps else how
    _AttributionPatch(job, runs, how, steps).run(method, verify, memory_limit)


def _check_options(
    metric: Any, direction: str, steps: int, grad_drop: bool, verify: int | str
) -> None:
    why = flat(metric, direction)
    if why and metric == "rank":
        raise InputError(f"{_capital(why)}: use metric='logit_diff' or 'logprob', or patch_sweep.")
    if why and not steps:
        raise InputError(
            f"{_capital(why)}: use metric='logit_diff', or steps=5 to average the gradient on the "
            "way to the other text."
        )
    if steps < 0 or (steps and grad_drop):
        raise InputError(f"steps is {steps}; expected 0 or more, and 0 with grad_drop.")
    if isinstance(verify, str) and verify != "all":
        raise InputError(f"verify is {verify!r}; expected a number of cells or 'all'.")


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


class _AttributionPatch:
    """The work of one call."""

    def __init__(self, job: Job, runs: PatchRuns, how: str, steps: int) -> None:
        self.job, self.runs, self.grid = job, runs, runs.grid
        self.how, self.steps = how, steps
        self.agreement: list[dict[str, float]] = []

    def run(self, method: Method, verify: int | str, memory_limit: int) -> None:
        """Estimate the cells of every pair and patch some of them truly."""
        for index in range(len(self.runs.pairs)):
            sweep = self._sweep(index, method, memory_limit)
            parts = self._parts(sweep, index)
            sums = self._estimate(sweep, parts, index)
            self._verify(sweep, parts, sums, verify, index)
            self.runs.passes += sweep.passes
            self.job.progress(index + 1, len(self.runs.pairs), "pairs")
        self.job.note(method=METHODS[self.how].format(steps=self.steps), passes=self.runs.passes)
        for name in self.agreement[0] if self.agreement else ():
            values = [one[name] for one in self.agreement]
            self.job.note(**{name: json.dumps(values) if self.job.batched else values[0]})

    def _sweep(self, index: int, method: Method, memory_limit: int) -> Sweep:
        clean, corrupt = self.runs.ends[index]
        before = corrupt if self.runs.pairs[index].direction == "denoise" else clean
        return Sweep(
            self.job,
            self.runs.model,
            self.runs.runs[index][0],
            self.runs.metrics[index],
            lambda values: {"patched": (values - before).astype(np.float32)},
            lead={"batch": index} if self.job.batched else {},
            method=method,
            memory_limit=memory_limit,
        )

    def _parts(self, sweep: Sweep, index: int) -> list[Planned]:
        """The cells of the grid, with the positions at which each can matter."""
        runs = self.runs
        shared = patch_checks.shared_prefix(sweep, runs.pairs[index], runs.runs[index])
        parts = self.grid.parts(runs.where[index], runs.columns(index))
        return [(part, runs.live(part, index, shared)) for part in parts]

    def _estimate(self, sweep: Sweep, parts: Sequence[Planned], index: int) -> np.ndarray:
        """Push the estimates; returns them [part], NaN where nothing can be patched."""
        runs = self.runs
        base, source = runs.runs[index]
        work = Attribution(
            runs.model,
            self.grid,
            runs.pairs[index],
            base,
            source,
            runs.metrics[index],
            self.job.tick,
        )
        positions = sorted({t for _, live in parts for t in live or ()})
        effects = self._effects(work, positions, base)
        sums = np.array([self._effect(effects, part, live) for part, live in parts])
        self._push(parts, sums, index)
        if self.how == "plain":
            estimate_checks.slope(sweep, work, effects[0])
        elif self.how == "path":
            estimate_checks.completeness(sweep, runs.pairs[index], source, effects[0])
        runs.passes += work.passes
        return sums

    def _effects(
        self, work: Attribution, positions: list[int], base: Base
    ) -> list[dict[Site, Tensor]]:
        """Effects by site; several sets of them only where gradients leave out blocks."""
        if self.how == "path":
            return [work.effects(work.along_path(self.steps))]
        if self.how == "qk_fix":
            return [effects_at(work, self.grid, positions)]
        if self.how != "grad_drop":
            return [work.effects(work.gradients(self.grid.sites))]
        model = self.runs.model
        sites = [site for layer in range(model.n_layers) for site in block_writes(model, layer)]
        writes = record_base(model, base.tokens, sites)
        self.runs.passes += 1
        layers = range(model.n_layers)
        return [work.effects(work.without_layer(layer, writes)) for layer in layers]

    def _effect(
        self, effects: list[dict[Site, Tensor]], part: Part, live: tuple[int, ...] | None
    ) -> float:
        if live is None:
            return float("nan")
        found = [part_effect(self.grid, one, part, live) for one in effects]
        if self.how != "grad_drop":
            return found[0]
        # What a block writes is held once, so its own parts have one effect less.
        left = len(found) - (self.grid.kind in IN_THE_BLOCK)
        return sum(abs(effect) for effect in found) / max(left, 1)

    def _push(self, parts: Sequence[Planned], sums: np.ndarray, index: int) -> None:
        runs, job = self.runs, self.job
        assert job.parts is not None
        shape = tuple(job.parts.sizes[axis] for axis in self.grid.axes)
        attribution = np.full(shape, np.nan)
        for (part, _), value in zip(parts, sums, strict=True):
            attribution[tuple(part.place[axis] for axis in self.grid.axes)] = value
        clean, corrupt = runs.ends[index]
        way = (clean - corrupt) * (1 if runs.pairs[index].direction == "denoise" else -1)
        share = attribution / way if runs.distinct(index) else np.full(shape, np.nan)
        arrays = {"attribution": attribution, "recovered": share}
        where = {"batch": index} if job.batched else {}
        job.emit(where, {name: array.astype(np.float32) for name, array in arrays.items()})

    def _verify(
        self,
        sweep: Sweep,
        parts: Sequence[Planned],
        sums: np.ndarray,
        verify: int | str,
        index: int,
    ) -> None:
        """Patch some cells truly, and say how well the estimate did."""
        sweep.fill({}, np.nan)
        for part, live in parts:
            if live == ():
                sweep.fill(part.place, sweep.base_value)
        able = [number for number, (_, live) in enumerate(parts) if live]
        ranked = sorted(able, key=lambda number: -abs(sums[number]))
        top = ranked if verify == "all" else ranked[: int(verify)]
        rest = np.random.default_rng(0).permutation(ranked[len(top) :])[: len(top)]
        chosen = sorted([*top, *(int(number) for number in rest)])
        for number in chosen:
            part, live = parts[number]
            cell = self.grid.cell(
                replace(part, positions=live or ()),
                self.runs.pairs[index],
                self.runs.runs[index][1].trace,
            )
            sweep.add(cell, part.place)
        if not chosen:
            return
        sweep.run()
        truth = sweep.values - sweep.base_value
        truth = np.abs(truth) if self.how == "grad_drop" else truth
        strongest = min(len(top), 10) if verify == "all" else len(top)
        self.agreement.append(estimate_checks.agreement(self.job, sums[chosen], truth, strongest))
