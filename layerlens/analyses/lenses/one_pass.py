"""One pass that reduces each point of a lens as soon as the model reaches it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.lenses.points import Point
from layerlens.analyses.lenses.rows_read import Reads, RowsRead
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.errors import LayerLensError
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.head_rows import Final, Head, Reduced

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


Decode = Callable[[Point, Tensor], Tensor]
"""From a point and states there, ``[n, d_model]``, to what the model's head is given: the final
norm for the logit lens, after a translator for a lens that is fitted."""


@dataclass(frozen=True)
class Row:
    """One finished row: its index, the head's input and what was kept of its logits.

    Rows are those of the first way to decode, point by point, then those of the next; the final
    row, which all share, is the last.
    """

    index: int
    x: Tensor
    reduced: Reduced


def head_source(model: LensModel) -> tuple[Site, Callable[[Tensor], Tensor]]:
    """Where the model's own final row is read, and how it becomes what the head is given.

    The final norm's output is what the model feeds its head. Where more stands between, the same
    modules are called on the last state.
    """
    head = model.anatomy.head
    assert head is not None  # lenses need one, and the contract asked
    if head.chain[-1:] != (head.norm,) or head.pool is not None:
        return Site("resid_post", model.n_layers - 1), model.head_input
    return Site("normalized"), lambda rows: rows * head.scale_in


class LensPass:
    """Reads the points of one pass and sends their rows through the head.

    Points are gathered until they fill one product with the head; the first one goes alone, so
    that something can be shown early. The last state of the stream waits for the final row: where
    the model feeds its head exactly that, it is not computed twice.

    Parameters
    ----------
    model, tokens
        What is run.
    cells
        Which of its positions.
    points
        Which points; the final row comes after them.
    head
        The model's head.
    decoders
        The ways in which a state becomes what the head is given; each is tried on each state.
    reads
        Where each of them finds the state of a point.
    chosen
        [N, m] token ids whose logits and ranks are wanted.
    top_k
        How many predictions to keep.
    done
        Called with each finished row.
    tick
        Called at each point and product; may raise to stop.
    changes
        What is changed in the pass.
    """

    def __init__(
        self,
        model: LensModel,
        tokens: Tokens,
        cells: Cells,
        points: Sequence[Point],
        head: Head,
        *,
        decoders: Sequence[Decode],
        reads: Sequence[Reads],
        chosen: Tensor,
        top_k: int,
        done: Callable[[Row], None],
        tick: Callable[[], None],
        changes: Sequence[Change] = (),
    ) -> None:
        self._model = model
        self._tokens = tokens
        self._cells = cells
        self._head = head
        self._decoders = tuple(decoders)
        self._rows = RowsRead(points, reads)
        self._chosen = chosen
        self._top_k = top_k
        self._done = done
        self._tick = tick
        self._changes = changes
        self._points = list(points)
        self._pending: list[tuple[int, Tensor]] = []
        self._held: list[tuple[int, Tensor]] = []
        self._started = False
        self.final: Final | None = None
        self.logits: Tensor | None = None
        self.answered: Tensor | None = None
        self.head_rows = 0

    def run(self) -> None:
        """Run the pass; every point and the final row are done when it returns."""
        last = Site("resid_post", self._model.n_layers - 1)
        source, head_input = head_source(self._model)
        head = self._model.anatomy.head
        assert head is not None
        wanted = dict.fromkeys([*self._rows.sites, last, source])

        def see(site: Site, value: Tensor) -> None:
            self._tick()
            self._read(site, value, hold=site == last)
            if site == source:
                self._finish(head_input(self._cells.pick(value)))
            if site == last and head.pool is not None:
                self.answered = self._model.answer(value)

        self.logits = forward(
            self._model, self._tokens, list(wanted), see, logits="last", changes=self._changes
        )

    def _read(self, site: Site, value: Tensor, *, hold: bool) -> None:
        for row, state in self._rows.whole(site, self._cells.pick(value)):
            way, index = divmod(row, len(self._points))
            point = self._points[index]
            self._require_finite(state, point.label)
            x = self._head.accept(self._decoders[way](point, state))
            if hold:
                self._held.append((row, x))
                continue
            self._pending.append((row, x))
            if not self._started or (len(self._pending) + 1) * len(x) > self._head.rows:
                self._flush()
            self._started = True

    def _finish(self, x: Tensor) -> None:
        """Reduce what the model feeds its head, and what waited for it."""
        self._flush()
        self._require_finite(x, "final")
        x = self._head.accept(x)
        keep = self._cells.last.tolist()
        reduced, self.final = self._head.reduce_final(
            x, self._chosen, self._top_k, self._tick, keep
        )
        self.head_rows += len(x)
        for row, held in self._held:
            same = torch.equal(held, x)
            if not same:
                self.head_rows += len(x)
                again = self._head.reduce(held, self._chosen, self._top_k, self._tick)
            self._done(Row(row, held, reduced if same else again))
        self._done(Row(len(self._decoders) * len(self._points), x, reduced))

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        rows = torch.cat([x for _, x in pending]) if len(pending) > 1 else pending[0][1]
        chosen = self._chosen.repeat(len(pending), 1) if len(pending) > 1 else self._chosen
        reduced = self._head.reduce(rows, chosen, self._top_k, self._tick)
        self.head_rows += len(rows)
        count = len(self._cells)
        for place, (row, x) in enumerate(pending):
            here = slice(place * count, (place + 1) * count)
            self._done(Row(row, x, Reduced(*(field[here] for field in reduced))))

    def _require_finite(self, x: Tensor, label: str) -> None:
        if bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all()):
            return
        row = int((~torch.isfinite(x)).any(-1).nonzero()[0, 0])
        raise LayerLensError(
            f"The model's activations hold NaN or infinity from {label} on, first at "
            f"{self._cells.name(row)}: check its weights and dtype (float16 overflows where "
            "bfloat16 or float32 do not)."
        )
