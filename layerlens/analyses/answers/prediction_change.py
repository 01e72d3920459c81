"""How far the predictions of a disturbed run are from the clean one's, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.metrics.batch import Batch

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

BUFFER_BYTES = 64_000_000
"""What the logits of one chunk may take."""
KEPT_BYTES = 400_000_000
"""What the clean logits of a batch may take; beyond it they are made again for each run."""
CACHE_BYTES = 2_000_000
"""Logits that are compared at once: what is derived from them stays in the processor's cache."""

_LOWEST = -1e30
"""Stands for the logarithm of 0, so that 0 times it is 0."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""From clean and other logits ``[n, vocabulary]`` to one number a token, ``[n]`` float64."""
Head = Callable[[Tensor], Tensor]
"""From states after the last block ``[n, d_model]`` to logits ``[n, vocabulary]``."""


def kl(clean: Tensor, other: Tensor) -> Tensor:
    """KL divergence of the clean prediction from the other one, nats."""
    p, q = clean.log_softmax(-1), other.log_softmax(-1)
    return _divergence(p, q).clamp(min=0)


def js(clean: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon divergence, 0 to ln 2 nats."""
    p, q = clean.log_softmax(-1), other.log_softmax(-1)
    weight_p, weight_q = p.exp(), q.exp()
    # Where both weights underflow, both terms are 0, whatever finite number stands for log m.
    m = (weight_p + weight_q).div_(2).clamp_min_(torch.finfo(p.dtype).tiny).log_()
    # So it is where a token is excluded: log p is minus infinity there.
    terms = weight_p.mul_(p.clamp_min_(_LOWEST).sub_(m))
    terms += weight_q.mul_(q.clamp_min_(_LOWEST).sub_(m))
    return (terms.sum(-1, dtype=torch.float64) / 2).clamp(min=0)


def js_reference(clean: Tensor, other: Tensor) -> Tensor:
    """What FinerCut's published code calls JS: both divergences taken the other way round."""
    p, q = clean.log_softmax(-1), other.log_softmax(-1)
    m = torch.logaddexp(p, q) - math.log(2)
    return ((_divergence(m, p) + _divergence(m, q)) / 2).clamp(min=0)


def angular(clean: Tensor, other: Tensor) -> Tensor:
    """Angle between the logits, 0 to pi / 2 radians (a negative cosine counts as 0)."""
    clean, other = clean.double(), other.double()
    cosine = torch.linalg.vecdot(clean, other) / (clean.norm(dim=-1) * other.norm(dim=-1))
    angle: Tensor = cosine.clamp(0, 1).arccos()
    return angle


def square(clean: Tensor, other: Tensor) -> Tensor:
    """Squared Euclidean distance of the logits."""
    return torch.where(clean == other, 0.0, clean - other).square().sum(-1, dtype=torch.float64)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    # A token that is excluded (a logit of minus infinity) adds nothing.
    terms = torch.where(p.isneginf(), 0.0, p.exp() * (p - q))
    return terms.sum(-1, dtype=torch.float64)


DISTANCES: dict[str, Distance] = {
    "js": js,
    "kl": kl,
    "angular": angular,
    "norm": square,
    "js_reference": js_reference,
}
"""By name; ``norm`` gives squares, whose sum over the tokens of a text has to be rooted."""


class Outputs:
    """The clean predictions of the tokens of a batch that count.

    Attributes
    ----------
    loss
        ``[n]`` float64, minus the log probability of the token that follows, nats; NaN at the
        last token of a text, where the head has no such token, and in a model that reads in both
        directions, which predicts no next one.
    """

    def __init__(self, model: LensModel, batch: Batch, final: Tensor) -> None:
        self._model = model
        self._final = final
        self._rows = max(1, BUFFER_BYTES // (4 * model.d_vocab))
        self._block = max(1, CACHE_BYTES // (4 * model.d_vocab))
        self._next = _following(model, batch)
        self._kept: dict[int, Tensor] = {}
        self._keep = final.shape[0] * model.d_vocab * 4 <= KEPT_BYTES
        parts = [self._loss(self._clean(part), part) for part in self._chunks()]
        self.loss = torch.cat(parts)

    def compare(
        self, final: Tensor, distance: Distance, head: Head | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distance from the clean predictions, and the loss, of other states after the last block.

        Parameters
        ----------
        final
            ``[n, d_model]``, of the tokens that count.
        head
            Another one that these states go through; None for the model's own.

        Returns
        -------
        distance, loss
            ``[n]`` float64 each.
        """
        parts = [
            self._against(part, (head or self._model.unembed)(final[part]), distance)
            for part in self._chunks()
        ]
        distances, losses = zip(*parts, strict=True)
        return torch.cat(distances), torch.cat(losses)

    def compare_each(
        self, finals: Sequence[Tensor], distance: Distance
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """:meth:`compare` of several runs, whose states go through the head together."""
        count = len(self._final)
        together = self._rows // count
        for start in range(0, len(finals), max(1, together)):
            some = finals[start : start + max(1, together)]
            if len(some) == 1:
                yield self.compare(some[0], distance)
                continue
            for logits in self._model.unembed(torch.cat(list(some))).split(count):
                yield self._against(slice(0, count), logits, distance)

    def _against(self, part: slice, logits: Tensor, distance: Distance) -> tuple[Tensor, Tensor]:
        """Compare logits of some of the tokens with the clean ones."""
        found, clean = [], self._clean(part)
        for start in range(0, len(logits), self._block):
            here = slice(start, start + self._block)
            tokens = slice(part.start + start, min(part.start + start + self._block, part.stop))
            far = _distance(distance, clean[here], logits[here])
            found.append((far.cpu(), self._loss(logits[here], tokens)))
        distances, losses = zip(*found, strict=True)
        return torch.cat(distances), torch.cat(losses)

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, len(self._final), self._rows):
            yield slice(start, min(start + self._rows, len(self._final)))

    def _clean(self, part: slice) -> Tensor:
        if part.start in self._kept:
            return self._kept[part.start]
        logits = self._model.unembed(self._final[part])
        if self._keep:
            self._kept[part.start] = logits
        return logits

    def _loss(self, logits: Tensor, part: slice) -> Tensor:
        wanted = self._next[part].to(logits.device)
        known = logits.gather(1, wanted.clamp(min=0).unsqueeze(1))[:, 0]
        loss = (logits.logsumexp(-1) - known).double()
        return loss.masked_fill(wanted < 0, math.nan).cpu()


def _distance(distance: Distance, clean: Tensor, other: Tensor) -> Tensor:
    far = distance(clean, other)
    # Of the same logits, rounding alone would leave some distance.
    return far.masked_fill((other == clean).all(-1), 0.0)


def _following(model: LensModel, batch: Batch) -> Tensor:
    """The token after each kept one, ``[n]``; -1 where there is none to predict."""
    kept = batch.kept
    following = torch.full_like(kept.ids, -1)
    same = kept.text[1:] == kept.text[:-1]
    if not model.bidirectional:
        following[:-1] = kept.ids[1:].where(same, torch.full_like(kept.ids[1:], -1))
    return following.masked_fill(following >= model.d_vocab, -1)
