"""What is verified of estimates by gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.patching.gradient_effects import Attribution
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.analyses.sweeps.estimates import correlation
from layerlens.analyses.texts.text_pair import Pair
from layerlens.model.sites import Site
from layerlens.run.base import Base

SMALL_STEP = 1e-2
"""Share of the way to the other run at which the slope is compared with a difference."""

SLOPE_TOLERANCE = 0.05
PATH_TOLERANCE = 0.05
AGREEMENT = 0.3
"""One minus the correlation with true patching above which the estimate is called poor."""


def slope(sweep: Sweep, work: Attribution, effects: dict[Site, Tensor]) -> None:
    """Compare the effects of one whole site with a difference over a small step."""
    if sweep.model.dtype not in (torch.float32, torch.float64):
        return  # a small step is lost in rounding
    site = list(effects)[len(effects) // 2]
    rise = work.small_step(site, SMALL_STEP, sweep.naive_values)
    total, size = float(effects[site].sum()), float(effects[site].abs().sum())
    limit = SLOPE_TOLERANCE * size + 5 * sweep.tolerance
    what = f"effects of {site} together against the metric's rise over a hundredth of the way"
    sweep.job.check("slope", abs(total - rise), limit, what)


def completeness(sweep: Sweep, pair: Pair, source: Base, effects: dict[Site, Tensor]) -> None:
    """Integrated gradients of the embeddings add up to the difference between the runs."""
    if list(effects) != [Site("embed")] or not pair.plain:
        return
    whole = float(sweep.metric(source.final[None])[0]) - sweep.base_value
    error = abs(float(effects[Site("embed")].sum()) - whole)
    limit = PATH_TOLERANCE * abs(whole) + sweep.tolerance
    what = "effects of all embeddings together against the difference between the two runs"
    sweep.job.check("completeness", error, limit, what)


def agreement(job: Job, estimates: np.ndarray, truth: np.ndarray, top: int) -> dict[str, float]:
    """Compare estimates with true patches of the same cells.

    Parameters
    ----------
    estimates, truth
        [cells].
    top
        How many of the strongest cells are looked for.

    Returns
    -------
    dict
        ``pearson``, ``spearman`` (NaN where undefined), ``overlap`` (share of the truly strongest
        cells that are among the estimate's strongest) and ``verified`` (how many cells).
    """
    pearson = correlation(estimates, truth)
    ranks = [np.argsort(np.argsort(values)) for values in (estimates, truth)]
    best = [set(np.argsort(-np.abs(values), kind="stable")[:top]) for values in (estimates, truth)]
    if np.isfinite(pearson):
        what = f"one minus the correlation with true patching, {len(truth)} cells"
        job.check("agrees with patching", 1 - pearson, AGREEMENT, what)
    return {
        "pearson": pearson,
        "spearman": correlation(*ranks),
        "overlap": len(best[0] & best[1]) / max(top, 1),
        "verified": float(len(truth)),
    }
