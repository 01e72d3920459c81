"""Some of a model's blocks run by themselves, between its embedding and its head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contract.job import Job
from layerlens.analyses.lenses.bigram_counts import Bigrams
from layerlens.analyses.lenses.bigram_reading import AGAINST, counted_surprisals, named, surprisals
from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS
from layerlens.analyses.lenses.group_sums import Correlations, Means
from layerlens.corpus.rows import PIECE, Row
from layerlens.corpus.shard import batches
from layerlens.run.layers import show_order
from layerlens.run.replay import BlockCall, capture_calls, replay

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens
    from layerlens.run.head_rows import Head


def orders(layers: int, alone: int) -> dict[str, tuple[int, ...]]:
    """The blocks that are run by themselves, by name: none, first ones, last ones, both, all.

    Examples
    --------
    >>> orders(3, 1)
    {'no block': (), '0': (0,), '2': (2,), '0, 2': (0, 2), '0-2': (0, 1, 2)}
    """
    found = [
        tuple(dict.fromkeys([*range(first), *range(layers - last, layers)]))
        for last in range(alone + 1)
        for first in range(alone + 1)
    ]
    named = {show_order(order): order for order in [*found, tuple(range(layers))]}
    return dict(sorted(named.items(), key=lambda item: len(item[1])))


class BlocksAlone:
    """What is left of the predictions where only some blocks are run.

    Parameters
    ----------
    blocks
        Name to the blocks that are run, in this order.
    skipped
        Tokens at the beginning of each row that do not count.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        head: Head,
        counted: Bigrams,
        blocks: dict[str, tuple[int, ...]],
        skipped: int,
    ) -> None:
        self.job, self.model, self.head, self.counted = job, model, head, counted
        self.blocks, self.skipped = blocks, skipped
        self.ce, self.correlation = Means(len(blocks)), Correlations(len(blocks), len(AGAINST))
        self.error = 0.0

    def run(self, rows: Sequence[Row]) -> None:
        """Measure every token with a next one; the passes are those of the whole model, once."""
        for tokens, numbers in batches(self.model, rows, BATCH_TOKENS):
            counts = self._counts(tokens)
            if not counts.any():
                continue
            ends: list[Tensor] = []

            def see(layer: int, state: Tensor, ends: list[Tensor] = ends) -> None:
                self.job.tick()
                if layer in (0, self.model.n_layers):
                    ends.append(state)

            calls, _ = capture_calls(self.model, tokens, see, logits=None)
            self._add(tokens, torch.tensor(numbers) % PIECE, counts, calls, *ends)
            self.job.emit({}, named("alone_ce", self.ce.value()))
            self.job.emit({}, named("alone_correlation", self.correlation.value()))

    def _counts(self, tokens: Tokens) -> Tensor:
        """``[batch, position - 1]``: where a token counts, and one that can be said comes next."""
        there = tokens.mask & (tokens.position_ids >= self.skipped)
        return there[:, :-1] & tokens.mask[:, 1:] & (tokens.ids[:, 1:] < self.model.d_vocab)

    def _add(
        self,
        tokens: Tokens,
        texts: Tensor,
        counts: Tensor,
        calls: Sequence[BlockCall],
        begin: Tensor,
        end: Tensor,
    ) -> None:
        """Run the blocks from the first state of a batch, and take in what follows from each."""
        row, column = counts.nonzero(as_tuple=True)
        text, following = texts[row].numpy(), tokens.ids[row, column + 1]
        others = counted_surprisals(self.counted, tokens.ids[row, column], following)
        for number, order in enumerate(self.blocks.values()):
            self.job.tick()
            final = replay(self.model, calls, begin, order)
            if len(order) == self.model.n_layers:
                off = (final - end.to(final.device)).abs()[tokens.mask.to(final.device)].max()
                self.error = max(self.error, float(off / end.abs().max()))
            x = self.model.head_input(final[row, column])
            surprisal = surprisals(self.head, x, following, self.job.tick)
            self.ce.take((number,), text, surprisal)
            for against, other in enumerate(others):
                self.correlation.take((number, against), text, surprisal, other)
