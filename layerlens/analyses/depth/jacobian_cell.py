"""What a cell of ``block_jacobian`` opens: the tokens of the first text that its mean is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.sweeps.jacobian_rows import RowJacobians, evenly
from layerlens.metrics.batch import Batch, split

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DISTANCE = "jacobian_distance"


def open_jacobian(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    draws: int,
    per_text: int,
    skip_first: bool | int,
    seed: int,
) -> Opened:
    """Measure the block at each chosen token of the first text that has some."""
    layer = int(place.need("layer"))
    for text, numbers in split(tokens, 1):
        batch = Batch(text, numbers, int(skip_first))
        at = evenly(batch.kept.position.tolist(), per_text)
        if at:
            break
    found = RowJacobians(model, text.repeated(len(at)), at, job.tick)
    how = layer, draws, (seed, int(numbers[0]))
    measured, chance = found.of(*how), found.of(*how, shuffled=True)
    strings = text.strings[0]
    rows = []
    for row, position in enumerate(at):
        values = [float(each[row]) for each in measured.values()]
        rows.append([position, strings[position], *values, float(chance[DISTANCE][row])])
    marks = [0.0] * len(strings)
    for position, size in zip(at, measured[DISTANCE].tolist(), strict=True):
        marks[position] = size / max(float(measured[DISTANCE].max()), 1e-12)
    head = ["position", "token", "distance", "trace", "off diagonal", "distance, shuffled"]
    return Opened(
        title=f"The Jacobian of block {layer} at {len(at)} tokens of text {int(numbers[0])}",
        code=place.call,
        tables=[Table(head, rows)],
        texts=[list(zip(strings, marks, strict=True))],
    )
