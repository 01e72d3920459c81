"""How surprising each layer finds the part of a text in which it differs from its partner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from layerlens.analyses.lenses.checks import against_model
from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS
from layerlens.analyses.lenses.next_token import targets_of
from layerlens.analyses.lenses.one_pass import LensPass
from layerlens.analyses.lenses.one_pass import Row as LensRow
from layerlens.analyses.probing.matched import Ids
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.corpus.rows import Row
from layerlens.corpus.shard import batches
from layerlens.errors import InputError
from layerlens.run.forward import forward
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def shared_start(one: Ids, other: Ids) -> int:
    """How many tokens two texts begin with that are the same.

    Examples
    --------
    >>> shared_start([5, 6, 7], [5, 6, 8, 9])
    2
    """
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def reordered(one: Ids, other: Ids, fixed: frozenset[int], seed: Sequence[int]) -> tuple[Ids, Ids]:
    """Both texts with their tokens in a random order, the same for both where they are as long.

    The first token, which nothing predicts, and special ones (`fixed`) stay where they are.
    """
    made = []
    for ids in (one, other):
        moving = [i for i in range(1, len(ids)) if ids[i] not in fixed]
        order = np.random.default_rng(seed).permutation(len(moving))
        found = list(ids)
        for place, taken in zip(moving, order.tolist(), strict=True):
            found[place] = ids[moving[taken]]
        made.append(found)
    return made[0], made[1]


@dataclass
class Surprisals:
    """Reads pairs of texts, at every point and by the model itself.

    Attributes
    ----------
    points
        Which states are read; the model's own answer comes after them.
    """

    job: Job
    model: LensModel
    points: Sequence[Point]
    reader: Reader
    head: Head
    unsayable: int = field(default=0, init=False)
    _checked: bool = field(default=False, init=False)

    def differences(self, pairs: Sequence[tuple[Ids, Ids]]) -> np.ndarray:
        """``[point, pair]`` nats: by how much the second text is the more surprising one.

        Only what comes after the tokens that both begin with is read: before, a model that reads
        from left to right says the same of both.

        Raises
        ------
        LayerLensError
            The model's activations hold NaN or infinity.
        """
        starts = [max(0, shared_start(*pair) - 1) for pair in pairs]
        rows = [Row(2 * number + side, list(ids))
                for number, pair in enumerate(pairs) for side, ids in enumerate(pair)]  # fmt: skip
        sums = np.zeros((len(self.points) + 1, len(rows)))
        for tokens, numbers in batches(self.model, rows, BATCH_TOKENS):
            own = np.array([starts[number // 2] for number in numbers])
            sums[:, numbers] += self._read(tokens, own)
        return sums[:, 1::2] - sums[:, ::2]

    def _read(self, tokens: Tokens, starts: np.ndarray) -> np.ndarray:
        """``[point, text]`` nats of the texts of one pass, each from its own start on."""
        cells = Cells(self.model, tokens, slice(int(starts.min()), None))
        targets = targets_of(self.model, cells)
        target = torch.from_numpy(targets.id).to(self.head.device)
        inside = cells.positions[cells.position] >= starts[cells.text]
        counted = inside & (targets.id >= 0)
        ends = np.zeros(len(cells), dtype=bool)
        ends[cells.last] = True
        self.unsayable += int((inside & ~counted & ~ends).sum())
        sums = np.zeros((len(self.points) + 1, cells.n_texts))
        final: list[LensRow] = []

        def done(row: LensRow) -> None:
            kept = row.reduced
            nats = (kept.log_norm.double() - kept.chosen[:, 0].double()).cpu().numpy()
            np.add.at(sums[row.index], cells.text[counted], nats[counted])
            final[:] = [row]

        lens_pass = LensPass(
            self.model, tokens, cells, self.points, self.head,
            decoders=[self.reader.decode], reads=[self.reader.sites],
            chosen=target.clamp_min(0).unsqueeze(-1), top_k=1, done=done, tick=self.job.tick,
        )  # fmt: skip
        lens_pass.run()
        if not self._checked:
            against_model(self.job, lens_pass, final[0], tokens, cells)
            self._checked = True
        return sums

    def own_difference(self, pair: tuple[Ids, Ids]) -> tuple[float, float]:
        """The same of one pair by all logits of plain passes of whole texts; the largest logit."""
        found, largest = [], 1.0
        for ids in pair:
            ((tokens, _),) = batches(self.model, [Row(0, list(ids))], BATCH_TOKENS)
            logits = forward(self.model, tokens, [], _nothing, logits="all")
            if logits is None:
                raise InputError("This model has no head: choose one that predicts tokens.")
            largest = max(largest, float(logits.abs().max()))
            said = torch.log_softmax(logits[0, :-1].float(), -1)
            following = tokens.ids[0, 1:].to(said.device)
            known = following < said.shape[-1]
            rows = torch.arange(len(following), device=said.device)[known]
            found.append(-float(said[rows, following[known]].double().sum()))
        return found[1] - found[0], largest


def _nothing(site: object, value: object) -> None:
    """No site is read."""
