"""What each kind of dictionary minimises on a batch of activations.

With ``x`` the activations (of a transcoder those that it writes), ``y`` what is decoded, ``f`` the
features and ``W_j`` the rows of the decoder, the error is ``|x - y|^2 / |x - mean|^2``, summed over
the batch, for the kinds that choose their features (topk, batchtopk), and the mean of ``|x - y|^2``
for the others, to which a price of being on is added (``price.py`` steers it):

=========  ========================================================================================
topk       the ``k`` largest pre-activations of a token; Gao et al. (2024), Scaling and Evaluating
           Sparse Autoencoders
batchtopk  the ``k n`` largest of a batch of ``n``; Bussmann, Leask and Nanda (2024), BatchTopK
           Sparse Autoencoders
relu       price ``sum_j f_j |W_j|``; Bricken et al. (2023), Towards Monosemanticity, weighted as in
           Conerly et al. (2024), Update on how we train SAEs
jumprelu   price ``sum_j [pre_j > threshold_j]``; Rajamanoharan et al. (2024), Jumping Ahead
gated      price ``sum_j relu(gate_j) |W_j|``, and the error of what the gate alone would decode;
           Rajamanoharan et al. (2024), Improving Dictionary Learning with Gated SAEs
=========  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from layerlens.analyses.features.dictionaries.dictionary import weighted_rows
from layerlens.analyses.features.training.gradients import Chosen, Jump, Step

KINDS = ("topk", "batchtopk", "relu", "jumprelu", "gated")
CHOOSING = ("topk", "batchtopk")
"""Kinds that choose ``k`` features; the others pay for what is on."""
DEAD_SHARE = 1 / 32
"""Weight of what dead features explain of the error; Gao et al. (2024)."""

Parameters = Mapping[str, Tensor]


class Loss(NamedTuple):
    """What came of a batch.

    Attributes
    ----------
    total
        What is minimised.
    error
        ``|x - y|^2 / |x - mean|^2``, the share of the variance that is not explained.
    on
        [m] bool: which features were on for any of the batch.
    l0
        How many were on for one activation, in the mean.
    cut
        The smallest pre-activation that a batchtopk one let pass; else 0.
    """

    total: Tensor
    error: float
    on: Tensor
    l0: float
    cut: float = 0.0


class Batch(NamedTuple):
    """What a dictionary reads, and what it has to write.

    Attributes
    ----------
    read, written
        ``[n, d]`` and ``[n, o]``; the same of an autoencoder.
    centre
        ``[d]``: what is taken from what is read, ``b_dec`` of an autoencoder.
    """

    read: Tensor
    written: Tensor
    centre: Tensor


class Encoded(NamedTuple):
    """The features of a batch.

    Attributes
    ----------
    value
        ``[n, m]``; ``[n, k]`` where only those of `index` are on.
    places
        ``[n, k]``: which features; None for all.
    pre
        ``[n, m]`` without gradients: what dead features are woken by.
    paid
        What their being on costs, before its price.
    gates
        ``[n, m]``: what a gate alone would decode, of gated ones.
    cut
        As of `Loss`.
    """

    value: Tensor
    places: Tensor | None
    pre: Tensor
    paid: Tensor
    gates: Tensor | None = None
    cut: float = 0.0

    def decoded(self, rows: Tensor) -> Tensor:
        """``[n, o]``: what they write along rows ``[m, o]``."""
        return _sum(self.value, self.places, rows)

    def use(self) -> tuple[Tensor, float]:
        """Which were on for any of the batch, and how many for one of it."""
        positive = self.value.detach() > 0
        if self.places is None:
            return positive.any(0), float(positive.sum()) / len(positive)
        on = torch.zeros(self.pre.shape[1], dtype=torch.bool)
        on[self.places[positive]] = True
        return on, float(positive.sum()) / len(positive)


def loss_of(
    kind: str, given: Parameters, batch: Batch, *, k: int, price: float, dead: Tensor, aux: int
) -> Loss:
    """The loss of a batch, recorded for autograd; see :func:`losses_of`.

    Parameters
    ----------
    given
        ``encoder [m, d]``, ``decoder [m, o]``, ``b_dec``, what else the kind has, and ``skip
        [o, d]`` where there is an affine path beside the features.
    """
    return losses_of(kind, [given], [batch], k=k, price=price, dead=[dead], aux=aux)[0]


def losses_of(
    kind: str,
    given: Sequence[Parameters],
    batches: Sequence[Batch],
    *,
    k: int,
    price: float,
    dead: Sequence[Tensor],
    aux: int,
) -> list[Loss]:
    """The loss of each layer of a batch; the sum of their totals is minimised.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    given
        Of each layer, as of :func:`loss_of`; but a ``decoder [m, r o]`` may write into the ``r``
        layers from its own on, side by side, and what a layer is given is the sum over those that
        write into it.
    batches
        What each layer reads and has to write.
    k
        Features for each activation, of the kinds that choose.
    price
        Weight of being on, of the others.
    dead
        ``[m]`` bool of each layer: which features count as dead.
    aux
        How many dead ones of a layer try to explain the error, at most.
    """
    pairs = list(zip(given, batches, strict=True))
    found = [_encoded(kind, *pair, k) for pair in pairs]
    writes = _whole(
        given, batches, [f.decoded(one["decoder"]) for f, one in zip(found, given, strict=True)]
    )
    shares = [_unexplained(batch.written, y) for batch, y in zip(batches, writes, strict=True)]
    if kind in CHOOSING:
        errors = [(batch.written - y).detach() for batch, y in zip(batches, writes, strict=True)]
        each = zip(pairs, found, dead, strict=True)
        woken = [_revived(*pair, f.pre, torch.cat(errors[i:], 1), asleep, aux)
                 for i, (pair, f, asleep) in enumerate(each)]  # fmt: skip
        totals = [share + more for share, more in zip(shares, woken, strict=True)]
    else:
        totals = [_squared(batch, y) + price * f.paid
                  for batch, y, f in zip(batches, writes, found, strict=True)]  # fmt: skip
    if kind == "gated":
        alone = _alone(given, batches, found)
        totals = [total + _squared(batch, y)
                  for total, batch, y in zip(totals, batches, alone, strict=True)]  # fmt: skip
    return [
        Loss(total, share.item(), *f.use(), f.cut)
        for total, share, f in zip(totals, shares, found, strict=True)
    ]


def _encoded(kind: str, given: Parameters, batch: Batch, k: int) -> Encoded:
    """The features of one layer."""
    centred = batch.read - batch.centre
    free = centred.new_zeros(())
    if kind == "topk":
        with torch.no_grad():
            pre = centred @ given["encoder"].T + given["b_enc"]
            best = pre.topk(k, dim=-1)
        value = _chosen(given, batch, best.indices, best.values)
        return Encoded(value, best.indices, pre, free)
    norms = given["decoder"].norm(dim=-1)
    if kind == "gated":
        along = centred @ given["encoder"].T
        gate = along + given["b_gate"]
        f = (along * given["r_mag"].exp() + given["b_mag"]).relu() * (gate > 0)
        return Encoded(f, None, gate.detach(), (gate.relu() @ norms).mean(), gate.relu())
    pre = centred @ given["encoder"].T + given["b_enc"]
    if kind == "batchtopk":
        f = pre.relu()
        cut = f.detach().flatten().topk(k * len(f)).values[-1]
        return Encoded(f * (f >= cut), None, pre.detach(), free, cut=float(cut))
    if kind == "jumprelu":
        threshold = given["threshold"]
        f = Jump.apply(pre, threshold)  # type: ignore[no-untyped-call]
        paid = Step.apply(pre, threshold).sum(-1).mean()  # type: ignore[no-untyped-call]
        return Encoded(f, None, pre.detach(), paid)
    f = pre.relu()
    return Encoded(f, None, pre.detach(), (f @ norms).mean())


def _whole(
    given: Sequence[Parameters], batches: Sequence[Batch], written: Sequence[Tensor]
) -> list[Tensor]:
    """What is written into each layer: what features write, the bias, and the path beside them."""
    width = batches[0].written.shape[1]
    whole = []
    for j, (one, batch) in enumerate(zip(given, batches, strict=True)):
        into = [w[:, (j - i) * width : (j - i + 1) * width] for i, w in enumerate(written[: j + 1])]
        found = sum(part for part in into if part.shape[1]) + one["b_dec"]
        whole.append(found + batch.read @ one["skip"].T if "skip" in one else found)
    return whole


def _alone(
    given: Sequence[Parameters], batches: Sequence[Batch], found: Sequence[Encoded]
) -> list[Tensor]:
    """What gates alone would write into each layer, with decoders that learn nothing of it."""
    held = [{name: array.detach() for name, array in one.items()} for one in given]
    written = [_sum(f.gates, None, one["decoder"])
               for f, one in zip(found, held, strict=True) if f.gates is not None]  # fmt: skip
    return _whole(held, batches, written)


def _chosen(given: Parameters, batch: Batch, index: Tensor, value: Tensor) -> Tensor:
    """The pre-activations of a few features, with gradients for these alone."""
    inputs = (batch.read, given["encoder"], given["b_enc"], batch.centre)
    found: Tensor = Chosen.apply(*inputs, index, value).relu()  # type: ignore[no-untyped-call]
    return found


def _sum(value: Tensor, index: Tensor | None, rows: Tensor) -> Tensor:
    return value @ rows if index is None else weighted_rows(index, value, rows)


def _squared(batch: Batch, y: Tensor) -> Tensor:
    return (batch.written - y).square().sum(-1).mean()


def _unexplained(x: Tensor, y: Tensor) -> Tensor:
    spread = (x - x.mean(0)).square().sum().clamp_min(torch.finfo(x.dtype).tiny)
    return (x - y).square().sum() / spread


def _revived(
    given: Parameters, batch: Batch, pre: Tensor, error: Tensor, dead: Tensor, aux: int
) -> Tensor:
    """What the dead features with the largest pre-activations leave of the error."""
    number = min(aux, int(dead.sum()))
    if not number:
        return error.new_zeros(())
    best = pre.masked_fill(~dead, -torch.inf).topk(number, dim=-1)
    value = _chosen(given, batch, best.indices, best.values)
    found = weighted_rows(best.indices, value, given["decoder"])
    spread = error.square().sum().clamp_min(torch.finfo(error.dtype).tiny)
    return DEAD_SHARE * (error - found).square().sum() / spread
