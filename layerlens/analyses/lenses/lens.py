"""What every lens shares: states are decoded on the way, kept, ranked and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.divergence import Reference
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.parts import Where
from layerlens.analyses.lenses import checks as lens_checks
from layerlens.analyses.lenses.memory import Plan, plan_memory
from layerlens.analyses.lenses.next_token import targets_of
from layerlens.analyses.lenses.one_pass import Decode, LensPass, Row
from layerlens.analyses.lenses.points import Point
from layerlens.analyses.lenses.rows_read import Reads, RowsRead, own_site
from layerlens.analyses.lenses.settle import settled
from layerlens.analyses.lenses.variables import VARIABLES
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.run.forward import forward
from layerlens.run.head_rows import Final, Head
from layerlens.run.resolve import Resolved

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.sites import Site
    from layerlens.model.text import Tokens


class Lens:
    """The work of one call of any lens: states become logits where ``decoders`` say how.

    Rows are counted as `LensPass` counts them: those of the first way to decode, of the next, and
    in the end the final one.

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
    decoders
        The ways in which a state becomes what the head is given.
    reads
        Where each of them finds the state of a point; None for the point's own site.
    ways
        Names of these ways, which are an axis ``lens`` then; without names there is one way.
    maps
        Bytes of what was fitted for them, and of products with it.
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
        decoders: Sequence[Decode],
        reads: Sequence[Reads] | None = None,
        ways: Sequence[str] | None = None,
        maps: int = 0,
        beside: str = "",
        names: np.ndarray | None = None,
    ) -> None:
        self.beside, self.names = beside, names
        self.job, self.model, self.tokens = job, model, tokens
        self.decoders, self.ways = tuple(decoders), ways
        self.reads = tuple(reads or [own_site] * len(self.decoders))
        self.coords: dict[str, tuple[tuple[str, ...], Any]] = {}
        self.resolved, self.changes = resolved, resolved.changes
        self.cells, self.points, self.tracked, self.top_k = (
            cells,
            points,
            tracked,
            top_k,
        )
        self.plan: Plan = plan_memory(
            model, len(points), len(cells), top_k, len(tracked), limit,
            ways=len(self.decoders), maps=maps,
        )  # fmt: skip
        self.head = Head.of(model, self.plan.buffers)
        self.rows = len(self.decoders) * len(points) + 1
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
            decoders=self.decoders,
            reads=self.reads,
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
        sizes = {"point": len(labels), "k": self.top_k, **self.cells.sizes()}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "point": (("point",), np.array(labels)),
            "layer": (("point",), np.array(layers, dtype=np.int32)),
            "k": (("k",), np.arange(self.top_k, dtype=np.int32)),
            **self.cells.coords(),
            **self.coords,
        }
        if self.ways is not None:
            sizes["lens"] = len(self.ways)
            coords["lens"] = (("lens",), np.array(self.ways))
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
        self.log_norm[row.index] = kept.log_norm
        self.answer[row.index] = kept.top_ids[:, 0]
        if len(self.ends):
            self.end_rows[row.index] = row.x[self.ends]
        last = row.index == self.rows - 1
        if last:
            self.final = row
        elif self.plan.store:
            self.stored[row.index] = row.x
        self.rank_errors += lens_checks.rank_errors(kept, self.chosen)
        self._emit_row(row.index, self._arrays(row))
        self.done += 1
        label = "final" if last else self.points[row.index % len(self.points)].label
        self.job.progress(self.done, self.rows + 1, label)

    def _emit_row(self, row: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Emit what belongs to a row; the final one is that of every way to decode."""
        count = len(self.points)
        ways = range(len(self.decoders)) if row == self.rows - 1 else (row // count,)
        point = count if row == self.rows - 1 else row % count
        for way in ways:
            self._emit({**self.of_way(way), "point": point}, arrays)

    def of_way(self, way: int) -> dict[str, int | slice]:
        """Where the numbers of one way to decode belong."""
        return {} if self.ways is None else {"lens": way}

    def rows_of(self, way: int) -> list[int]:
        """Indices of the rows of one way to decode, the final one at the end."""
        count = len(self.points)
        return [*range(way * count, (way + 1) * count), self.rows - 1]

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

    def input_of(self, row: int) -> Tensor:
        """What the head was given in a row, [N, d_head]; that of all is kept if there is room."""
        return self.final.x if row == self.rows - 1 else self.stored[row]

    def _settle(self) -> None:
        """First point whose answer is the final one, and the one from which it stays so."""
        late = 0.0
        for way in range(len(self.decoders)):
            same = (self.answer[self.rows_of(way)] == self.answer[-1]).cpu().numpy()
            found = settled(self.points, self.model.n_layers, same)
            arrays = {
                name: self.cells.spread(value.astype(np.int32), VARIABLES[name].fill)
                for name, value in found.items()
            }
            self._emit(self.of_way(way), arrays)
            late = max(late, float((found["first_point"] - found["settle_point"]).max(initial=0)))
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
            self._emit(where, {"target_id": target})
            for way in range(len(self.decoders)):
                rank = ranks[self.rows_of(way), place]
                self._emit({**self.of_way(way), **where}, {"rank": rank})

    def _compare(self, extras: Final) -> int:
        """Fill in the divergence from the final row; returns the passes used in all."""
        final = self.final
        reference = Reference(self.head, final.x, self.log_norm[-1], extras)
        kl = torch.empty_like(self.log_norm)
        kl[-1:] = reference.kl([final.x], self.log_norm[-1:])
        if self.plan.store:
            stored = [self.stored[row] for row in range(self.rows - 1)]
            kl[:-1] = reference.kl(stored, self.log_norm[:-1], self.job.tick)
        else:
            self._run_again(reference, kl)
        lens_checks.divergence(self.job, kl, final.reduced, reference)
        shown = torch.where((kl < 0) & (kl > -lens_checks.ROUNDING), 0.0, kl).float()
        for row in range(self.rows):
            self._emit_row(row, {"kl_to_final": self._spread("kl_to_final", shown[row])})
        self.job.progress(self.rows + 1, self.rows + 1, "KL to final")
        return self.resolved.passes + (1 if self.plan.store else 2)

    def _run_again(self, reference: Reference, kl: Tensor) -> None:
        """Where the rows of all points do not fit into memory, a second pass makes them again."""
        rows = RowsRead(self.points, self.reads)

        def see(site: Site, value: Tensor) -> None:
            self.job.tick()
            for row, state in rows.whole(site, self.cells.pick(value)):
                way, point = divmod(row, len(self.points))
                x = self.head.accept(self.decoders[way](self.points[point], state))
                kl[row : row + 1] = reference.kl([x], self.log_norm[row : row + 1], self.job.tick)

        forward(self.model, self.tokens, rows.sites, see, logits=None, changes=self.changes)
