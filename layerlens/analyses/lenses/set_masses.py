"""How much probability each state gives to sets of what could be said next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.lenses.one_pass import head_source
from layerlens.analyses.lenses.token_sets import Said
from layerlens.errors import ActivationError
from layerlens.metrics.batch import MOST_TOKENS
from layerlens.model.evidence import logit_size
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.analyses.lenses.state_energy import Energy
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens
    from layerlens.run.head_rows import Head

MOST_PAIRS = 2_000_000
"""Tokens that are looked up at one point of one pass, at most, unless one row needs more."""


@dataclass
class Fed:
    """One row that is fed, and what is looked up in it.

    Attributes
    ----------
    text
        Number of the text that it is, or begins with.
    ids
        The text and, of words of several tokens, all but the last of a word.
    start
        Its position at which the text ends.
    said
        What is looked up from there on.
    group
        To which set each of it belongs.
    """

    text: int
    ids: list[int]
    start: int
    said: list[Said] = field(default_factory=list)
    group: list[int] = field(default_factory=list)


def rows_for(text: int, ids: list[int], groups: Sequence[Sequence[Said]]) -> list[Fed]:
    """The rows that have to be fed to know the probability of all that is in some sets."""
    rows: dict[Said, Fed] = {(): Fed(text, ids, len(ids) - 1)}
    for group, each in enumerate(groups):
        for said in each:
            row = rows.setdefault(said[:-1], Fed(text, [*ids, *said[:-1]], len(ids) - 1))
            row.said.append(said)
            row.group.append(group)
    return list(rows.values())


def together(rows: Sequence[Fed]) -> Iterator[list[Fed]]:
    """Rows in passes of not too many tokens, nor too many that are looked up."""
    found: list[Fed] = []
    longest = pairs = 0
    for row in rows:
        longest, pairs = max(longest, len(row.ids)), pairs + sum(map(len, row.said))
        if found and ((len(found) + 1) * longest > MOST_TOKENS or pairs > MOST_PAIRS):
            yield found
            found, longest, pairs = [], len(row.ids), sum(map(len, row.said))
        found.append(row)
    yield found


@dataclass(frozen=True)
class Found:
    """What one point of one pass gives.

    Attributes
    ----------
    point
        Its number; that of the model's own end is the last.
    mass
        ``[row, group]`` float64, the probability of what is in each group and looked up there.
    entropy, energy
        ``[row]`` float64, where the text ends; nats and a ratio, NaN where there is no energy.
    """

    point: int
    mass: np.ndarray
    entropy: np.ndarray
    energy: np.ndarray


class SetPass:
    """Reads points of a pass at the ends of texts, and on through words that could follow.

    Parameters
    ----------
    job, model, reader, points, head, energy
        What is read, and how.
    groups
        How many sets there are, controls among them.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        reader: Reader,
        points: Sequence[Point],
        head: Head,
        energy: Energy | None,
        groups: int,
    ) -> None:
        self.job, self.model, self.reader = job, model, reader
        self.points, self.head, self.energy = list(points), head, energy
        self.groups = groups
        self.largest_logit = 1.0

    def run(self, rows: Sequence[Fed], done: Callable[[Found], None]) -> np.ndarray:
        """Run one pass; `done` is called with each point as the model reaches it.

        Returns
        -------
        ndarray
            ``[row, group]`` as in `Found`, by the logits that the model itself returned; NaN for
            rows that look up more than their last position, and those whose logits it did not
            return.
        """
        tokens = self.job.tokens([row.ids for row in rows])
        pairs = _Pairs(rows, tokens, self.groups)
        source, head_input = head_source(self.model)
        number = {point.site: i for i, point in enumerate(self.points)}

        def see(site: Site, value: Tensor) -> None:
            self.job.tick()
            state = value.reshape(-1, value.shape[-1])[pairs.cells.to(value.device)]
            if not bool(torch.isfinite(state).all()):
                raise ActivationError(
                    f"The model's activations hold NaN or infinity at {site}: check its weights "
                    "and dtype (float16 overflows where bfloat16 or float32 do not)."
                )
            if site in number:
                point = self.points[number[site]]
                done(self._read(number[site], self.reader.decode(point, state), pairs))
            if site == source:
                done(self._read(len(self.points), head_input(state), pairs))

        own = forward(self.model, tokens, [*number, source], see, logits="last")
        assert own is not None  # the analysis needs a head
        self.largest_logit = max(self.largest_logit, logit_size(own))
        return pairs.by_the_model(own[:, -1], tokens)

    def _read(self, point: int, x: Tensor, pairs: _Pairs) -> Found:
        """Probabilities of what is looked up, one block of rows of logits after the other."""
        x = self.head.accept(x)
        found = torch.empty(len(pairs.token), dtype=torch.float64)

        def see(start: int, logits: Tensor) -> None:
            pairs.look_up(start, logits, found)

        none = x.new_zeros((len(x), 0), dtype=torch.long)
        kept = self.head.reduce(x, none, 1, self.job.tick, see)
        ends = pairs.ends
        energy = torch.full((len(ends),), torch.nan)
        if self.energy is not None:
            energy = self.energy(x[ends.to(x.device)])
        entropy = kept.entropy[ends.to(kept.entropy.device)]
        return Found(
            point,
            pairs.masses(found),
            entropy.double().cpu().numpy(),
            energy.double().cpu().numpy(),
        )


class _Pairs:
    """Which token is looked up at which of the ``n`` positions that are read, and for what.

    Attributes
    ----------
    cells
        ``[n]`` numbers of the positions among all of a pass.
    ends
        ``[row]`` which of them are the ends of the texts.
    token
        ``[pair]`` the tokens, ordered by their position.
    """

    def __init__(self, rows: Sequence[Fed], tokens: Tokens, groups: int) -> None:
        self._rows, self._groups = len(rows), groups
        length = tokens.ids.shape[1]
        cells: list[int] = []
        owner: list[int] = []
        ends, cell, token, item = [], [], [], []
        for row, fed in enumerate(rows):
            first = int(tokens.mask[row].nonzero()[0, 0]) + fed.start
            ends.append(len(cells))
            steps = np.array([step for said in fed.said for step in range(len(said))], dtype=int)
            cell.append(ends[-1] + steps)
            token.append(np.array([index for said in fed.said for index in said], dtype=int))
            item.append(np.repeat(np.arange(len(fed.said)), [*map(len, fed.said)]) + len(owner))
            owner += [row * groups + group for group in fed.group]
            cells += [row * length + first + i for i in range(len(fed.ids) - fed.start)]
        order = np.argsort(np.concatenate(cell), kind="stable")
        self.cells, self.ends = torch.tensor(cells), torch.tensor(ends)
        self._cell = np.concatenate(cell)[order]
        self.token = torch.from_numpy(np.concatenate(token)[order])
        self._item, self._owner = np.concatenate(item)[order], np.array(owner, dtype=int)
        self._alone = np.array([len(fed.ids) == fed.start + 1 for fed in rows])

    def look_up(self, start: int, logits: Tensor, into: Tensor) -> None:
        """Log-probabilities of the tokens at the positions whose logits ``[m, V]`` these are."""
        low, high = np.searchsorted(self._cell, [start, start + len(logits)])
        if low < high:
            row = torch.from_numpy(self._cell[low:high] - start).to(logits.device)
            norm = logits.logsumexp(-1)
            chosen = logits[row, self.token[low:high].to(logits.device)]
            into[low:high] = (chosen - norm[row]).double().cpu()

    def masses(self, logprob: Tensor) -> np.ndarray:
        """Sums over each set of the products along each word, ``[row, group]``."""
        size = len(self._owner)
        each = np.exp(np.bincount(self._item, weights=logprob.numpy(), minlength=size))
        cells = self._rows * self._groups
        return np.bincount(self._owner, weights=each, minlength=cells).reshape(self._rows, -1)

    def by_the_model(self, logits: Tensor, tokens: Tokens) -> np.ndarray:
        """The same from the logits ``[row, V]`` of each row's last position."""
        logprob = torch.full((len(self.token),), torch.nan, dtype=torch.float64)
        for row in np.flatnonzero(self._alone & tokens.mask[:, -1].numpy()):
            low, high = np.searchsorted(self._cell, [self.ends[row], self.ends[row] + 1])
            own = logits[row].double().log_softmax(-1).cpu()
            logprob[low:high] = own[self.token[low:high]]
        return self.masses(logprob)
