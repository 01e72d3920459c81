"""The work of ``skip_layers``: chunk by chunk, text by text, row by row."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.output_distance import Ends, distances, ends
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.depth.direct_effects import direct_rows
from layerlens.analyses.depth.layer_subsets import (
    CleanRun,
    Skipped,
    SkipRow,
    Sweep,
    Window,
    combinations,
    naive,
)
from layerlens.analyses.depth.windows import summed, windows
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import MemoryLimitError
from layerlens.run.answer_place import answer_place

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

CHUNK_TOKENS = 512
"""Rows of one chunk hold about so many tokens: fewer would leave the processor idle, more would
only delay what is shown."""

AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-2}
"""Largest rounding in a relative change: a contribution may be small beside the states whose
difference it is. Other dtypes have half precision's."""
HALF_AGREEMENT = 1.0


@dataclass(frozen=True, eq=False)
class SkipText:
    """One text, its windows, and the token that is followed (None: its own prediction)."""

    tokens: Tokens
    windows: list[Window]
    answer: int | None


@dataclass(eq=False)
class _Found:
    """What is known of one combination: a part for each text and window."""

    changes: list[Tensor] = field(default_factory=list)
    distances: list[Tensor] = field(default_factory=list)
    ends: list[tuple[float, float, float]] = field(default_factory=list)


class SkipRun:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        texts: list[SkipText],
        part: str,
        mode: str,
        reduce: str,
        limit: int,
        *,
        direct: bool = False,
    ) -> None:
        self.job, self.model, self.texts, self.direct = job, model, texts, direct
        self.part, self.mode, self.reduce, self.limit = part, mode, reduce, limit
        self.rows = combinations(model.n_layers, mode, range(model.n_layers))
        self.clean: OrderedDict[int, CleanRun] = OrderedDict()
        self.passes = 0.0
        self.floor = self.before = self.lost = 0.0

    def run(self, verify: int, seed: int) -> None:
        """Compute and hand over every row, and compare ``verify`` of them with naive passes."""
        chunk = self._plan()
        self._declare()
        sample = random.Random(seed).sample(self.rows, min(max(0, verify), len(self.rows)))
        worst, done = 0.0, 0
        for start in range(0, self.model.n_layers, chunk):
            firsts = range(start, min(start + chunk, self.model.n_layers))
            wanted = combinations(self.model.n_layers, self.mode, firsts)
            found = {skipped: _Found() for skipped in wanted}
            for number, text in enumerate(self.texts):
                for place, window in enumerate(text.windows):
                    rows = self._sweep(number, window, firsts, found)
                    if not number and not place:
                        chosen = [row for row in rows if row.skipped in sample]
                        worst = max(worst, *(self._verify(row) for row in chosen), 0.0)
            for skipped, one in found.items():
                self._emit(skipped, one)
                done += 1
                self.job.progress(done, len(self.rows), _name(skipped, self.mode))
        self._check(worst, len(sample))

    def _plan(self) -> int:
        """How many first layers a chunk holds, within the limit."""
        longest = max(text.tokens.ids.shape[1] for text in self.texts)
        layers = self.model.n_layers
        state = longest * self.model.d_model * self.model.dtype.itemsize
        family = 1 if self.mode == "each" else layers
        # A row has its state before and after the block, and its changes; the block's own
        # working memory is bounded by what goes through it at once.
        row = 4 * state + 4 * layers * longest
        room = self.limit - (layers + 1) * state
        if room < family * row:
            raise MemoryLimitError(
                f"memory_limit is {self.limit / 1e6:.0f} MB, but a text of {longest} tokens needs "
                f"{((layers + 1) * state + family * row) / 1e6:.0f} MB: raise it, or shorten the "
                "text."
            )
        rows = min(max(1, CHUNK_TOKENS // longest), room // row)
        self.kept = max(1, (self.limit // 2) // ((layers + 1) * state))
        return max(1, rows // family)

    def _declare(self) -> None:
        layers = np.arange(self.model.n_layers, dtype=np.int32)
        sizes = {"skipped": len(self.rows), "layer": len(layers)}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {"layer": (("layer",), layers)}
        if self.mode == "each":
            coords["skipped"] = (("skipped",), layers)
        else:
            sizes["layer_other"] = len(layers)
            coords["layer_other"] = (("layer_other",), layers)
            names = [_name(row, self.mode) for row in self.rows]
            coords["skipped"] = (("skipped",), np.array(names))
            coords["first"] = (
                ("skipped",),
                np.array([row[0] for row in self.rows], dtype=np.int32),
            )
            coords["last"] = (
                ("skipped",),
                np.array([row[-1] for row in self.rows], dtype=np.int32),
            )
        self.job.declare(sizes, coords)
        self.job.note(method="restart from the stored state of the first layer that is left out")
        if any(block.mid_norm or block.post_norm for block in self.model.anatomy.blocks):
            self.job.remark(
                "Blocks of this family norm their sum, so what a layer adds is taken to be the "
                "difference of the states after and before it."
            )

    def _clean(self, number: int) -> CleanRun:
        """The undisturbed run of a text; of many texts the latest are kept."""
        if number not in self.clean:
            self.clean[number] = CleanRun(self.model, self.texts[number].tokens, self.job.tick)
            self.passes += 3
            while len(self.clean) > self.kept:
                self.clean.popitem(last=False)
        return self.clean[number]

    def _sweep(
        self, number: int, window: Window, firsts: range, found: dict[Skipped, _Found]
    ) -> list[SkipRow]:
        clean, text = self._clean(number), self.texts[number]
        *rows, floor = self._rows(clean, window, firsts)
        self.floor = max(self.floor, float(floor.change.max()))
        finals = torch.stack([row.final for row in rows])
        measured = list(window.measured)
        off = distances(self.model, clean.final, finals, measured, self.job.tick)
        at = answer_place(self.model, text.tokens)
        end = ends(self.model, clean.final[at], finals[:, at], text.answer)
        for row, distance, last in zip(rows, off, _unzipped(end), strict=True):
            self._identities(row, window)
            found[row.skipped].changes.append(row.change)
            found[row.skipped].distances.append(distance)
            found[row.skipped].ends.append(last)
        return rows

    def _rows(self, clean: CleanRun, window: Window, firsts: range) -> list[SkipRow]:
        if self.direct:
            found, blocks = direct_rows(clean, window, firsts, self.job.tick)
        else:
            sweep = Sweep(self.model, clean, window, self.part, self.mode)
            found = sweep.run(firsts, self.job.tick)
            blocks = sweep.blocks_run
        self.passes += blocks / self.model.n_layers
        return found

    def _identities(self, row: SkipRow, window: Window) -> None:
        """Collect what must be exactly so."""
        first = row.skipped[0]
        self.before = max(self.before, float(row.change[:first].abs().max()) if first else 0.0)
        if window.changed == window.measured and self.part == "block":
            # 1 unless the layer adds nothing at all.
            own = row.change[list(row.skipped)]
            self.lost = max(self.lost, float(torch.where(own == 0, 0.0, own - 1).abs().max()))
        elif window.changed != window.measured:
            self.lost = max(self.lost, float(row.change[first].max()))

    def _emit(self, skipped: Skipped, found: _Found) -> None:
        index = self.rows.index(skipped)
        kl, probability, top = np.mean(np.array(found.ends), axis=0)
        distance = summed(found.distances, self.reduce).numpy()
        arrays = {
            "effect": summed(found.changes, self.reduce).numpy(),
            "output_effect": distance,
            "kl": kl,
            "answer_probability": probability,
            "answer_on_top": top,
        }
        cast = {name: np.asarray(value, dtype=np.float32) for name, value in arrays.items()}
        self.job.emit({"skipped": index}, cast)
        if self.mode != "each":
            joint = {f"joint_{name}": cast[name] for name in ("kl", "output_effect")}
            joint["joint_answer_probability"] = cast["answer_probability"]
            self._emit_joint(skipped, joint)

    def _emit_joint(self, skipped: Skipped, joint: dict[str, np.ndarray]) -> None:
        first, last = skipped[0], skipped[-1]
        self.job.emit({"layer": first, "layer_other": last}, joint)
        if first == last:
            return
        other = joint
        if self.mode == "ranges":  # a range does not run backwards
            other = {name: np.full_like(value, np.nan) for name, value in joint.items()}
        self.job.emit({"layer": last, "layer_other": first}, other)

    def _verify(self, row: SkipRow) -> float:
        """How far a row is from a pass of the whole model with hooks."""
        text, clean = self.texts[0], self._clean(0)
        window = text.windows[0]
        plain = naive(self.model, text.tokens, clean, window, self.part, row.skipped)
        self.passes += 1
        layers = slice(None)
        if self.direct:  # the next layer has none between, so that it sees the same
            layers = slice(row.skipped[0] + 1, row.skipped[0] + 2)
        off = (plain.change - row.change)[layers].abs()
        return float(off.max()) if off.numel() else 0.0

    def _check(self, worst: float, verified: int) -> None:
        limit = AGREEMENT.get(self.model.dtype, HALF_AGREEMENT)
        self.job.note(passes=self.passes, noise_floor=self.floor)
        what = "largest change of a layer before the first that is left out"
        self.job.check("nothing before", self.before, 0, what)
        what = "deviation of the first skipped layer's own change from 1 (from 0 for the future)"
        window = self.texts[0].windows[0]
        apart = window.changed != window.measured
        if not self.direct and (self.part == "block" or apart):
            self.job.check("own change", self.lost, 0, what)
        what = "largest relative change with nothing left out: rounding"
        self.job.check("noise floor", self.floor, limit, what)
        if verified:
            what = f"relative changes of {verified} rows against passes of the whole model"
            self.job.check("naive agreement", worst, limit, what)


def _unzipped(end: Ends) -> Iterator[tuple[float, float, float]]:
    for kl, probability, top in zip(*end, strict=True):
        yield float(kl), float(probability), float(top)


def _name(skipped: Skipped, mode: str) -> str:
    if len(skipped) == 1:
        return str(skipped[0])
    return f"{skipped[0]}+{skipped[1]}" if mode == "pairs" else f"{skipped[0]}-{skipped[-1]}"


def skip_texts(
    model: LensModel,
    tokens: Tokens,
    answer: Any,
    effect: str,
    cuts: int | Sequence[int],
    keep_first: bool,
    seed: int,
) -> list[SkipText]:
    """Each text with its windows, and the token that is followed in it."""
    rows = [row_of(tokens, row) for row in range(len(tokens.ids))]
    answers = one_each(answer, len(rows), "answer")
    return [
        SkipText(
            row,
            windows(row.ids.shape[1], effect, cuts, keep_first, seed + number),
            None if one is None else model.token_id(one),
        )
        for number, (row, one) in enumerate(zip(rows, answers, strict=True))
    ]
