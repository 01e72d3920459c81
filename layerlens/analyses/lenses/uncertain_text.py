"""The numbers that say how sure a model was of each token of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.lenses.checks import against_model, rank_errors
from layerlens.analyses.lenses.next_token import targets_of
from layerlens.analyses.lenses.one_pass import LensPass, Row
from layerlens.analyses.texts.chosen_positions import Cells

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens
    from layerlens.run.head_rows import Head, Reduced


@dataclass(frozen=True)
class Certainty:
    """How sure a model was of each of the ``T`` tokens of a text; NaN and -1 for the first one.

    Attributes
    ----------
    surprisal
        ``[T]`` -ln of the token's probability; NaN where the head has no row for it.
    rank
        ``[T]`` int, 1 = the likeliest; -1 where there is none.
    entropy
        ``[T]`` nats.
    spread
        ``[T]`` nats, standard deviation of the log probability under the same prediction.
    top_id, top_probability
        ``[T, k]`` what was likeliest in its place.
    agreement
        ``[T]`` share of layers at which the likeliest token is that of the last.
    behind
        ``[T]`` how far the token's logit lies behind the largest.
    rank_errors
        How many ranks contradict the list of the likeliest tokens.
    largest_logit
        What tolerances are shares of.
    """

    surprisal: np.ndarray
    rank: np.ndarray
    entropy: np.ndarray
    spread: np.ndarray
    top_id: np.ndarray
    top_probability: np.ndarray
    agreement: np.ndarray
    behind: np.ndarray
    rank_errors: int
    largest_logit: float


def read_text(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    head: Head,
    reader: Reader,
    points: Sequence[Point],
    top_k: int,
    check: bool,
) -> Certainty:
    """Run one text and read every point of it.

    Parameters
    ----------
    tokens
        One text of two tokens or more.
    points
        The layers that are asked whether they agree.
    top_k
        How many of the likeliest tokens are kept, at least 2.
    check
        Whether the last position is held against the model's own logits.
    """
    cells = Cells(model, tokens)
    target = torch.from_numpy(targets_of(model, cells).id).to(head.device)
    chosen = target.clamp_min(0).unsqueeze(-1)
    tops: list[Tensor] = []
    last: list[Row] = []

    def done(row: Row) -> None:
        if row.index < len(points):
            tops.append(row.reduced.top_ids[:, 0])
        else:
            last.append(row)

    lens_pass = LensPass(
        model,
        tokens,
        cells,
        points,
        head,
        decoders=[reader.decode],
        reads=[reader.sites],
        chosen=chosen,
        top_k=top_k,
        done=done,
        tick=job.tick,
    )
    lens_pass.run()
    (final,) = last
    if check:
        against_model(job, lens_pass, final, tokens, cells)
    assert lens_pass.final is not None  # the pass has ended
    agreeing = torch.stack(tops) if tops else None
    return _certainty(final.reduced, lens_pass.final.spread, target, chosen, agreeing)


def _certainty(
    kept: Reduced, spread: Tensor, target: Tensor, chosen: Tensor, tops: Tensor | None
) -> Certainty:
    """What the rows say of the tokens behind them."""
    known = target >= 0
    logit, norm = kept.chosen[:, 0].double(), kept.log_norm.double()
    best = kept.top_logits[:, 0].double()
    agree = torch.full_like(norm, torch.nan)
    if tops is not None:
        agree = (tops == kept.top_ids[:, 0]).double().mean(0)
    return Certainty(
        surprisal=_behind((norm - logit).clamp_min(0).where(known, torch.nan)),
        rank=_behind((kept.above[:, 0] + 1).where(known, -1)),
        entropy=_behind(kept.entropy.double()),
        spread=_behind(spread.double()),
        top_id=_behind(kept.top_ids),
        top_probability=_behind((kept.top_logits.double() - norm[:, None]).exp()),
        agreement=_behind(agree),
        behind=_behind((best - logit).where(known, torch.nan)),
        rank_errors=rank_errors(kept, chosen),
        largest_logit=max(1.0, float(kept.top_logits.abs().max())),
    )


def _behind(rows: Tensor) -> np.ndarray:
    """Numbers of each row as those of the token behind it: the first token has none."""
    values: np.ndarray = rows.cpu().numpy()
    found = np.full_like(values, np.nan if values.dtype.kind == "f" else -1)
    found[1:] = values[:-1]
    return found
