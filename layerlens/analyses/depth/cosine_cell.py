"""What a cell of ``first_cosine`` opens: how alike the token's state is to those of all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.sweeps.clean_pass import cosine
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_cosine(job: Job, model: LensModel, tokens: Tokens, place: Place, **_: Any) -> Opened:
    """Read the states after the layer once more, and compare the token's with every other's.

    A cell of a layer alone stands for the first token.
    """
    layer, at = int(place.need("layer")), int(place.labels.get("position", 0))
    text = row_of(tokens, 0)
    held: list[Tensor] = []
    job.tick()
    site = Site("resid_post", layer)
    forward(model, text, [site], lambda _, state: held.append(state[0]), logits=None)
    found: np.ndarray = cosine(held[0], held[0][at].expand_as(held[0])).numpy()
    strings = text.strings[0]
    order = [i for i in np.argsort(-found, kind="stable").tolist() if i != at]
    rows = [[i, strings[i], float(found[i])] for i in order]
    marks = np.nan_to_num(found).clip(0, 1)
    return Opened(
        title=f"States after layer {layer} like that of {strings[at]!r} (position {at})",
        code=f"ll.record(model, {text.ids[0].tolist()}, 'resid_post.{layer}')"
        f"['resid_post.{layer}'][0]",
        tables=[Table(["position", "token", "cosine"], rows)],
        texts=[list(zip(strings, marks.tolist(), strict=True))],
    )
