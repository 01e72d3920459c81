"""Activation patching: which activations carry the difference between two texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.answer_metric import MetricFunction
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.patching import checks as patch_checks
from layerlens.analyses.patching.grid import Part, PatchGrid
from layerlens.analyses.patching.pair_runs import PatchRuns, distinct, recovered
from layerlens.analyses.patching.quick_estimate import (
    between_texts,
    estimate_cells,
    show_estimate,
)
from layerlens.analyses.sweeps.cell_sweep import Show, Sweep
from layerlens.analyses.sweeps.estimates import Agreement
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import Align, make_pairs
from layerlens.model.feed import ANY_KIND
from layerlens.run.many_edits import DEFAULT_LIMIT, Method, sweep_method

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

GRID = ("layer", "head?", "position?", "neuron?")
VARIABLES = {
    "metric": Variable(GRID, "float32", "1", "metric of the patched run", signed=True),
    "recovered": Variable(GRID, "float32", "1", "recovered fraction", signed=True),
    "estimate": Variable(GRID, "float32", "1", "recovered fraction, estimated"),
    **{
        f"{name}_{end}": Variable(GRID, "float32", "1", f"{words}, {of}", summary=True)
        for name, words in (("metric", "metric"), ("recovered", "recovered fraction"))
        for end, of in (
            ("mean", "mean over pairs"),
            ("low", "2.5 % of the bootstrap over pairs"),
            ("high", "97.5 % of the bootstrap over pairs"),
        )
    },
}


def count_work(model: LensModel, clean: Tokens, corrupt: Tokens, **options: Any) -> Work:
    """Count passes, rows through the head and bytes of one call."""
    pairs = make_pairs(clean, corrupt, options["align"], options["direction"])
    grid = PatchGrid.of(model, options)
    method = sweep_method(model) if options["method"] == "auto" else options["method"]
    method = "naive" if grid.kind == "embed" else method
    passes, cells, length = 0.0, 0, 0
    for pair in pairs:
        where = model.positions(pair.base, options["positions"])
        parts = [p for p in grid.parts(where, where) if max(p.positions) >= pair.shared]
        cells += len(parts)
        length = max(length, pair.base.ids.shape[1])
        passes += 2 + min(options["verify"], len(parts)) + 3 * bool(options["estimate_first"])
        for part in parts:
            depth = 1 - max(part.layer, 0) / model.n_layers
            rows = 1 - max(pair.shared, part.positions[0]) / pair.base.ids.shape[1]
            passes += {"naive": 1.0, "restart": depth, "packed": depth * rows}[method]
    recorded = 4 * model.n_layers * length * model.d_model * model.dtype.itemsize
    return Work(passes, cells + 4 * len(pairs), recorded + int(options["memory_limit"]))


@analysis(
    name="patch_sweep",
    question="Which activations carry what makes the model answer one text unlike another?",
    source="Vig et al. (2020), Investigating Gender Bias in Language Models Using Causal Mediation "
    "Analysis, arXiv 2004.12265; Meng et al. (2022), Locating and Editing Factual "
    "Associations in GPT, arXiv 2202.05262; Zhang and Nanda (2024), Towards Best Practices "
    "of Activation Patching, arXiv 2309.16042",
    cost="2 passes and the cells: one pass each the naive way, 2 to 6 in all where packed",
    view="patch",
    lead="A cell puts one activation of the other run in place of this run's: 1 brings back "
    "the whole answer, 0 nothing, below 0 it gets worse.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    inputs=("clean", "corrupt"),
    remote=True,
)
def patch_sweep(
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
    window: int = 1,
    align: Align | Sequence[Align | None] | None = None,
    method: Method = "auto",
    verify: int = 2,
    estimate_first: bool = False,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Replace one activation at a time by the other run's, and measure the answer.

    Two texts of equal length (best: alike but for one word, of the same kind) are run
    once each. Then every cell of the grid is a run of its own in which one activation is taken
    from the other run. The recovered fraction is 0 where that changes nothing and 1 where it
    brings the other run's answer back; it may be below 0 or above 1.

    Parameters
    ----------
    answer
    wrong
    site
        ``embed``, ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``,
        ``z``, ``q``, ``k``, ``v``, ``pattern`` or ``mlp_post``; in rotary families ``rot_q`` and
        ``rot_k`` too, which are ``q`` and ``k`` after the rotation.
    by
        ``position``: layer by position, all heads together; ``head``: layer by head, all
        positions together (the default of sites with heads; key-value heads for k and v);
        ``head_position``; ``neuron`` for ``mlp_post``.
    metric
    direction
        ``denoise`` puts clean activations into the corrupted run (what is enough to bring the
        answer back), ``noise`` corrupted ones into the clean run (what is needed for it).
    layers, heads, neurons
        Numbers; None for all.
    positions
        Of the run that is patched: an index, a slice, a list, or the text of a span; None for
        all.
    window
        How many layers, centred on each, are patched together; above 1 a place looks larger
        than it is.
    align
        For texts of unequal length: which positions belong together, as (clean, corrupted).
    method
    verify
        How many cells to run again the naive way, the strongest first.
    estimate_first
        Estimate every cell by attribution patching (a pass and a backward pass) before any is
        run; then those come first that the estimate finds strongest, and what is finished when
        the sweep is stopped are the cells that matter most.
    memory_limit

    Notes
    -----
    ``recovered`` is ``(m - m_corrupt) / (m_clean - m_corrupt)`` for ``denoise`` and ``(m_clean -
    m) / (m_clean - m_corrupt)`` for ``noise``; NaN where the two runs hardly differ. For several
    pairs ``recovered_mean`` is a ratio of means, with a 95 % bootstrap interval over pairs.
    Positions before the first token that differs cannot matter in a causal model; they are not
    run, and have the value of the unpatched run. Where the cells do not fit into one wave, those
    that attribution patching finds strongest come first.

    With ``estimate_first`` there is a variable ``estimate`` beside ``recovered``, in the same
    units; NaN where a cell needs no run. The attributes ``estimate_pearson`` and ``estimate_cells``
    say how well it agrees with how many true values, and ``estimate_pearson_strongest`` how well
    with the strongest tenth of them: where that is less, it finds where to look and does not rank
    what it finds; where these hardly differ (``strongest_alike``) there is nothing to rank. Of
    whole states and MLP outputs the gradient is that of a run whose embeddings lie half way
    between the texts, because in the run itself it is often flat. Where it cannot be made (the
    metric or the model has no gradient, the cells are windows) it is NaN throughout, and the
    attribute ``no_estimate`` says why.

    Raises
    ------
    InputError
        The texts have unequal lengths and nothing says what belongs together, or an option does
        not fit.
    SiteError
        The site does not exist in this model, or cannot be changed.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> grid = ll.patch_sweep(
    ...     model,
    ...     "cat dog owl cat",
    ...     "cat fox owl cat",
    ...     answer="dog",
    ...     wrong="fox",
    ... )
    >>> grid.data.recovered.dims
    ('layer', 'position')
    """
    options = {"site": site, "by": by, "layers": layers, "heads": heads, "neurons": neurons}
    grid = PatchGrid.of(model, {**options, "window": window})
    pairs = make_pairs(clean, corrupt, align, direction)
    runs = PatchRuns(job, model, grid, pairs, positions, between_texts(model, grid))
    texts = len(clean.ids)
    answers, wrongs = one_each(answer, texts, "answer"), one_each(wrong, texts, "wrong")
    filled = [name for name in VARIABLES if name != "estimate" or estimate_first]
    runs.measure(metric, answers, wrongs, filled)
    _PatchSweep(job, runs, estimate_first=estimate_first).run(method, verify, memory_limit)


class _PatchSweep:
    """The work of one call."""

    def __init__(self, job: Job, runs: PatchRuns, *, estimate_first: bool) -> None:
        self.job, self.runs, self.grid = job, runs, runs.grid
        self.agreement = Agreement(job) if estimate_first else None

    def run(self, method: Method, verify: int, memory_limit: int) -> None:
        """Run the cells of every pair, then sum the pairs up."""
        methods, cells = [], 0
        for index, pair in enumerate(self.runs.pairs):
            sweep = Sweep(
                self.job,
                self.runs.model,
                self.runs.runs[index][0],
                self.runs.metrics[index],
                self._shown(index),
                lead={"batch": index} if self.job.batched else {},
                share=(index, len(self.runs.pairs)),
                method=method,
                memory_limit=memory_limit,
                done=self.agreement.note if self.agreement else None,
            )
            shared = patch_checks.shared_prefix(sweep, pair, self.runs.runs[index])
            planned, known = self._plan(sweep, index, shared)
            tests = patch_checks.plan(sweep, pair, self.runs.runs[index][1], shared)
            promise = self._promise(sweep, planned, index)
            for place, value in known:
                sweep.fill(place, value)
            sweep.run(promise)
            sweep.verify(verify)
            patch_checks.check(sweep, pair, self.grid, self.runs.runs[index], tests)
            methods.append(sweep.method)
            cells += len(sweep)
            self.runs.passes += sweep.passes
        used = ", ".join(dict.fromkeys(methods))
        self.job.note(method=used, passes=self.runs.passes, cells=cells)
        if self.agreement:
            self.agreement.remark()
        if self.job.batched:
            self._sum_up()

    def _shown(self, index: int) -> Show:
        clean, corrupt = self.runs.ends[index]
        direction = self.runs.pairs[index].direction
        self.runs.distinct(index)

        def show(values: np.ndarray) -> dict[str, np.ndarray]:
            fraction = recovered(values, clean, corrupt, direction)
            return {"metric": values.astype(np.float32), "recovered": fraction.astype(np.float32)}

        return show

    def _promise(self, sweep: Sweep, planned: Sequence[Part], index: int) -> list[float] | None:
        """Estimated effects of the cells where they come one after another, else None."""
        changes, lack = None, ""
        if self.agreement or sweep.in_waves:
            changes, lack = estimate_cells(self.job, self.runs, planned, index)
        strongest = "strongest first, by attribution patching"
        self.job.note(order="as in the grid" if changes is None else strongest)
        if self.agreement:
            if lack:
                self.job.note(no_estimate=lack)
            show_estimate(self.job, self.runs, planned, changes, index)
            self.agreement.begin(changes)
        if changes is None:
            return None
        return [*changes, *[0.0] * (len(sweep) - len(planned))]

    def _plan(
        self, sweep: Sweep, index: int, shared: int
    ) -> tuple[list[Part], list[tuple[dict[str, int], float]]]:
        """Add the cells that have to be run; returns them, and the others with their values."""
        added: list[Part] = []
        known: list[tuple[dict[str, int], float]] = []
        runs, pair = self.runs, self.runs.pairs[index]
        columns = runs.columns(index)
        if "position" in self.grid.axes:
            absent = set(range(len(runs.axis))) - set(columns)
            known += [({"position": column}, np.nan) for column in absent]
        for part in self.grid.parts(runs.where[index], columns):
            live = runs.live(part, index, shared)
            if live:
                kept = replace(part, positions=live)
                sweep.add(self.grid.cell(kept, pair, runs.runs[index][1].trace), part.place)
                added.append(kept)
            else:
                known.append((part.place, np.nan if live is None else sweep.base_value))
        return added, known

    def _sum_up(self) -> None:
        """Means over the pairs, and their intervals."""
        assert self.job.parts is not None
        values = self.job.parts.arrays["metric"].astype(np.float64)
        ends = np.array(self.runs.ends)
        around = np.expand_dims(ends, tuple(range(2, values.ndim + 1)))
        moved = (
            values - around[:, 1]
            if self.runs.pairs[0].direction == "denoise"
            else around[:, 0] - values
        )
        total = ends[:, 0] - ends[:, 1]
        kept = np.isfinite(total)
        if not distinct(float(ends[:, 0].mean()), float(ends[:, 1].mean())):
            moved = np.full_like(moved, np.nan)
        found = {
            "metric": mean_interval(values),
            "recovered": mean_interval(moved[kept], total[kept]),
        }
        arrays = {
            f"{name}_{end}": array.astype(np.float32)
            for name, three in found.items()
            for end, array in zip(("mean", "low", "high"), three, strict=True)
        }
        self.job.emit({}, arrays)
