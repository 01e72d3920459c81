"""The work of `ll.bigram_layers`: surprisals and ranks by depth, in texts and in shuffled pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.job import Job
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses.bigram_counts import Bigrams
from layerlens.analyses.lenses.fitting.documents import Seen, seen
from layerlens.analyses.lenses.group_sums import Correlations, Found, Means
from layerlens.analyses.lenses.points import Point, lens_points
from layerlens.corpus.rows import Row
from layerlens.corpus.shard import batches
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.analyses.lenses.state_maps import InputLens
    from layerlens.model.lensmodel import LensModel
    from layerlens.run.head_rows import Head

CONTEXTS = ("text", "shuffled pairs")
AGAINST = ("bigram", "unigram")
CURVES = tuple(f"{model}, {context}" for context in CONTEXTS for model in AGAINST)
TOKENS = ("current", "next", "random")
KS = (1, 5, 10)


def shuffled(row: Row, begin: int, seed: int) -> Row:
    """A row whose pairs of neighbours, from a place on, come in random order.

    What stands alone at either end stays there.
    """
    ids, pairs = row.ids, (len(row.ids) - begin) // 2
    order = np.random.default_rng([seed, row.number, begin]).permutation(max(pairs, 0))
    mixed = [token for at in order for token in ids[begin + 2 * at : begin + 2 * at + 2]]
    end = begin + 2 * len(order)
    return Row(row.number, [*ids[:begin], *mixed, *ids[end:]])


class BigramRun:
    """The sums of one call, and how they are filled.

    Parameters
    ----------
    counted
        Probabilities of other texts.
    rows
        What is measured.
    skipped
        Tokens at the beginning of each row that do not count, and keep their place.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        reader: Reader,
        points: Sequence[Point],
        head: Head,
        counted: Bigrams,
        rows: Sequence[Row],
        skipped: int,
        seed: int,
    ) -> None:
        self.job, self.model, self.reader, self.points, self.head = job, model, reader, points, head
        self.counted, self.rows, self.skipped, self.seed = counted, rows, skipped, seed
        self.ce = Means(len(points), len(CONTEXTS))
        self.correlation = Correlations(len(points), len(CURVES))
        self.recall = Means(len(points), len(KS), len(TOKENS))
        self.input_recall = Means(len(points), len(KS))
        self.counted_ce = Means(len(AGAINST))
        self.done = 0

    def texts(self, input_lens: InputLens | None) -> None:
        """Measure every token with a next one where it stands."""
        for number, found in enumerate(
            seen(self.model, self.rows, self.points, self.skipped, self.job.tick)
        ):
            kept = (found.target >= 0).nonzero()[:, 0]
            text, others = found.text[kept].numpy(), self._others(found, kept)
            for one, values in enumerate(others):
                self.counted_ce.take((one,), text, values)
            drawn = self.counted.draw(len(kept), (self.seed, number))
            chosen = torch.stack([found.token[kept], found.target[kept], torch.from_numpy(drawn)])
            for place, point in enumerate(self.points):
                state = found.states[place][kept.to(found.final.device)]
                above = self._measure(0, place, state, chosen.T, text, others)
                for token, k in np.ndindex(len(TOKENS), len(KS)):
                    self.recall.take((place, k, token), text, above[:, token] < KS[k])
                if input_lens is not None:
                    rank = input_lens.ranks(
                        point, state, chosen[0], self.head.rows, self.job.tick
                    ).numpy()
                    for k, most in enumerate(KS):
                        self.input_recall.take((place, k), text, rank < most)
            self._advance(len(kept))
            self._emit(input_lens is not None)

    def pairs(self) -> None:
        """Measure the same pairs of neighbours in texts that keep nothing else of their order."""
        for begin in (self.skipped, self.skipped + 1):
            mixed = [shuffled(row, begin, self.seed) for row in self.rows]
            for found in seen(self.model, mixed, self.points, begin, self.job.tick):
                first = (found.position - begin) % 2 == 0
                kept = (first & (found.target >= 0)).nonzero()[:, 0]
                if not len(kept):
                    continue
                text, others = found.text[kept].numpy(), self._others(found, kept)
                for place in range(len(self.points)):
                    state = found.states[place][kept.to(found.final.device)]
                    self._measure(1, place, state, found.target[kept, None], text, others)
                self._advance(len(kept))
                self._emit_contexts()

    def _advance(self, tokens: int) -> None:
        self.done += tokens
        total = 2 * sum(max(0, len(row.ids) - 1 - self.skipped) for row in self.rows)
        self.job.progress(self.done, total, "tokens")

    def _others(self, found: Seen, kept: Tensor) -> np.ndarray:
        """Surprisals of the next tokens by the counted models, ``[against, n]``, nats."""
        return counted_surprisals(self.counted, found.token[kept], found.target[kept])

    def _measure(
        self,
        context: int,
        place: int,
        state: Tensor,
        chosen: Tensor,
        text: np.ndarray,
        others: np.ndarray,
    ) -> np.ndarray:
        """Take in one point; how many logits are above those of the chosen tokens, ``[n, m]``."""
        x = self.head.accept(self.reader.decode(self.points[place], state))
        found = self.head.reduce(x, chosen.contiguous().to(x.device), 1, self.job.tick)
        following = TOKENS.index("next") if chosen.shape[1] > 1 else 0
        surprisal = (found.log_norm - found.chosen[:, following]).double().cpu().numpy()
        self.ce.take((place, context), text, surprisal)
        for against, other in enumerate(others):
            curve = context * len(AGAINST) + against
            self.correlation.take((place, curve), text, surprisal, other)
        return np.asarray(found.above.cpu())

    def _emit(self, with_input_lens: bool) -> None:
        arrays = named("recall", self.recall.value()) | named("counted_ce", self.counted_ce.value())
        if with_input_lens:
            arrays |= named("input_recall", self.input_recall.value())
        self.job.emit({}, arrays)
        self._emit_contexts()

    def _emit_contexts(self) -> None:
        both = {"ce": self.ce.value(), "correlation": self.correlation.value()}
        for name, value in both.items():
            self.job.emit({}, named(name, value))

    def check(self) -> None:
        """Compare with the model's own logits on one row, and add up what was counted."""
        longest = max(self.rows, key=lambda row: len(row.ids))
        row = Row(longest.number, longest.ids[: self.skipped + 32])
        last = lens_points(self.model, f"{self.model.n_layers - 1}_post")
        (found,) = seen(self.model, [row], last, self.skipped, self.job.tick)
        kept = found.target >= 0
        ((tokens, _),) = batches(self.model, [row], len(row.ids))
        own = forward(
            self.model,
            tokens,
            [Site("resid_post", self.model.n_layers - 1)],
            lambda _, value: None,
            logits="all",
        )
        assert own is not None
        logits = own[0, self.skipped :][kept.to(own.device)].float()
        plain = -logits.log_softmax(-1).gather(1, found.target[kept, None].to(logits.device))[:, 0]
        final, tick = found.final[kept.to(found.final.device)], self.job.tick
        ours = surprisals(self.head, self.model.head_input(final), found.target[kept], tick)
        error = float(np.abs(ours - plain.double().cpu().numpy()).max())
        limit = logit_tolerance(self.model.dtype) * float(logits[logits.isfinite()].abs().max())
        what = "largest difference of a surprisal at the last state from the model's own (nats)"
        self.job.check("the last state gives the model's surprisals", error, limit, what)
        common = [token for token, _ in self.counted.tokens.most_common(4)]
        sums = [abs(self.counted.behind(token).sum() - 1) for token in common]
        what = "how far what may come behind a token is from 1, for the commonest tokens"
        self.job.check("counted probabilities sum to one", max(sums), 1e-9, what)


def named(name: str, found: Found) -> dict[str, np.ndarray]:
    """A number and the ends of its interval, as variables."""
    ends = zip(("", "_low", "_high"), found, strict=True)
    return {name + end: values.astype(np.float32) for end, values in ends}


def surprisals(head: Head, x: Tensor, following: Tensor, tick: Callable[[], None]) -> np.ndarray:
    """Of the next tokens where the head is given ``x`` ``[n, d_head]``: ``[n]`` float64 nats."""
    x = head.accept(x)
    found = head.reduce(x, following[:, None].to(x.device), 1, tick)
    return np.asarray((found.log_norm - found.chosen[:, 0]).double().cpu())


def counted_surprisals(counted: Bigrams, token: Tensor, following: Tensor) -> np.ndarray:
    """Of the next tokens by the counted models, ``[against, n]`` float64 nats."""
    both = counted.after(token.numpy(), following.numpy()), counted.alone(following.numpy())
    return np.asarray(-np.log(np.stack(both)))
