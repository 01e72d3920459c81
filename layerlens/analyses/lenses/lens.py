"""What every lens shares: states are decoded on the way, kept, ranked and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.divergence import Reference
from layerlens.analyses.contract.contract import Job, Variable
from layerlens.analyses.contract.parts import Where
from layerlens.analyses.lenses import checks as lens_checks
from layerlens.analyses.lenses.memory import Plan, plan_memory
from layerlens.analyses.lenses.next_token import targets_of
from layerlens.analyses.lenses.one_pass import Decode, LensPass, Row
from layerlens.analyses.lenses.points import Point
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.run.forward import forward
from layerlens.run.head_rows import Final, Head
from layerlens.run.resolve import Resolved

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.sites import Site
    from layerlens.model.text import Tokens

NO_LAYER = -2

_CELL = ("point", "position")
VARIABLES = {
    "token_id": Variable((*_CELL, "k"), "int32", "1", "predicted token, best first", is_token=True),
    "probability": Variable((*_CELL, "k"), "float32", "1", "probability of the predicted token"),
    "entropy": Variable(_CELL, "float32", "nats", "entropy of the prediction"),
    "kl_to_final": Variable(_CELL, "float32", "nats", "KL divergence, final from this point"),
    "cross_entropy": Variable(_CELL, "float32", "nats", "cross-entropy of the next token"),
    "rank": Variable(_CELL, "int32", "1", "rank of the target token, 1 = best"),
    "target_id": Variable(
        ("position",),
        "int32",
        "1",
        "next token; at the end, and at mask tokens, the model's own answer",
        is_token=True,
    ),
    "tracked_probability": Variable(
        (*_CELL, "tracked"), "float32", "1", "probability of the tracked token"
    ),
    "tracked_rank": Variable((*_CELL, "tracked"), "int32", "1", "rank of the tracked token"),
    "first_layer": Variable(
        ("position",),
        "int32",
        "layer",
        "first layer whose answer is the final one",
        NO_LAYER,
    ),
    "settle_layer": Variable(
        ("position",),
        "int32",
        "layer",
        "layer from which the answer stays the final one",
        NO_LAYER,
    ),
    "first_point": Variable(
        ("position",), "int32", "1", "first point whose answer is the final one (index)"
    ),
    "settle_point": Variable(
        ("position",),
        "int32",
        "1",
        "point from which the answer stays the final one (index)",
    ),
}


class Lens:
    """The work of one call of any lens: states become logits where ``decode`` says how.

    Parameters
    ----------
    job, model, tokens
        As the analysis is given them.
    resolved
        What edits change in the pass.
    cells
        Positions of all texts.
    points
        Which states; the final row, which is the model's own, comes after them.
    top_k
        How many predictions to keep of each.
    tracked
        Token ids whose probability and rank are wanted everywhere.
    limit
        Bytes of working memory above the model's own.
    decode
        How a state becomes what the head is given.
    beside
        Before the name of each variable, for a second lens that fills the axes of a first one.
    names
        Token ids of this model as the first one's, -1 for what that has not; None: as they are.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        resolved: Resolved,
        cells: Cells,
        points: list[Point],
        top_k: int,
        tracked: list[int],
        limit: int,
        decode: Decode,
        beside: str = "",
        names: np.ndarray | None = None,
    ) -> None:
        self.beside, self.names = beside, names
        self.job, self.model, self.tokens = job, model, tokens
        self.decode = decode
        self.resolved, self.changes = resolved, resolved.changes
        self.cells, self.points, self.tracked, self.top_k = (
            cells,
            points,
            tracked,
            top_k,
        )
        self.plan: Plan = plan_memory(model, len(points), len(cells), top_k, len(tracked), limit)
        self.head = Head.of(model, self.plan.buffers)
        self.rows = len(points) + 1
        self.stored: dict[int, Tensor] = {}
        self.final: Row
        device = self.head.device
        self.log_norm = torch.empty((self.rows, len(cells)), dtype=self.head.work, device=device)
        self.answer = torch.empty((self.rows, len(cells)), dtype=torch.int64, device=device)
        chosen = torch.empty((len(cells), 1 + len(tracked)), dtype=torch.int64)
        self.targets = targets_of(model, cells)
        if self.targets.remark is not None:
            job.remark(self.targets.remark)
        chosen[:, 0] = torch.from_numpy(self.targets.id.clip(min=0))
        chosen[:, 1:] = torch.tensor(tracked, dtype=torch.int64)
        self.chosen = chosen.to(device)
        self.ends = torch.from_numpy(self.targets.own).to(device)
        self.missing = torch.from_numpy(self.targets.id < 0).to(device)
        self.end_rows: dict[int, Tensor] = {}
        self.done = 0
        self.rank_errors = 0

    def run(self) -> None:
        """Run the model, decode on the way, compare, check."""
        if not self.beside:
            self.declare()
        self._targets()
        lens_pass = LensPass(
            self.model,
            self.tokens,
            self.cells,
            self.points,
            self.head,
            decode=self.decode,
            chosen=self.chosen,
            top_k=self.top_k,
            done=self._row,
            tick=self.job.tick,
            changes=self.changes,
        )
        lens_pass.run()
        self._settle()
        self._own_answers()
        assert lens_pass.final is not None  # run() has reached the head
        passes = self._compare(lens_pass.final)
        self.job.note(passes=passes, head_rows=lens_pass.head_rows)
        lens_checks.against_model(self.job, lens_pass, self.final, self.tokens, self.cells)
        lens_checks.numbers(self.job, self.rank_errors)

    def declare(self) -> None:
        """State the axes and their coordinates."""
        layers = [point.layer for point in self.points] + [self.model.n_layers]
        labels = [point.label for point in self.points] + ["final"]
        sizes = {"point": self.rows, "k": self.top_k, **self.cells.sizes()}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "point": (("point",), np.array(labels)),
            "layer": (("point",), np.array(layers, dtype=np.int32)),
            "k": (("k",), np.arange(self.top_k, dtype=np.int32)),
            **self.cells.coords(),
        }
        if self.tracked:
            strings = [self.model.token_string(i) for i in self.tracked]
            sizes["tracked"] = len(self.tracked)
            coords["tracked"] = (("tracked",), np.array(self.tracked, dtype=np.int32))
            coords["tracked_token"] = (("tracked",), np.array(strings))
        self.job.declare(sizes, coords)

    def _targets(self) -> None:
        target = self.cells.spread(self.targets.id.astype(np.int32), -1)
        self._emit({}, {"target_id": target})

    def _row(self, row: Row) -> None:
        """Keep what later steps need of a finished point, and emit it."""
        kept = row.reduced
        self.log_norm[row.point] = kept.log_norm
        self.answer[row.point] = kept.top_ids[:, 0]
        if len(self.ends):
            self.end_rows[row.point] = row.x[self.ends]
        if row.point == self.rows - 1:
            self.final = row
        elif self.plan.store:
            self.stored[row.point] = row.x
        self.rank_errors += lens_checks.rank_errors(kept, self.chosen)
        self._emit({"point": row.point}, self._arrays(row))
        self.done += 1
        label = "final" if row.point == self.rows - 1 else self.points[row.point].label
        self.job.progress(self.done, self.rows + 1, label)

    def _arrays(self, row: Row) -> dict[str, np.ndarray]:
        kept = row.reduced
        norm = kept.log_norm.unsqueeze(-1)
        logprob = kept.chosen - norm
        rank = kept.above + 1
        cross_entropy = (-logprob[:, 0]).masked_fill(self.missing, float("nan"))
        target_rank = rank[:, 0].masked_fill(self.missing, -1)
        arrays = {
            "token_id": kept.top_ids.int(),
            "probability": (kept.top_logits - norm).exp().float(),
            "entropy": kept.entropy.float(),
            "cross_entropy": cross_entropy.float(),
            "rank": target_rank.int(),
        }
        if self.tracked:
            arrays["tracked_probability"] = logprob[:, 1:].exp().float()
            arrays["tracked_rank"] = rank[:, 1:].int()
        return {name: self._spread(name, value) for name, value in arrays.items()}

    def _spread(self, name: str, value: Tensor) -> np.ndarray:
        return self.cells.spread(value.cpu().numpy(), VARIABLES[name].fill)

    def _emit(self, where: Where, arrays: Mapping[str, np.ndarray]) -> None:
        if self.names is not None:
            known = self.names
            arrays = {
                name: np.where(array < 0, array, known[array]).astype(array.dtype)
                if VARIABLES[name].is_token
                else array
                for name, array in arrays.items()
            }
        self.job.emit(where, {f"{self.beside}{name}": array for name, array in arrays.items()})

    def input_of(self, point: int) -> Tensor:
        """What the head was given at a point, [N, d_head]; that of all is kept if there is room."""
        return self.final.x if point == self.rows - 1 else self.stored[point]

    def _settle(self) -> None:
        """First point whose answer is the final one, and the one from which it stays so."""
        states = [i for i, point in enumerate(self.points) if point.is_state] + [self.rows - 1]
        same = (self.answer[states] == self.answer[-1]).cpu().numpy()
        first = same.argmax(0)
        stays = np.flip(np.logical_and.accumulate(np.flip(same, 0), 0), 0)
        settle = stays.argmax(0)
        index = np.array(states)
        layers = np.array([point.layer for point in self.points] + [self.model.n_layers])
        found = {
            "first_point": index[first],
            "settle_point": index[settle],
            "first_layer": layers[index[first]],
            "settle_layer": layers[index[settle]],
        }
        arrays = {
            name: self.cells.spread(value.astype(np.int32), VARIABLES[name].fill)
            for name, value in found.items()
        }
        self._emit({}, arrays)
        late = float((first - settle).max(initial=0))
        self.job.check("settle after first", late, 0, "points by which settle comes before first")

    def _own_answers(self) -> None:
        """Where there is no next token, rank the model's own answer."""
        if not len(self.ends):
            return
        answers = self.answer[-1][self.ends]
        rows = torch.cat([self.end_rows[i] for i in range(self.rows)])
        chosen = answers.repeat(self.rows).unsqueeze(-1)
        reduced = self.head.reduce(rows, chosen, 1, self.job.tick)
        ranks = (reduced.above.view(self.rows, -1) + 1).int().cpu().numpy()
        for place, row in enumerate(self.targets.own.tolist()):
            where: dict[str, int | slice] = {"position": int(self.cells.position[row])}
            if not self.cells.single:
                where["batch"] = int(self.cells.text[row])
            target = np.array(int(answers[place]), dtype=np.int32)
            self._emit(where, {"rank": ranks[:, place], "target_id": target})

    def _compare(self, extras: Final) -> int:
        """Fill in the divergence from the final row; returns the passes used in all."""
        final = self.final
        reference = Reference(self.head, final.x, self.log_norm[-1], extras)
        kl = torch.empty_like(self.log_norm)
        kl[-1:] = reference.kl([final.x], self.log_norm[-1:])
        if self.plan.store:
            stored = [self.stored[point] for point in range(len(self.points))]
            kl[:-1] = reference.kl(stored, self.log_norm[:-1], self.job.tick)
        else:
            self._run_again(reference, kl)
        lens_checks.divergence(self.job, kl, final.reduced, reference)
        shown = torch.where((kl < 0) & (kl > -lens_checks.ROUNDING), 0.0, kl).float()
        for point in range(self.rows):
            self._emit(
                {"point": point},
                {"kl_to_final": self._spread("kl_to_final", shown[point])},
            )
        self.job.progress(self.rows + 1, self.rows + 1, "KL to final")
        return self.resolved.passes + (1 if self.plan.store else 2)

    def _run_again(self, reference: Reference, kl: Tensor) -> None:
        """Where the rows of all points do not fit into memory, a second pass makes them again."""
        index = {point.site: i for i, point in enumerate(self.points)}

        def see(site: Site, value: Tensor) -> None:
            self.job.tick()
            here = slice(index[site], index[site] + 1)
            point = self.points[index[site]]
            x = self.head.accept(self.decode(point, self.cells.pick(value)))
            kl[here] = reference.kl([x], self.log_norm[here], self.job.tick)

        forward(self.model, self.tokens, list(index), see, logits=None, changes=self.changes)
