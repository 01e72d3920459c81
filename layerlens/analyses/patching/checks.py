"""What is verified for every patching sweep, on its own cells."""

from __future__ import annotations

import numpy as np

from layerlens.analyses.patching.grid import PatchGrid
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.analyses.texts.text_pair import Pair
from layerlens.model.sites import Site
from layerlens.run.base import Base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change

LAST_ROW_ONLY = (
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "mlp_post",
    "z",
    "q",
    "rot_q",
    "pattern",
)
"""Sites whose values in the last block reach an answer at their own position alone."""


def shared_prefix(sweep: Sweep, pair: Pair, runs: tuple[Base, Base]) -> int:
    """How many positions at the start are the same in both runs, by their states.

    Equal tokens give equal states in a causal model only; in any other the cells there are run.
    """
    if not pair.shared:
        return 0
    base, source = runs
    here, there = base.last[: pair.shared].float(), source.last[: pair.shared].float()
    error = float((here - there).abs().max())
    scale = max(1.0, float(base.last.float().abs().max()))
    limit = sweep.tolerance / max(1.0, abs(sweep.base_value)) * scale
    if error > limit:
        sweep.job.remark("Later tokens change earlier states in this model: every cell was run.")
        return 0
    what = "states of the last block before the first token that differs, between the two runs"
    sweep.job.check("same before they differ", error, limit, what)
    return pair.shared


def plan(sweep: Sweep, pair: Pair, source: Base, shared: int) -> dict[str, int]:
    """Add the cells whose value is known: a patch of nothing, and one of everything.

    Everything is what may differ: all positions but the ``shared`` ones of :func:`shared_prefix`.
    """
    layer = sweep.model.n_layers // 2
    length = sweep.base.length
    every = tuple(range(shared if shared < length else 0, length))
    site, first = Site("resid_pre", layer), every[0]
    own = Change(site, "set", sweep.base.state(layer)[first:], every)
    tests = {"no-op": sweep.add(Cell((own,)), None)}
    if pair.plain and _read_alike(sweep.base, source):
        whole = Change(site, "set", source.state(layer)[first:], every)
        tests["whole"] = sweep.add(Cell((whole,)), None)
    return tests


def check(
    sweep: Sweep,
    pair: Pair,
    grid: PatchGrid,
    runs: tuple[Base, Base],
    tests: dict[str, int],
) -> None:
    """Compare cells with what they must be."""
    job, layer = sweep.job, sweep.model.n_layers // 2
    base, source = runs
    other = float(sweep.metric(source.final.unsqueeze(0))[0])
    if base.logits is not None:
        own = float(sweep.metric.of_logits(base.logits.unsqueeze(0))[0])
        what = "metric of the unpatched run against the same of the model's own logits"
        job.check("metric is the model's", abs(own - sweep.base_value), sweep.tolerance, what)
    error = abs(sweep.values[tests["no-op"]] - sweep.base_value)
    what = f"a run patched with its own states (before block {layer}) against itself"
    job.check("patching nothing changes nothing", error, sweep.tolerance, what)
    if "whole" in tests:
        error = abs(sweep.values[tests["whole"]] - other)
        what = f"a run whose states before block {layer} are all the other's, against the other"
        job.check("patching everything gives the other run", error, sweep.tolerance, what)
    if not _read_alike(base, source):
        job.remark(
            "The two runs read different sources: what the encoder made of it stays that of the "
            "run that is patched, so no patch of the written side gives the other run."
        )
        return
    _last_row(sweep, pair, grid, source, other)


def _read_alike(one: Base, other: Base) -> bool:
    """Whether two runs of an encoder with a decoder read the same; of other models, any two."""
    if not one.trace.model.feed.of_pairs:
        return True
    return one.tokens.given_alike(other.tokens)


def _last_row(sweep: Sweep, pair: Pair, grid: PatchGrid, source: Base, other: float) -> None:
    """In the last block only the position that is measured can reach the answer."""
    last = sweep.model.n_layers - 1
    alone = grid.window == 1 and grid.kind in LAST_ROW_ONLY and grid.layers[-1] == last
    if grid.by != "position" or not alone:
        return
    row, end = len(grid.layers) - 1, sweep.base.at
    errors = []
    for place, cell, value in sweep.finished():
        if place["layer"] != row:
            continue
        if cell.position != end:
            errors.append(abs(value - sweep.base_value))
        elif grid.kind == "resid_post" and pair.partner[end] == source.at:
            errors.append(abs(value - other))
    if errors:
        what = "in the last block only the position that is measured matters" + (
            ", and all of it" if grid.kind == "resid_post" else ""
        )
        sweep.job.check("last row", float(np.max(errors)), sweep.tolerance, what)
