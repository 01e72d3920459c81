"""Tracked tokens by depth: which of them each state disposes the model to say, now or later."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.lenses.head_directions import HeadDirections
from layerlens.analyses.lenses.jacobian.steady import steadiness
from layerlens.analyses.lenses.jacobian.token_fit import CONTROLS, IDS
from layerlens.analyses.lenses.points import Point, lens_points
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.result.fitted import Fitted
from layerlens.result.opening import open_saved
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

KIND = "jacobian_tokens"
LEAST = 2
"""Controls without which there is no spread to measure by."""
SAME = 1e-3
"""How far the order of the logits may be from that of the readings of the last state: 1 - r."""

_CELL = ("tracked", "point", "position")
VARIABLES = {
    "standing": Variable(
        _CELL, "float32", "sd", "reading of the token above random tokens', in their spread",
        signed=True, formula="(u_v J h - mean_c u_c J h) / sd_c u_c J h, over random tokens c",
    ),
    "standing_logit": Variable(
        _CELL, "float32", "sd", "the same without the lens: the token's own direction alone",
        signed=True, formula="(u_v h - mean_c u_c h) / sd_c u_c h, over random tokens c",
    ),
    "rank": Variable(_CELL, "int32", "1", "rank among all tracked and random tokens, 1 = best"),
    "rank_logit": Variable(_CELL, "int32", "1", "the same without the lens"),
}  # fmt: skip


def rows_of(model: LensModel, lens: Fitted | str | os.PathLike[str]) -> Fitted:
    """Return the lens, opened where it is a path.

    Raises
    ------
    InputError
        It is no lens of tracked tokens, is of another model, or has too few random tokens.
    """
    found = open_saved(lens) if isinstance(lens, str | os.PathLike) else lens
    if not isinstance(found, Fitted) or found.kind != KIND:
        what = f"a {found.kind}" if isinstance(found, Fitted) else f"a {type(found).__name__}"
        raise InputError(
            f"lens is {what}; expected what ll.fit_lens(..., kind='jacobian', tracked=[...]) "
            "returns, or the path of its file."
        )
    found.require(model, KIND)
    if int(found[CONTROLS]) < LEAST:
        raise InputError(
            f"This lens was fitted with {int(found[CONTROLS])} random tokens, by which a reading "
            f"is measured: fit it with controls={LEAST} or more."
        )
    return found


def points_in(model: LensModel, lens: Fitted) -> list[Point]:
    """The points that a lens has rows for, and the output of the last block."""
    known = {name.rpartition(".")[0] for name in lens} | {f"{model.n_layers - 1}_post"}
    kinds = ("embed", "mid", "post", "attn_out", "mlp_out")
    return [point for point in lens_points(model, kinds) if point.label in known]


def count_work(
    model: LensModel, tokens: Tokens, *, lens: Fitted | str, positions: Any, **_: Any
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    found = rows_of(model, lens)
    cells = len(Cells(model, tokens, positions))
    products = 2.0 * cells * sum(found[name].numel() for name in found)
    return Work(1, 0, 8 * cells * model.d_model, operations=products)


@analysis(
    name="token_dispositions",
    question="Which of these tokens does each state dispose the model to say, now or later?",
    source="Gurnee et al. (2026), Verbalizable Representations Form a Global Workspace in "
    "Language Models",
    cost="1 pass",
    view="grid",
    lead="Each cell is how far a token's reading stands above those of random tokens at that depth "
    "and position, in their spread; beside it the same by the logit lens, which only sees what the "
    "last layers would read from the state as it is.",
    variables=VARIABLES,
    work=count_work,
    needs=("head", "causal"),
)
def token_dispositions(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    lens: Fitted | str | os.PathLike[str],
    positions: Any = None,
) -> None:
    """Read tracked tokens off each state through their rows of a Jacobian lens.

    Parameters
    ----------
    lens
        What ``ll.fit_lens(model, texts, kind="jacobian", tracked=[...])`` returned, or the path of
        its file.
    positions
        Which positions: an index, a slice, a list, or the text of a span; None for all.

    Notes
    -----
    Over (``tracked``, ``point``, ``position``): ``standing`` is the token's reading less the mean
    of those of the random tokens of the lens, over their standard deviation there; ``rank`` counts
    all tokens of the lens, from 1. Biases of the head and of the final norm are left out, and so
    is the size of a state: readings of one state can be compared, and there are no probabilities.
    The last point has no lens: both readings are the model's own there.

    Raises
    ------
    InputError
        The lens is of another kind or model, or has fewer than 2 random tokens.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> rows = ll.fit_lens(
    ...     model, texts, kind="jacobian", tracked=["dog", "owl"], controls=4, points="post",
    ...     positions_skipped=2,
    ... )
    >>> found = ll.token_dispositions(model, "cat dog owl cat", lens=rows)
    >>> found.data["rank"].dims, found.data["rank"].sel(point="1_post").values[0, -1].item()
    (('tracked', 'point', 'position'), 1)
    """
    found = rows_of(model, lens)
    cells = Cells(model, tokens, positions)
    points = points_in(model, found)
    ids = [int(token) for token in found[IDS]]
    tracked = ids[: len(ids) - int(found[CONTROLS])]
    head = HeadDirections.of(model)
    assert head is not None  # the rows were fitted on this very model
    plain = head.rows(ids)
    _declare(job, model, points, tracked, cells)
    places = {point.site: place for place, point in enumerate(points)}
    last: list[Tensor] = []

    def read(site: Site, state: Tensor) -> None:
        job.tick()
        place = places[site]
        states = cells.pick(state).float()
        own = plain.to(states)
        name = f"{points[place].label}.rows"
        rows = found[name].to(states) if name in found else own
        readings = {"": states @ rows.T, "_logit": states @ own.T}
        if place == len(points) - 1:
            last.append(readings["_logit"])
        arrays: dict[str, np.ndarray] = {}
        for end, reading in readings.items():
            arrays |= {
                name + end: array for name, array in _measured(reading, len(tracked)).items()
            }
        job.emit({"point": place}, {name: _placed(cells, array) for name, array in arrays.items()})
        job.progress(place + 1, len(points), "reading")

    logits = forward(model, tokens, list(places), read, logits="all")
    assert logits is not None  # the contract asked for a head
    job.note(passes=1)
    _check(job, head, ids, last[0], cells.pick(logits))
    job.remark(steadiness(found))


def _declare(
    job: Job, model: LensModel, points: Sequence[Point], tracked: Sequence[int], cells: Cells
) -> None:
    strings = np.array([model.token_string(token) for token in tracked])
    job.declare(
        {"tracked": len(tracked), "point": len(points), **cells.sizes()},
        {
            "tracked": (("tracked",), np.array(tracked, dtype=np.int32)),
            "tracked_token": (("tracked",), strings),
            "point": (("point",), np.array([point.label for point in points])),
            "layer": (("point",), np.array([point.layer for point in points], dtype=np.int32)),
            **cells.coords(),
        },
    )


def _measured(readings: Tensor, tracked: int) -> dict[str, np.ndarray]:
    """Standing and rank ``[n, tracked]`` of readings ``[n, token]``, random tokens at the end."""
    own, random = readings[:, :tracked], readings[:, tracked:]
    spread = random.std(-1, keepdim=True)
    standing = (own - random.mean(-1, keepdim=True)) / spread
    rank = 1 + (readings[:, None, :] > own[:, :, None]).sum(-1)
    return {"standing": standing.cpu().numpy(), "rank": rank.cpu().numpy().astype(np.int32)}


def _placed(cells: Cells, values: np.ndarray) -> np.ndarray:
    """Values ``[n, tracked]`` as ``[(batch,) tracked, position]``."""
    missing = float("nan") if values.dtype.kind == "f" else -1
    return np.moveaxis(cells.spread(values, missing), -1, -2)


def _check(
    job: Job, head: HeadDirections, ids: Sequence[int], last: Tensor, logits: Tensor
) -> None:
    """Hold the readings of the last state to the model's own logits, less their constants."""
    own = logits[:, list(ids)].float()
    if head.matrix.softcap is not None:
        own = head.matrix.softcap * torch.atanh(own / head.matrix.softcap)
    own = own - head.constants(ids).to(own)
    first, second = (part - part.mean(-1, keepdim=True) for part in (own, last.to(own)))
    likeness = torch.nn.functional.cosine_similarity(first, second, dim=-1)
    job.check(
        "last state", 1 - float(likeness.min()), SAME,
        "its readings against the model's own logits less what does not depend on the state: one "
        "less their smallest correlation",
    )  # fmt: skip
