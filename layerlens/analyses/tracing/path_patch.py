"""Path patching: what one part does to a later head or straight to the logits, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.patching.pair_runs import distinct
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.analyses.sweeps.estimates import Agreement
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import Align, make_pairs
from layerlens.analyses.tracing.estimated_paths import PathEstimate
from layerlens.analyses.tracing.head_edges import WHOLE, Edges, parse_receivers, parse_senders
from layerlens.analyses.tracing.path_cell import open_path
from layerlens.errors import InputError
from layerlens.model.sites import KEY_VALUE, Site
from layerlens.run.gradients import GRADIENT_PASSES
from layerlens.run.many_edits import DEFAULT_LIMIT, Method

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric, MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

TOGETHER = 96
"""Senders whose third runs are made before their fourth ones are run together."""

_GRID = ("layer", "head?", "sublayer?")
VARIABLES = {
    "recovered": Variable(
        _GRID, "float32", "1", "share of the difference that this path carries", signed=True
    ),
    "effect": Variable(
        _GRID, "float32", "1", "change of the metric through this path alone", signed=True
    ),
    "metric": Variable(
        _GRID, "float32", "1", "metric of the run with the path patched", signed=True
    ),
    "estimate": Variable(
        _GRID, "float32", "1", "share of the difference, estimated before", signed=True
    ),
}


def count_work(
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    *,
    sender: Any,
    receiver: Any,
    verify: int,
    estimate_first: bool,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    receivers = parse_receivers(model, receiver)
    end = max((site.block for site in receivers), default=model.n_layers)
    senders = sum(place.block < end for place in parse_senders(model, sender))
    texts, length = clean.ids.shape
    runs = (1 if not receivers else 2) * (senders + 1 + verify)
    runs += (1 if not receivers else 2) * GRADIENT_PASSES * estimate_first
    size = 4 * length * model.d_model * model.n_layers * 4
    return Work(texts * (2 + runs), texts * (senders + 3 + verify), size)


@analysis(
    name="path_patch",
    question="What does a head or MLP do to a later head, or straight to the logits, and no more?",
    source="Wang et al. (2022), Interpretability in the Wild, arXiv 2211.00593; Goldowsky-Dill et "
    "al. (2023), Localizing Model Behavior with Path Patching, arXiv 2304.05969",
    cost="2 passes, and 2 for each sender (1 where the logits receive); an estimate before is a "
    "pass and a backward pass (2 of each where heads receive)",
    view="grid",
    lead="A cell is one head whose path to the receiver alone carries values of the other run: "
    "far from 0, the answer goes through it.",
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    inputs=("clean", "corrupt"),
    opens=open_path,
)
def path_patch(
    job: Job,
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    *,
    sender: Any = None,
    receiver: Any = "logits",
    direction: str = "noise",
    freeze_mlps: bool = False,
    positions: Any = None,
    align: Align | None = None,
    metric: str | MetricFunction = "logit_diff",
    answer: str | int | list[str | int] | None = None,
    wrong: str | int | list[str | int] | None = None,
    verify: int = 2,
    estimate_first: bool = False,
    method: Method = "auto",
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Change what one receiver reads of one sender, and see what becomes of the answer.

    Four runs for each sender, which is a head or a whole sublayer: (1) the run that is changed,
    (2) the run that the sender's activation comes from, (3) the first one again with the sender
    at its value in the second and every other head held at its value in the first, in which what
    the receiver would read is kept, (4) the first one with the receiver reading just that. MLPs
    between sender and receiver are part of the path unless they are frozen.

    Parameters
    ----------
    sender
        ``(layer, head)``, a list of these, or None for every head that can reach the receiver.
        ``"mlp_out"`` or ``"attn_out"``: all that the MLP or the attention of a layer adds, for
        every layer; ``(layer, "mlp_out")`` and such, or a list of these, for some.
    receiver
        ``"logits"``, ``(layer, head, "q" | "k" | "v")``, or a list of such triples, which then
        receive together. q and k are what the head's projections give, before the rotary
        embedding (where there is one); heads of k and v are key-value heads.
    direction
        ``"noise"``: corrupted activations into the clean run (as in both papers); ``"denoise"``:
        clean activations into the corrupted run.
    freeze_mlps
        Hold MLPs too, so that only the direct path through the residual stream is left.
    positions
        Where the sender is changed: an index, a slice, a list or the text of a span; None for
        everywhere.
    align
        As in ``ll.patch_sweep``.
    metric
    answer
    wrong
    verify
        How many of the strongest senders to compute again with four whole passes.
    estimate_first
        Estimate every sender by edge attribution patching before any is patched; then those come
        first that the estimate finds strongest.
    method
    memory_limit

    Notes
    -----
    ``recovered`` is ``effect`` over the difference of the two plain runs: 1 where the path alone
    turns the answer of the one into that of the other. Senders that cannot reach the receiver
    are not on the grid, which has an axis ``head``, or ``sublayer`` for whole ones.

    With ``estimate_first`` there is a variable ``estimate`` beside ``recovered``, in the same
    units. The attributes ``estimate_pearson``, ``estimate_cells`` and
    ``estimate_pearson_strongest`` say how well it agrees, as in ``ll.patch_sweep``;
    ``no_estimate`` says why there is none.

    Raises
    ------
    InputError
        An option does not fit, or nothing can reach the receiver.
    SiteError
        The model has no such site, or its q and k cannot be changed.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> clean, corrupt = [1, 2, 3, 4, 1], [3, 2, 1, 4, 1]
    >>> edges = ll.path_patch(model, clean, corrupt, receiver=(1, 0, "k"))
    """
    receivers = parse_receivers(model, receiver)
    pairs = make_pairs(clean, corrupt, align, direction)
    end = max((site.block for site in receivers), default=model.n_layers)
    senders = [place for place in parse_senders(model, sender) if place.block < end]
    if not senders:
        raise InputError(
            f"No sender can reach the receiver: it is in layer {end}, and only layers "
            "before it can."
        )
    grid = _Grid(model, senders)
    agreement = Agreement(job) if estimate_first else None
    grid.declare(job, len(pairs), estimate_first=estimate_first)
    if any(site.kind in KEY_VALUE for site in receivers) and model.n_kv_heads < model.n_heads:
        job.remark("Heads of k and v are key-value heads, each shared by several query heads.")
    answers, wrongs = one_each(answer, len(pairs), "answer"), one_each(wrong, len(pairs), "wrong")
    found = []
    for row, pair in enumerate(pairs):
        edges = Edges.make(
            model, pair, receivers, senders, freeze_mlps=freeze_mlps, where=positions
        )
        plain = (edges.base, edges.source)
        first, other = plain if direction == "noise" else plain[::-1]
        measure = make_metric(
            model,
            metric,
            final=first.final,
            other=other.final,
            answer=answers[row],
            wrong=wrongs[row],
        )
        paths = _Paths(job, edges, measure, grid, (row, len(pairs)))
        if agreement:
            paths.estimate(agreement)
        paths.run(verify, method=method, memory_limit=memory_limit)
        found.append(paths)
        _note(job, found)
    if agreement:
        agreement.remark()


class _Grid:
    """Where each sender is in the result: its layer, and its head or sublayer."""

    def __init__(self, model: LensModel, senders: Sequence[Site]) -> None:
        # Late senders have the shortest way, so they come first.
        self.senders = sorted(senders, key=lambda site: (-site.block, site.head or 0, site.kind))
        self.layers = sorted({site.block for site in senders})
        kinds = {site.kind for site in senders}
        self.axis = "head" if "z" in kinds else "sublayer"
        self.entries: list[Any] = [kind for kind in WHOLE if kind in kinds]
        if self.axis == "head":
            self.entries = list(range(model.n_heads))

    def place(self, sender: Site) -> dict[str, int]:
        """Indices of a sender."""
        entry = sender.kind if sender.head is None else sender.head
        return {"layer": self.layers.index(sender.block), self.axis: self.entries.index(entry)}

    def declare(self, job: Job, texts: int, *, estimate_first: bool) -> None:
        """State axes and coordinates."""
        sizes = {"layer": len(self.layers), self.axis: len(self.entries)}
        if job.batched:
            sizes["batch"] = texts
        entries = np.array(self.entries, dtype=np.int32 if self.axis == "head" else None)
        layers = np.array(self.layers, dtype=np.int32)
        filled = [name for name in VARIABLES if name != "estimate" or estimate_first]
        coords = {"layer": (("layer",), layers), self.axis: ((self.axis,), entries)}
        job.declare(sizes, coords, filled)

    def gaps(self) -> Iterator[dict[str, int]]:
        """Places of the grid without a sender."""
        known = [self.place(sender) for sender in self.senders]
        for layer in range(len(self.layers)):
            for entry in range(len(self.entries)):
                if (place := {"layer": layer, self.axis: entry}) not in known:
                    yield place


class _Paths:
    """All senders of one pair."""

    def __init__(
        self,
        job: Job,
        edges: Edges,
        measure: Metric,
        grid: _Grid,
        share: tuple[int, int],
    ) -> None:
        self.job, self.edges, self.measure = job, edges, measure
        self.grid, self.share = grid, share
        self.value, self.other = (
            float(measure(run.final.unsqueeze(0))[0]) for run in (edges.base, edges.source)
        )
        if not distinct(self.value, self.other):
            job.remark(
                "Both texts give nearly the same value of the metric, so there is nothing to "
                "recover (NaN): choose texts or tokens that the model tells apart."
            )
        self.values: dict[Site, float] = {}
        self.order = list(grid.senders)
        self.agreement: Agreement | None = None
        self.method, self.passes = "", 2.0

    @property
    def _gap(self) -> float:
        return self.other - self.value if distinct(self.value, self.other) else np.nan

    def _show(self, values: np.ndarray) -> dict[str, np.ndarray]:
        effect = values - self.value
        return {"recovered": effect / self._gap + 0.0, "effect": effect, "metric": values}

    def estimate(self, agreement: Agreement) -> None:
        """Estimate every sender and push that; the strongest are then patched first."""
        self.job.tick()
        estimate = PathEstimate(self.edges, self.measure, self.edges.pair.direction)
        changes = estimate.changes(self.order)
        self.passes += estimate.passes
        if changes is None:
            self.job.note(no_estimate=estimate.lack)
            agreement.begin(None)
            return
        ranks = np.argsort(-np.abs(changes), kind="stable")
        self.order = [self.order[number] for number in ranks]
        self.agreement = agreement
        agreement.begin(changes[ranks])
        shape = (len(self.grid.layers), len(self.grid.entries))
        grid = np.full(shape, np.nan, dtype=np.float32)
        for sender, change in zip(self.order, changes[ranks], strict=True):
            grid[tuple(self.grid.place(sender).values())] = change / self._gap
        row, _ = self.share
        self.job.emit({"batch": row} if self.job.batched else {}, {"estimate": grid})

    def _compare(self, sweep: Sweep, done: int, count: int) -> None:
        """Tell how well the senders that are finished agree with their estimates."""
        assert self.agreement is not None
        truth = np.full(len(self.order), np.nan)
        truth[:done] = [self.values[sender] for sender in self.order[:done]]
        truth[done : done + count] = sweep.values[:count]
        sweep.told = self.agreement.tell(truth - self.value)

    def run(self, verify: int, **how: Any) -> None:
        """Measure every sender, the last layers first; then the checks."""
        chunks = list(self._chunks())
        row, texts = self.share
        for number, chunk in enumerate(chunks):
            self.job.tick()
            compare = partial(self._compare, done=len(self.values), count=len(chunk))
            sweep = Sweep(
                self.job,
                self.edges.model,
                self.edges.base,
                self.measure,
                self._show,
                lead={"batch": row} if self.job.batched else {},
                share=(row * len(chunks) + number, texts * len(chunks)),
                done=compare if self.agreement else None,
                **how,
            )
            self._add(sweep, chunk)
            own = None if number else sweep.add(self.edges.cells([chunk[0]], own=True)[0], None)
            if number == 0:
                self._leave_gaps(sweep)
            sweep.run(self._promise(sweep))
            self.values.update(zip(chunk, sweep.values.tolist(), strict=False))
            self.method = sweep.method
            self.passes += sweep.passes + len(chunk) * bool(self.edges.receivers)
            if own is not None:
                self._check_own(sweep, own)
        self._check_strongest(sweep.tolerance, verify)

    def _promise(self, sweep: Sweep) -> list[float] | None:
        """Numbers by which the cells of a sweep keep their order; None where any will do."""
        return None if self.agreement is None else list(range(len(sweep), 0, -1))

    def _chunks(self) -> Iterator[list[Site]]:
        """Senders a handful at a time, where they are kept."""
        size = TOGETHER if self.edges.receivers else len(self.order)
        for start in range(0, len(self.order), size):
            yield self.order[start : start + size]

    def _add(self, sweep: Sweep, chunk: list[Site]) -> None:
        for sender, cell in zip(chunk, self.edges.cells(chunk), strict=True):
            sweep.add(cell, self.grid.place(sender))

    def _leave_gaps(self, sweep: Sweep) -> None:
        """What was not asked for, or does not exist in a layer, is NaN for good."""
        for place in self.grid.gaps():
            sweep.fill(place, np.nan)

    def _check_own(self, sweep: Sweep, own: int) -> None:
        error = abs(float(sweep.values[own]) - self.value)
        what = "metric with a sender at its own value, less the plain one"
        name = f"own value changes nothing{self._text}"
        self.job.check(name, error, sweep.tolerance, what)

    def _check_strongest(self, tolerance: float, verify: int) -> None:
        """The strongest senders again, with four whole passes each."""
        strongest = sorted(
            self.grid.senders, key=lambda place: -abs(self.values[place] - self.value)
        )
        errors = []
        for sender in strongest[:verify]:
            self.job.tick()
            again = float(self.measure(self.edges.plainly(sender).unsqueeze(0))[0])
            errors.append(abs(again - self.values[sender]))
            self.passes += 2
        if errors:
            what = f"the {len(errors)} strongest senders, each against four whole passes"
            name = f"paths equal the four runs{self._text}"
            self.job.check(name, max(errors), tolerance, what)

    @property
    def _text(self) -> str:
        return f" of pair {self.share[0]}" if self.job.batched else ""


def _note(job: Job, found: Sequence[_Paths]) -> None:
    """Say what was measured so far, and how."""
    first = found[0]
    edges = first.edges
    for name in ("effect", "metric"):
        job.describe(name, units=first.measure.units)
    ends = [(paths.value, paths.other) for paths in found]
    if edges.pair.direction == "denoise":
        ends = [(other, value) for value, other in ends]
    kept: dict[str, list[Any]] = {
        "clean_metric": [clean for clean, _ in ends],
        "corrupt_metric": [corrupt for _, corrupt in ends],
        "answer": [paths.measure.answer for paths in found],
    }
    if first.measure.wrong is not None:
        kept["wrong"] = [paths.measure.wrong for paths in found]
    receivers = [str(site) for site in edges.receivers] or ["logits"]
    job.note(
        metric=first.measure.name,
        metric_words=first.measure.words,
        direction=f"{edges.pair.words}, through one path alone",
        receiver=", ".join(receivers),
        method=", ".join(dict.fromkeys(paths.method for paths in found)),
        passes=sum(paths.passes for paths in found),
        **{name: json.dumps(v) if job.batched else v[0] for name, v in kept.items()},
    )
