"""How near lenses come to the model's final answer, on texts of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS, count_kept, rows_of
from layerlens.analyses.lenses.fitting.judge import UNIFORM, VARIABLES, Tally
from layerlens.analyses.lenses.fitting.judge_rows import (
    Judged,
    JudgeRows,
    Lenses,
    points_of,
    readers_of,
)
from layerlens.analyses.lenses.points import Point
from layerlens.analyses.lenses.readers import Reader, tell_steadiness
from layerlens.corpus.rows import shards
from layerlens.corpus.spread import Spread
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.corpus.spread import Workers
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 400_000_000

TRANSFER = Variable(
    ("fitted_at", "point"),
    "float32",
    "nats",
    "KL divergence, final from the lens that was fitted at another point",
    formula="KL(final || head(norm(map fitted at i, applied to the state at j)))",
)


def count_work(
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    lens: Lenses,
    points: str | Sequence[str] | None,
    positions_skipped: int,
    transfer: bool,
    memory_limit: int,
    workers: Workers,
) -> Work:
    """Count passes, rows through the head and bytes of one call; reads the texts, runs nothing."""
    readers = readers_of(model, lens)
    chosen = points_of(model, readers, points)
    rows = rows_of(model, tokens)
    kept = count_kept(rows, positions_skipped)
    cells = len(readers) * len(chosen) + transfer * len(chosen) ** 2
    states = (len(chosen) + 4) * BATCH_TOKENS * model.d_model * model.dtype.itemsize
    fed = sum(len(row.ids) for row in rows)
    return Work(1, (2 + cells) * kept, states + memory_limit // 2, tokens=fed)


@analysis(
    name="lens_quality",
    question="How near do lenses come to the model's final answer on my own texts?",
    source="Belrose et al. (2023), Eliciting Latent Predictions from Transformers with the Tuned "
    "Lens, arXiv 2303.08112",
    cost="1 pass, plus the head on every token for each lens and point (each pair of points with "
    "transfer)",
    view="curves",
    lead="Each curve is a lens: the lower the divergence, the nearer its reading of that depth is "
    "to the model's final answer; a uniform guess is the control.",
    variables={**VARIABLES, "transfer": TRANSFER},
    work=count_work,
    pooled=True,
    corpus=True,
    needs=("head",),
)
def lens_quality(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    lens: Lenses = (),
    points: str | Sequence[str] | None = None,
    positions_skipped: int = 4,
    transfer: bool = False,
    memory_limit: int = DEFAULT_LIMIT,
    workers: Workers = None,
) -> None:
    """Judge lenses on texts: divergence from the final answer, loss, and the same token on top.

    A lens is fitted on texts of one kind, and may do worse on those of another.

    Parameters
    ----------
    lens
        One, or several: what ``ll.fit_lens`` returned, the path of its file, or a name. The logit
        lens is always beside them.
    points
        Kinds of points or labels; None for those that all of the lenses have a map for.
    positions_skipped
        Tokens at the beginning of each text that do not count.
    transfer
        Of the one fitted lens that is given: also how each of its maps does at every other point.
    memory_limit
    workers

    Notes
    -----
    ``kl``, ``ce`` and ``top1`` over (``lens``, ``point``) are means over tokens; ``_low`` and
    ``_high`` are the 95 % interval over texts. ``transfer`` over (``fitted_at``, ``point``) is the
    divergence where the map of one point reads the state at another.

    Raises
    ------
    InputError
        A lens does not fit the model or the points, or no token counts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> lens = ll.fit_lens(model, texts, kind="bias")
    >>> found = ll.lens_quality(model, ["dog fox owl cat dog fox owl cat"], lens=lens)
    >>> found.data.lens.values.tolist()
    ['logit', 'bias', 'uniform']
    """
    readers = readers_of(model, lens)
    for reader in readers.values():
        tell_steadiness(job, reader)
    chosen = points_of(model, readers, points)
    if transfer and len(readers) != 2:
        raise InputError(f"transfer is of one fitted lens, not of {len(readers) - 1}: give one.")
    rows = rows_of(model, tokens)
    total = count_kept(rows, positions_skipped)
    if not total:
        raise InputError(
            f"No token counts when the first {positions_skipped} of each text do not: give longer "
            "texts, or a smaller positions_skipped."
        )
    _declare(job, readers, chosen, transfer=transfer)
    lenses = tuple(one.fitted for one in readers.values() if one.fitted is not None)
    labels = tuple(point.label for point in chosen)
    task = JudgeRows(lenses, labels, positions_skipped, transfer, memory_limit)
    spread = Spread(model, task, workers)
    found = Judged.empty(len(readers) + 1, len(chosen), transfer=transfer)
    for _, more in spread.run(shards(rows, BATCH_TOKENS), job.tick):
        found.merge(more)
        _emit(job, found.tally, found.moved)
        job.progress(found.tokens, total, "judging")
    for remark in spread.remarks:
        job.remark(remark)
    job.note(passes=1)
    job.check("divergence not negative", -found.lowest, 1e-3, "nats below zero of any token")


def _declare(
    job: Job, readers: dict[str, Reader], points: Sequence[Point], *, transfer: bool
) -> None:
    labels = np.array([point.label for point in points])
    layers = np.array([point.layer for point in points], dtype=np.int32)
    sizes = {"lens": len(readers) + 1, "point": len(points)}
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "lens": (("lens",), np.array([*readers, UNIFORM])),
        "point": (("point",), labels),
        "layer": (("point",), layers),
    }
    if transfer:
        sizes["fitted_at"] = len(points)
        coords["fitted_at"] = (("fitted_at",), labels)
    job.declare(sizes, coords)


def _emit(job: Job, tally: Tally, moved: Tally | None) -> None:
    """Show the means of what was read so far."""
    arrays = tally.means()
    if moved is not None:
        arrays["transfer"] = moved.means()["kl"]
    job.emit({}, {name: values.astype(np.float32) for name, values in arrays.items()})
