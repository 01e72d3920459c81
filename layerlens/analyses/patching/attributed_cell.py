"""What a cell of ``attribution_patch`` opens: the true patch beside its estimate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.answers.next_tokens import chances, final_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.patching.grid import EMBED_LAYER, Part, PatchGrid
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import Pair, make_pairs
from layerlens.errors import InputError
from layerlens.run.changes import Change
from layerlens.run.edits import Edit, edit
from layerlens.run.together import record_bases
from layerlens.run.values import source as from_run

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_attributed(
    job: Job,
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    place: Place,
    *,
    site: str,
    by: str | None,
    metric: Any,
    answer: Any,
    wrong: Any,
    direction: str,
    positions: Any,
    heads: Any,
    align: Any,
    grad_drop: bool,
    **_: Any,
) -> Opened:
    """Patch the cell truly, by a whole pass."""
    layer, labels = int(place.need("layer")), place.labels
    wanted = {
        "layers": None if layer == EMBED_LAYER else [layer],
        "heads": [labels["head"]] if "head" in labels else heads,
        "neurons": [labels["neuron"]] if "neuron" in labels else None,
    }
    grid = PatchGrid.of(model, {"site": site, "by": by, **wanted})
    pair = make_pairs(clean, corrupt, align, direction)[0]
    job.tick()
    base, source = record_bases(model, (pair.base, pair.source), grid.sites)
    first, other = (source, base) if direction == "denoise" else (base, source)
    measure = make_metric(
        model,
        metric,
        final=first.final,
        other=other.final,
        answer=one_each(answer, 1, "answer")[0],
        wrong=one_each(wrong, 1, "wrong")[0],
    )
    part = _part(model, grid, pair, [labels["position"]] if "position" in labels else positions)
    job.tick()
    changes = grid.cell(part, pair, source.trace).changes
    patched = final_with(model, base, changes)
    own, theirs, true = (
        float(measure(state.unsqueeze(0))[0]) for state in (base.final, source.final, patched)
    )
    rows: list[list[Any]] = [
        ["estimate without sign" if grad_drop else "estimate", place.companions["attribution"]],
        ["this patch", true - own],
        ["all of the other text", theirs - own],
    ]
    conditions = {
        "the other text": chances(model, source.final),
        "as it is": chances(model, base.final),
        "patched": chances(model, patched),
    }
    return Opened(
        title=f"{grid.kind} patched at {place}: the estimate and the patch itself",
        code=_code(place, pair, changes),
        tables=[
            Table(["", f"change of the {measure.words}"], rows),
            next_token_table(model, conditions),
        ],
    )


def _part(model: LensModel, grid: PatchGrid, pair: Pair, positions: Any) -> Part:
    """The one part of a grid, where it has something to be patched with."""
    where = model.positions(pair.base, positions)
    paired = [position for position in where if pair.partner[position] is not None]
    part = next(grid.parts(paired, range(len(paired))), None)
    if part is None or not paired:
        raise InputError("There is nothing to patch with here: the cell is empty.")
    return replace(part, positions=tuple(paired))


def _code(place: Place, pair: Pair, changes: tuple[Change, ...]) -> str:
    """The patch as edits; the call of the analysis where the texts cannot be written down."""
    names = ("corrupt", "clean") if pair.direction == "denoise" else ("clean", "corrupt")
    patched, other = (place.one(name) for name in names)
    if patched is None or other is None:
        return place.call
    return place.run_with([_edit(pair, other, change) for change in changes], names[0])


def _edit(pair: Pair, other: Any, change: Change) -> Edit:
    here = list(change.positions or ())
    there = [pair.partner[position] for position in here]
    every = pair.plain and len(here) == len(pair.partner)
    return edit(
        change.site.kind,
        "set",
        from_run(other, None, None if every else there),
        layer=change.site.layer,
        head=change.site.head,
        position=None if every else here,
        neuron=change.neurons,
    )
