"""What a cell of ``causal_trace`` opens: the next token spoilt by noise, and restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.sweeps.layer_windows import window_layers
from layerlens.analyses.texts.subjects import each, subject_positions
from layerlens.analyses.texts.text_pair import row_of
from layerlens.analyses.tracing.trace_text import (
    WINDOWS,
    embedding_std,
    noise_samples,
    restored,
    trace_sites,
)
from layerlens.run.base import record_base
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_traced(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    subject: Any,
    kind: str,
    window: int | None,
    noise: float,
    samples: int,
    seed: int,
    **_: Any,
) -> Opened:
    """Run the text clean, spoilt and restored at one place; the last two as means over samples."""
    layer, column = int(place.need("layer")), int(place.need("position"))
    text = row_of(tokens, 0)
    where = subject_positions(model, text, each(subject, 1, tokens.single, "subject")[0])
    sites = trace_sites(model, kind)
    clean = record_base(model, text, [model.anatomy.entry, *sites])
    inside = window_layers(layer, WINDOWS[kind] if window is None else window, model.n_layers)
    put_back = [restored(clean, site, (column,)) for site in sites if site.block in inside]
    spoilt, back = [], []
    std = noise * embedding_std([clean], [where])
    for value in noise_samples(clean, where, samples, seed, std):
        job.tick()
        noisy = Change(model.anatomy.entry, "add", value, positions=where)
        spoilt.append(chances_with(model, clean, [noisy]))
        back.append(chances_with(model, clean, [noisy, *put_back]))
    conditions = {
        "clean": chances(model, clean.final),
        "spoilt": np.mean(spoilt, axis=0),
        "restored": np.mean(back, axis=0),
    }
    return Opened(
        title=f"The next token with {kind} of layer {layer} restored at "
        f"{text.strings[0][column]!r}, mean over {samples} samples of noise",
        code=place.call,
        tables=[next_token_table(model, conditions)],
    )
