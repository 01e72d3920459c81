"""What each kind of dictionary minimises on a batch of activations.

With ``x`` the activations, ``y`` what is decoded, ``f`` the features and ``W_j`` the rows of the
decoder, the error is ``|x - y|^2 / |x - mean|^2``, summed over the batch, for the kinds that
choose their features (topk, batchtopk), and the mean of ``|x - y|^2`` for the others, to which a
price of being on is added:

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
"""Kinds with ``k``; the others pay ``sparsity`` for what is on."""
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


def loss_of(
    kind: str, given: Parameters, x: Tensor, *, k: int, price: float, dead: Tensor, aux: int
) -> Loss:
    """The loss of a batch, recorded for autograd.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    given
        ``encoder [m, d]``, ``decoder [m, d]``, ``b_dec`` and what else the kind has.
    x
        ``[n, d]``.
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
        return _topk(given, x, k, dead, aux)
    centred = x - given["b_dec"]
    if kind == "gated":
        return _gated(given, x, centred, price)
    pre = centred @ given["encoder"].T + given["b_enc"]
    if kind == "batchtopk":
        return _batchtopk(given, x, pre, k, dead, aux)
    norms = given["decoder"].norm(dim=-1)
    if kind == "jumprelu":
        threshold = given["log_threshold"].exp()
        f = Jump.apply(pre, threshold)  # type: ignore[no-untyped-call]
        paid = Step.apply(pre, threshold).sum(-1).mean()  # type: ignore[no-untyped-call]
    else:
        f = pre.relu()
        paid = (f @ norms).mean()
    return _priced(x, f @ given["decoder"] + given["b_dec"], f, price * paid)


def _topk(given: Parameters, x: Tensor, k: int, dead: Tensor, aux: int) -> Loss:
    with torch.no_grad():
        pre = (x - given["b_dec"]) @ given["encoder"].T + given["b_enc"]
        best = pre.topk(k, dim=-1)
    inputs = (x, given["encoder"], given["b_enc"], given["b_dec"])
    value = Chosen.apply(*inputs, best.indices, best.values).relu()  # type: ignore[no-untyped-call]
    y = weighted_rows(best.indices, value, given["decoder"]) + given["b_dec"]
    on = torch.zeros(len(dead), dtype=torch.bool)
    on[best.indices[best.values > 0]] = True
    share = _unexplained(x, y)
    total = share + _revived(given, x, pre, (x - y).detach(), dead, aux)
    return Loss(total, share.item(), on, float((best.values > 0).sum()) / len(x))


def _batchtopk(given: Parameters, x: Tensor, pre: Tensor, k: int, dead: Tensor, aux: int) -> Loss:
    f = pre.relu()
    cut = f.detach().flatten().topk(k * len(x)).values[-1]
    f = f * (f >= cut)
    y = f @ given["decoder"] + given["b_dec"]
    share = _unexplained(x, y)
    total = share + _revived(given, x, pre.detach(), (x - y).detach(), dead, aux)
    return Loss(total, share.item(), *_use(f), float(cut))


def _gated(given: Parameters, x: Tensor, centred: Tensor, price: float) -> Loss:
    along = centred @ given["encoder"].T
    gate = along + given["b_gate"]
    f = (along * given["r_mag"].exp() + given["b_mag"]).relu() * (gate > 0)
    open_ = gate.relu()
    paid = (open_ @ given["decoder"].norm(dim=-1)).mean()
    alone = open_ @ given["decoder"].detach() + given["b_dec"].detach()
    extra = (x - alone).square().sum(-1).mean()
    return _priced(x, f @ given["decoder"] + given["b_dec"], f, price * paid + extra)


def _priced(x: Tensor, y: Tensor, f: Tensor, more: Tensor) -> Loss:
    total = (x - y).square().sum(-1).mean() + more
    return Loss(total, _unexplained(x, y).item(), *_use(f))


def _use(f: Tensor) -> tuple[Tensor, float]:
    on = f.detach() > 0
    return on.any(0), float(on.sum()) / len(f)


def _unexplained(x: Tensor, y: Tensor) -> Tensor:
    spread = (x - x.mean(0)).square().sum().clamp_min(torch.finfo(x.dtype).tiny)
    return (x - y).square().sum() / spread


def _revived(
    given: Parameters, x: Tensor, pre: Tensor, error: Tensor, dead: Tensor, aux: int
) -> Tensor:
    """What the dead features with the largest pre-activations leave of the error."""
    number = min(aux, int(dead.sum()))
    if not number:
        return x.new_zeros(())
    best = pre.masked_fill(~dead, -torch.inf).topk(number, dim=-1)
    inputs = (x, given["encoder"], given["b_enc"], given["b_dec"])
    value = Chosen.apply(*inputs, best.indices, best.values).relu()  # type: ignore[no-untyped-call]
    found = weighted_rows(best.indices, value, given["decoder"])
    spread = error.square().sum().clamp_min(torch.finfo(x.dtype).tiny)
    return DEAD_SHARE * (error - found).square().sum() / spread
