"""How a lens reads a state: as the model's own head does, or through a map that was fitted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.lenses import default_lens
from layerlens.analyses.lenses.jacobian.steady import steadiness
from layerlens.analyses.lenses.points import sublayers_of
from layerlens.errors import InputError
from layerlens.result.fitted import Fitted
from layerlens.result.opening import open_saved

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.sites import Site

LOGIT, SUBLAYER = "logit", "sublayer"
KINDS = {
    "tuned_lens": "tuned",
    "ridge_lens": "ridge",
    "bias_lens": "bias",
    "jacobian_lens": "jacobian",
}
"""Kinds of ``Fitted`` that are a lens, and how each is called.

Their arrays are named by the label of the point that they read: ``"7_post.weight"``
``[d_model, d_model]`` and ``"7_post.bias"`` ``[d_model]`` of ``h + h @ weight.T + bias``, in which
either may be left out, or ``"7_post.jacobian"`` ``[d_model, d_model]`` of ``h @ jacobian.T``.

Their scores, ``scores["test"]`` and ``scores["train"]``, are named ``"<measure>/<label>"`` and read
as arrays over points by :func:`layerlens.analyses.lenses.scores.lens_scores`. Measures are ``kl``
(of the lens from the final answer, nats), ``ce`` (next token, nats) and ``top1`` (share of tokens
whose final answer is on top) of the lens itself; the same with ``_logit``, ``_bias``, ``_ridge``
for the simpler lenses on the same tokens and with ``_uniform`` for a guess that makes no difference
between tokens, the control; each of them with ``_low`` and ``_high`` behind it for the 95 %
interval over texts (``kl_low``, ``kl_logit_high``), where there are several; ``identity`` is 1
where no map was better than none, ``ridge`` the penalty of a ridge map. A score that is not known
is left out.
"""

Lens = str | os.PathLike[str] | Fitted
"""What is given as a lens: ``"logit"``, what ``ll.fit_lens`` returns, or the path of its file.

For the default model also ``"bias"``, ``"ridge"`` or ``"tuned"``, once it was fitted (see
`layerlens.analyses.lenses.default_lens`)."""


@dataclass(frozen=True, eq=False)
class Reader:
    """One way to turn a state into what the model's head is given.

    Parameters
    ----------
    model
        Whose head reads.
    name
        How it is called: ``"logit"``, ``"tuned"``, ``"ridge"``, ``"bias"``, ``"jacobian"``,
        ``"sublayer"``.
    fitted
        What was fitted; None for the logit lens, which has nothing to fit.
    """

    model: LensModel
    name: str = LOGIT
    fitted: Fitted | None = None
    _maps: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Labels of the points that it has a map for, in their order; None: it reads any."""
        if self.fitted is None:
            return None
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.fitted))

    def require(self, points: Sequence[Point]) -> None:
        """Refuse points that it has no map for; the last state needs none.

        Raises
        ------
        InputError
            Names the points, and those that it can read.
        """
        known = self.labels
        missing = [p.label for p in points if not self._reads_as_is(p) and p.label not in known]  # type: ignore[operator]
        if missing:
            raise InputError(
                f"This {self.name} lens was fitted for {', '.join(known or ())}, not for "
                f"{', '.join(missing)}: ask for points that it has, or fit those too."
            )

    def sites(self, point: Point) -> tuple[Site, ...]:
        """Where the pass has what is read at a point: the sum of these."""
        return (point.site,)

    def cost(self, points: Sequence[Point], rows: int) -> tuple[int, int]:
        """Bytes above the model's own, and operations, of reading `rows` states at each point."""
        if self.fitted is None:
            return 0, 0
        labels = {point.label for point in points}
        maps = [a for name, a in self.fitted.arrays.items() if name.rpartition(".")[0] in labels]
        away = self.model.device.type != "cpu"
        moved = sum(4 * a.numel() for a in maps if away or a.dtype != torch.float32)
        products = 3 * 4 * rows * self.model.d_model
        return moved + products, 2 * rows * sum(a.numel() for a in maps)

    def decode(self, point: Point, state: Tensor) -> Tensor:
        """What the head is given for states ``[n, d_model]`` at a point."""
        if self._reads_as_is(point):
            return self.model.head_input(state)
        jacobian = self._map(f"{point.label}.jacobian", state)
        if jacobian is not None:
            return self.model.head_input((state.float() @ jacobian.T).to(state.dtype))
        weight = self._map(f"{point.label}.weight", state)
        bias = self._map(f"{point.label}.bias", state)
        return self.model.head_input(moved(state, weight, bias))

    def _reads_as_is(self, point: Point) -> bool:
        """Whether a state goes to the head as it is: for the logit lens any, else the last."""
        last = point.is_state and point.label == f"{self.model.n_layers - 1}_post"
        return self.fitted is None or (last and point.label not in (self.labels or ()))

    def _map(self, name: str, state: Tensor) -> Tensor | None:
        """An array beside the state, in float32; it is moved there once."""
        if self.fitted is None or name not in self.fitted:
            return None
        if name not in self._maps or self._maps[name].device != state.device:
            self._maps[name] = self.fitted[name].to(state.device, torch.float32)
        return self._maps[name]


class SublayerReader(Reader):
    """Reads what the sublayers before a point write, without the stream that they add it to."""

    def __init__(self, model: LensModel) -> None:
        super().__init__(model, SUBLAYER)

    def require(self, points: Sequence[Point]) -> None:
        """Refuse states that no sublayer is known to lead to.

        Raises
        ------
        InputError
            Names them.
        """
        after = [point for point in points if point.layer >= 0]
        missing = [point.label for point in after if not sublayers_of(self.model, point)]
        if missing:
            raise InputError(
                f"No sublayer of this model is known to lead to {', '.join(missing)}, so the "
                "sublayer lens has nothing to read there: ask for other points, or another lens."
            )

    def sites(self, point: Point) -> tuple[Site, ...]:
        """The outputs of the sublayers before a point; for ``embed`` that itself."""
        return sublayers_of(self.model, point) or (point.site,)


def moved(state: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """``h + h @ weight.T + bias`` in the state's dtype, computed in float32."""
    wide = state.float()
    there = wide if weight is None else torch.addmm(wide, wide, weight.T)
    return (there if bias is None else there + bias).to(state.dtype)


def reader_of(model: LensModel, lens: Lens = LOGIT) -> Reader:
    """What a lens that was given by name, by file or as ``Fitted`` reads with.

    Raises
    ------
    InputError
        It is no lens, or it was fitted on another model.
    ResultError
        The file cannot be opened.
    """
    if isinstance(lens, str) and lens == LOGIT:
        return Reader(model)
    if isinstance(lens, str) and lens == SUBLAYER:
        raise InputError(
            "The sublayer lens reads what sublayers write, and here states are read: give 'logit' "
            "or a lens that was fitted, or ask ll.logit_lens."
        )
    if isinstance(lens, str) and lens in default_lens.KINDS:
        lens = default_lens.find(lens)
    found = open_saved(lens) if isinstance(lens, str | os.PathLike) else lens
    if not isinstance(found, Fitted) or found.kind not in KINDS:
        what = f"a {found.kind}" if isinstance(found, Fitted) else f"a {type(found).__name__}"
        hint = "; ll.token_dispositions reads this one" if what == "a jacobian_tokens" else ""
        raise InputError(
            f"lens is {what}; expected 'logit', what ll.fit_lens returns, or the path of its "
            f"file{hint}."
        )
    found.require(model)
    return Reader(model, KINDS[found.kind], found)


def told_reader(job: Job, model: LensModel, lens: Lens = LOGIT) -> Reader:
    """As `reader_of`; where the lens is one whose steadiness counts, the result says how steady."""
    reader = reader_of(model, lens)
    tell_steadiness(job, reader)
    return reader


def tell_steadiness(job: Job, reader: Reader) -> None:
    """Remark how steady a Jacobian lens is."""
    if reader.fitted is not None and reader.name == "jacobian":
        job.remark(steadiness(reader.fitted))
