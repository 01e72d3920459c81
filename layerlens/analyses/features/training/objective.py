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

from collections.abc import Mapping
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


def loss_of(
    kind: str, given: Parameters, batch: Batch, *, k: int, price: float, dead: Tensor, aux: int
) -> Loss:
    """The loss of a batch, recorded for autograd.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    given
        ``encoder [m, d]``, ``decoder [m, o]``, ``b_dec``, what else the kind has, and ``skip
        [o, d]`` where there is an affine path beside the features.
    batch
        What is learned from.
    k
        Features for each activation, of the kinds that choose.
    price
        Weight of being on, of the others.
    dead
        ``[m]`` bool: which features count as dead.
    aux
        How many dead ones try to explain the error, at most.
    """
    if kind == "topk":
        return _topk(given, batch, k, dead, aux)
    centred = batch.read - batch.centre
    if kind == "gated":
        return _gated(given, batch, centred, price)
    pre = centred @ given["encoder"].T + given["b_enc"]
    if kind == "batchtopk":
        return _batchtopk(given, batch, pre, k, dead, aux)
    norms = given["decoder"].norm(dim=-1)
    if kind == "jumprelu":
        threshold = given["threshold"]
        f = Jump.apply(pre, threshold)  # type: ignore[no-untyped-call]
        paid = Step.apply(pre, threshold).sum(-1).mean()  # type: ignore[no-untyped-call]
    else:
        f = pre.relu()
        paid = (f @ norms).mean()
    return _priced(batch, _whole(given, batch, f @ given["decoder"]), f, price * paid)


def _whole(given: Parameters, batch: Batch, found: Tensor) -> Tensor:
    """What is written: what features write, the bias, and the path beside them."""
    found = found + given["b_dec"]
    return found + batch.read @ given["skip"].T if "skip" in given else found


def _chosen(given: Parameters, batch: Batch, index: Tensor, value: Tensor) -> Tensor:
    """The pre-activations of a few features, with gradients for these alone."""
    inputs = (batch.read, given["encoder"], given["b_enc"], batch.centre)
    found: Tensor = Chosen.apply(*inputs, index, value).relu()  # type: ignore[no-untyped-call]
    return found


def _topk(given: Parameters, batch: Batch, k: int, dead: Tensor, aux: int) -> Loss:
    with torch.no_grad():
        pre = (batch.read - batch.centre) @ given["encoder"].T + given["b_enc"]
        best = pre.topk(k, dim=-1)
    value = _chosen(given, batch, best.indices, best.values)
    y = _whole(given, batch, weighted_rows(best.indices, value, given["decoder"]))
    on = torch.zeros(len(dead), dtype=torch.bool)
    on[best.indices[best.values > 0]] = True
    share = _unexplained(batch.written, y)
    total = share + _revived(given, batch, pre, (batch.written - y).detach(), dead, aux)
    return Loss(total, share.item(), on, float((best.values > 0).sum()) / len(y))


def _batchtopk(
    given: Parameters, batch: Batch, pre: Tensor, k: int, dead: Tensor, aux: int
) -> Loss:
    f = pre.relu()
    cut = f.detach().flatten().topk(k * len(f)).values[-1]
    f = f * (f >= cut)
    y = _whole(given, batch, f @ given["decoder"])
    share = _unexplained(batch.written, y)
    total = share + _revived(given, batch, pre.detach(), (batch.written - y).detach(), dead, aux)
    return Loss(total, share.item(), *_use(f), float(cut))


def _gated(given: Parameters, batch: Batch, centred: Tensor, price: float) -> Loss:
    along = centred @ given["encoder"].T
    gate = along + given["b_gate"]
    f = (along * given["r_mag"].exp() + given["b_mag"]).relu() * (gate > 0)
    open_ = gate.relu()
    paid = (open_ @ given["decoder"].norm(dim=-1)).mean()
    held = {name: one.detach() for name, one in given.items()}
    alone = _whole(held, batch, open_ @ held["decoder"])
    extra = (batch.written - alone).square().sum(-1).mean()
    return _priced(batch, _whole(given, batch, f @ given["decoder"]), f, price * paid + extra)


def _priced(batch: Batch, y: Tensor, f: Tensor, more: Tensor) -> Loss:
    total = (batch.written - y).square().sum(-1).mean() + more
    return Loss(total, _unexplained(batch.written, y).item(), *_use(f))


def _use(f: Tensor) -> tuple[Tensor, float]:
    on = f.detach() > 0
    return on.any(0), float(on.sum()) / len(f)


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
