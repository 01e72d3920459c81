"""How near lenses come to the model's final answer, on texts of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.lenses.fitting.documents import (
    BATCH_TOKENS,
    Seen,
    count_kept,
    rows_of,
    seen,
)
from layerlens.analyses.lenses.fitting.judge import UNIFORM, VARIABLES, Judge, Tally, judge_all
from layerlens.analyses.lenses.points import Point, lens_points
from layerlens.analyses.lenses.readers import (
    LOGIT,
    Lens,
    Reader,
    reader_of,
    tell_steadiness,
)
from layerlens.errors import InputError
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 400_000_000
Lenses = Lens | Sequence[Lens]

TRANSFER = Variable(
    ("fitted_at", "point"),
    "float32",
    "nats",
    "KL divergence, final from the lens that was fitted at another point",
    formula="KL(final || head(norm(map fitted at i, applied to the state at j)))",
)


def readers_of(model: LensModel, lens: Lenses) -> dict[str, Reader]:
    """The lenses that were given, each by a name of its own; the logit lens is the first.

    Raises
    ------
    InputError
        One is no lens, or was fitted on another model.
    """
    given: list[Any] = list(lens) if isinstance(lens, list | tuple) else [lens]
    found = {LOGIT: reader_of(model)}
    for one in given:
        reader = reader_of(model, one)
        number = sum(name.split(" ")[0] == reader.name for name in found)
        if reader.fitted is not None:
            found[reader.name if not number else f"{reader.name} {number + 1}"] = reader
    return found


def points_of(
    model: LensModel, readers: dict[str, Reader], points: str | Sequence[str] | None
) -> list[Point]:
    """The points that are asked for; where none are, those that every fitted lens has a map for.

    Raises
    ------
    InputError
        A lens has no map for one, or there is none that all have.
    """
    if points is not None:
        chosen = lens_points(model, points)
        for reader in readers.values():
            reader.require(chosen)
        return chosen
    chosen = lens_points(model, ("embed", "mid", "post", "attn_out", "mlp_out"))
    for reader in readers.values():
        if reader.labels is not None:
            chosen = [point for point in chosen if point.label in reader.labels]
    if len(readers) == 1:
        chosen = lens_points(model, ("embed", "post"))
    if not chosen:
        raise InputError("There is no point that all of these lenses read: give them one by one.")
    return chosen


def count_work(
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    lens: Lenses,
    points: str | Sequence[str] | None,
    positions_skipped: int,
    transfer: bool,
    memory_limit: int,
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
    head = Head.of(model, memory_limit // 2)
    tally = Tally(len(readers) + 1, len(chosen))
    moved = Tally(len(chosen), len(chosen)) if transfer else None
    lowest, done = 0.0, 0
    for found in seen(model, rows, chosen, positions_skipped, job.tick):
        judge = Judge(model, head, found.final, found.target, job.tick)
        lowest = min(lowest, judge_all(tally, judge, readers, chosen, found))
        if moved is not None:
            _transfer(moved, judge, list(readers.values())[-1], chosen, found)
        done += len(found.final)
        _emit(job, tally, moved)
        job.progress(done, total, "judging")
    job.note(passes=1)
    job.check("divergence not negative", -lowest, 1e-3, "nats below zero of any token")


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


def _transfer(
    tally: Tally, judge: Judge, reader: Reader, points: Sequence[Point], found: Seen
) -> None:
    """Let the map of each point read the states at every other."""
    for row, fitted_at in enumerate(points):
        for place in range(len(points)):
            measured = judge.measure(reader.decode(fitted_at, found.states[place]))
            tally.add((row, place), measured, found.text)


def _emit(job: Job, tally: Tally, moved: Tally | None) -> None:
    """Show the means of what was read so far."""
    arrays = tally.means()
    if moved is not None:
        arrays["transfer"] = moved.means()["kl"]
    job.emit({}, {name: values.astype(np.float32) for name, values in arrays.items()})
