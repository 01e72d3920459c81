"""Activation patching: which activations carry the difference between two texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses import patch_checks
from layerlens.analyses.contract import Job, Variable, Work, analysis
from layerlens.analyses.intervals import mean_interval
from layerlens.analyses.metric import Metric, MetricFunction, make_metric
from layerlens.analyses.options import plain
from layerlens.analyses.pair import Align, Pair, make_pairs
from layerlens.analyses.patch_grid import KEY_VALUE, Part, PatchGrid
from layerlens.analyses.sweep import Sweep
from layerlens.errors import InputError
from layerlens.run.base import Base, record_base
from layerlens.run.cells import DEFAULT_LIMIT, Method, sweep_method

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

GRID = ("layer", "head?", "position?", "neuron?")
NO_DIFFERENCE = 1e-6
"""Of the metric's size: what separates two runs that answer differently at all."""

VARIABLES = {
    "metric": Variable(GRID, "float32", "1", "metric of the patched run"),
    "recovered": Variable(GRID, "float32", "1", "recovered fraction"),
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
    grid = _grid(model, options)
    method = sweep_method(model) if options["method"] == "auto" else options["method"]
    method = "naive" if grid.kind == "embed" else method
    passes, cells, length = 0.0, 0, 0
    for pair in pairs:
        where = model.positions(pair.base, options["positions"])
        parts = [p for p in grid.parts(where, where) if max(p.positions) >= pair.shared]
        cells += len(parts)
        length = max(length, pair.base.ids.shape[1])
        passes += 2 + min(options["verify"], len(parts))
        for part in parts:
            depth = 1 - max(part.layer, 0) / model.n_layers
            rows = 1 - max(pair.shared, part.positions[0]) / pair.base.ids.shape[1]
            passes += {"naive": 1.0, "restart": depth, "packed": depth * rows}[method]
    recorded = 4 * model.n_layers * length * model.d_model * model.dtype.itemsize
    return Work(passes, cells + 4 * len(pairs), recorded + int(options["memory_limit"]))


@analysis(
    name="patch_sweep",
    question="Which activations carry what makes the model answer one text unlike another?",
    source=(
        "Vig et al., causal mediation analysis (2020); Meng et al., ROME (2022); "
        "Zhang and Nanda, best practices of activation patching (2024)"
    ),
    cost="2 passes and the cells: one pass each the naive way, 2 to 6 in all where packed",
    view="patch",
    variables=VARIABLES,
    work=count_work,
    inputs=("clean", "corrupt"),
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
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Replace one activation at a time by the other run's, and measure the answer.

    Two texts of equal length (a lasting habit: differing in a word, of the same kind) are run
    once each. Then every cell of the grid is a run of its own in which one activation is taken
    from the other run. The recovered fraction is 0 where that changes nothing and 1 where it
    brings the other run's answer back; it may be below 0 or above 1.

    Parameters
    ----------
    answer, wrong
        Tokens as strings or ids (for several pairs one for all, or a list). By default the clean
        run's own answer, and the corrupted run's.
    site
        ``embed``, ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``,
        ``z``, ``q``, ``k``, ``v``, ``pattern`` or ``mlp_post``.
    by
        ``position``: layer by position, all heads together; ``head``: layer by head, all
        positions together (the default of sites with heads; key-value heads for k and v);
        ``head_position``; ``neuron`` for ``mlp_post``.
    metric
        ``logit_diff`` (answer minus wrong), ``logit``, ``probability``, ``logprob``, ``kl``,
        ``rank``, or a function from logits ``[n, vocabulary]`` to ``[n]``.
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
        ``packed``, ``restart``, ``naive``, or ``auto``: the cheapest that this model allows.
    verify
        How many cells to run again the naive way, the strongest first.
    memory_limit
        Bytes for the largest wave of cells.

    Notes
    -----
    ``recovered`` is ``(m - m_corrupt) / (m_clean - m_corrupt)`` for ``denoise`` and ``(m_clean -
    m) / (m_clean - m_corrupt)`` for ``noise``; NaN where the two runs hardly differ. For several
    pairs ``recovered_mean`` is a ratio of means, with a 95 % bootstrap interval over pairs.
    Positions before the first token that differs cannot matter in a causal model; they are not
    run, and have the value of the unpatched run.

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
    >>> model = ll.load()  # doctest: +SKIP
    >>> grid = ll.patch_sweep(  # doctest: +SKIP
    ...     model,
    ...     "The capital of France is",
    ...     "The capital of Italy is",
    ...     answer=" Paris",
    ...     wrong=" Rome",
    ... )
    >>> grid.data.recovered.dims  # doctest: +SKIP
    ('layer', 'position')
    """
    options = {"site": site, "by": by, "layers": layers, "heads": heads, "neurons": neurons}
    grid = _grid(model, {**options, "window": window})
    pairs = make_pairs(clean, corrupt, align, direction)
    if grid.kind == "pattern" and align is not None:
        raise InputError("A pattern's row names positions of its own text: leave out align=.")
    sweep = _PatchSweep(job, model, grid, pairs, positions)
    sweep.measure(metric, _each("answer", answer, clean), _each("wrong", wrong, clean))
    sweep.run(method, verify, memory_limit)


def _grid(model: LensModel, options: dict[str, Any]) -> PatchGrid:
    names = ("layers", "heads", "neurons", "window")
    return PatchGrid(
        model, options["site"], options["by"], **{name: options[name] for name in names}
    )


def _each(name: str, given: Any, tokens: Tokens) -> list[Any]:
    """One token for each pair."""
    count = len(tokens.ids)
    if isinstance(given, str | int) or given is None:
        return [given] * count
    values = list(plain(given))
    if len(values) != count:
        raise InputError(
            f"{name} has {len(values)} entries for {count} pairs: give one, or one each."
        )
    return values


class _PatchSweep:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        grid: PatchGrid,
        pairs: list[Pair],
        positions: Any,
    ) -> None:
        self.job, self.model, self.grid, self.pairs = job, model, grid, pairs
        self.where = [model.positions(pair.base, positions) for pair in pairs]
        self.axis = sorted({position for where in self.where for position in where})
        self.runs: list[tuple[Base, Base]] = []
        self.metrics: list[Metric] = []
        self.ends: list[tuple[float, float]] = []
        self.passes = 0.0

    def measure(self, metric: Any, answers: list[Any], wrongs: list[Any]) -> None:
        """Run both texts of every pair, and say what will be measured."""
        for pair, answer, wrong in zip(self.pairs, answers, wrongs, strict=True):
            self.job.tick()
            base = record_base(self.model, pair.base, self.grid.sites)
            source = record_base(self.model, pair.source, self.grid.sites)
            denoise = pair.direction == "denoise"
            clean, corrupt = (source, base) if denoise else (base, source)
            made = make_metric(
                self.model,
                metric,
                final=clean.final,
                other=corrupt.final,
                answer=answer,
                wrong=wrong,
            )
            self.runs.append((base, source))
            self.metrics.append(made)
            values = [float(made(run.final.unsqueeze(0))[0]) for run in (clean, corrupt)]
            self.ends.append((values[0], values[1]))
            self.passes += 2
        self._declare()

    def _declare(self) -> None:
        grid, job = self.grid, self.job
        sizes, coords = grid.sizes(), grid.coords()
        if "position" in grid.axes:
            sizes["position"] = len(self.axis)
            coords["position"] = (("position",), np.array(self.axis, dtype=np.int32))
            coords.update(self._token_coords())
        if job.batched:
            sizes["batch"] = len(self.pairs)
        job.declare(sizes, coords)
        first = self.metrics[0]
        job.describe("metric", units=first.units, long_name=f"{first.long_name}, patched run")
        kept: dict[str, list[Any]] = {
            "clean_metric": [clean for clean, _ in self.ends],
            "corrupt_metric": [corrupt for _, corrupt in self.ends],
            "answer": [metric.answer for metric in self.metrics],
        }
        if first.wrong is not None:
            kept["wrong"] = [metric.wrong for metric in self.metrics]
        job.note(
            metric=first.name,
            metric_words=first.words,
            site=grid.kind,
            by=grid.by,
            direction=self.pairs[0].words,
            **{name: json.dumps(v) if job.batched else v[0] for name, v in kept.items()},
        )
        if grid.kind in KEY_VALUE and "head" in grid.axes:
            job.remark(
                f"Heads of {grid.kind} are key-value heads, each shared by several query heads."
            )
        if grid.window > 1:
            job.remark(f"Windows of {grid.window} layers: a place looks larger than it is.")

    def _token_coords(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """What stands at each position of the run that is patched."""
        shape = (len(self.pairs), len(self.axis))
        strings = np.full(shape, "", dtype=object)
        ids = np.full(shape, -1, dtype=np.int32)
        joins = np.zeros(shape, dtype=bool)
        for row, (pair, where) in enumerate(zip(self.pairs, self.where, strict=True)):
            for position in where:
                column = self.axis.index(position)
                strings[row, column] = pair.base.strings[0][position]
                ids[row, column] = pair.base.ids[0, position]
                joins[row, column] = pair.base.continues[0][position]
        dims = ("batch", "position") if self.job.batched else ("position",)
        found = {"token": strings.astype(str), "input_id": ids, "continues": joins}
        return {n: (dims, v if self.job.batched else v[0]) for n, v in found.items()}

    def run(self, method: Method, verify: int, memory_limit: int) -> None:
        """Run the cells of every pair, then sum the pairs up."""
        methods, cells = [], 0
        for index, pair in enumerate(self.pairs):
            sweep = Sweep(
                self.job,
                self.model,
                self.runs[index][0],
                self.metrics[index],
                self._shown(index),
                lead={"batch": index} if self.job.batched else {},
                share=(index, len(self.pairs)),
                method=method,
                memory_limit=memory_limit,
            )
            self._plan(sweep, pair, index)
            tests = patch_checks.plan(sweep, pair, self.runs[index][1])
            sweep.run()
            sweep.verify(verify)
            patch_checks.check(sweep, pair, self.grid, self.runs[index], tests)
            methods.append(sweep.method)
            cells += len(sweep)
            self.passes += sweep.passes
        used = ", ".join(dict.fromkeys(methods))
        self.job.note(method=used, passes=self.passes, cells=cells)
        if self.job.batched:
            self._sum_up()

    def _shown(self, index: int) -> Any:
        clean, corrupt = self.ends[index]
        direction = self.pairs[index].direction
        if not distinct(clean, corrupt):
            self.job.remark(
                "The clean and the corrupted run hardly differ in this metric, so no recovered "
                "fraction is given (NaN): choose texts or tokens that the model tells apart."
            )

        def show(values: np.ndarray) -> dict[str, np.ndarray]:
            fraction = recovered(values, clean, corrupt, direction)
            return {"metric": values.astype(np.float32), "recovered": fraction.astype(np.float32)}

        return show

    def _plan(self, sweep: Sweep, pair: Pair, index: int) -> None:
        """Add the cells that have to be run, and fill in the others."""
        source = self.runs[index][1].trace
        shared = patch_checks.shared_prefix(sweep, pair, self.runs[index])
        where = self.where[index]
        columns = [self.axis.index(position) for position in where]
        if "position" in self.grid.axes:
            for column in set(range(len(self.axis))) - set(columns):
                sweep.fill({"position": column}, np.nan)
        for part in self.grid.parts(where, columns):
            known = [position for position in part.positions if pair.partner[position] is not None]
            live = tuple(p for p in known if not self._same(part, pair, p, shared))
            if live:
                kept = Part(part.place, part.layer, part.head, part.neuron, live)
                sweep.add(self.grid.cell(kept, pair, source), part.place)
            else:
                sweep.fill(part.place, sweep.base_value if known else np.nan)

    def _same(self, part: Part, pair: Pair, position: int, shared: int) -> bool:
        """Whether both runs hold the same there, so that patching it changes nothing."""
        if position < shared:
            return True
        start = self.grid.kind == "embed" or (self.grid.kind == "resid_pre" and part.layer == 0)
        alone = start and self.grid.window == 1
        here = pair.partner[position] == position and position not in pair.differing
        return alone and here

    def _sum_up(self) -> None:
        """Means over the pairs, and their intervals."""
        assert self.job.parts is not None
        values = self.job.parts.arrays["metric"].astype(np.float64)
        ends = np.array(self.ends)
        around = np.expand_dims(ends, tuple(range(2, values.ndim + 1)))
        moved = (
            values - around[:, 1] if self.pairs[0].direction == "denoise" else around[:, 0] - values
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


def distinct(clean: float, corrupt: float) -> bool:
    """Whether two values of a metric are far enough apart to divide by their difference."""
    return abs(clean - corrupt) >= NO_DIFFERENCE * max(1.0, abs(clean), abs(corrupt))


def recovered(values: np.ndarray, clean: float, corrupt: float, direction: str) -> np.ndarray:
    """The share of the way from one run to the other; NaN where the two hardly differ."""
    if not distinct(clean, corrupt):
        return np.full_like(values, np.nan)
    moved = values - corrupt if direction == "denoise" else clean - values
    return moved / (clean - corrupt)
