"""How alike each token's state is to that of the first token, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.depth.cosine_cell import open_cosine
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.feed import ANY_KIND
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL = ("layer", "position")
_ROW = ("layer",)
VARIABLES = {
    "cosine": Variable(_CELL, "float64", "1", "cosine with the first token's state", signed=True),
    "cosine_chance": Variable(
        _CELL, "float64", "1", "mean cosine with the states of the other tokens", signed=True
    ),
    "decorrelation": Variable(
        _ROW, "float64", "1", "mean squared cosine with the first token's state"
    ),
    "decorrelation_chance": Variable(
        _ROW, "float64", "1", "mean squared cosine of two other tokens' states"
    ),
}


def count_work(model: LensModel, tokens: Tokens) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    longest = max(tokens.lengths)
    return Work(1, 0, longest * (2 * longest + 3 * model.d_model) * 8)


@analysis(
    name="first_cosine",
    question="Which tokens' states become like that of the first token, and in which layers?",
    source="Anand et al. (2025), Mitigating Attention Sinks and Massive Activations in "
    "Audio-Visual Speech Recognition with LLMs, arXiv 2510.22603 (cosine with the first "
    "token; decorrelation)",
    cost="1 pass",
    view="grid",
    lead="A strongly blue cell is a token whose state points where the first token's does; it is a "
    "sink like that one only where other tokens' states (cosine_chance) do not point there, too.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    opens=open_cosine,
)
def first_cosine(job: Job, model: LensModel, tokens: Tokens) -> None:
    """Cosine of each token's state with that of its text's first token, after every layer.

    The first token is an attention sink in many models; tokens further on that are sinks, too,
    have states that are nearly parallel to it. States of all tokens share a direction, so
    beside each cosine stands ``cosine_chance``: the mean cosine of the same state with those of
    the other tokens, the first and itself left out.

    Parameters
    ----------
    model
        From ``ll.load``.
    text
        A text or several, of two tokens or more each.

    Notes
    -----
    With ``c`` the cosine of two states after layer ``l``, ``decorrelation`` is the mean of
    ``c^2`` over all tokens but the first, each with the first: what the published loss is a
    multiple of (there the mean over layers, times 10,000). ``decorrelation_chance`` is the
    mean over pairs of other tokens. A state of zeros has no direction: NaN. A text of two
    tokens has no other ones: the controls of the second are NaN.

    Raises
    ------
    InputError
        A text has one token only.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.first_cosine(model, "cat dog owl cat")
    >>> float(found.data.cosine.sel(position=0).min().round(6))
    1.0
    """
    if min(tokens.lengths) < 2:
        raise InputError("A text of one token has nothing to be compared with: give longer texts.")
    cells = Cells(model, tokens)
    layers = np.arange(model.n_layers, dtype=np.int32)
    sizes = {"layer": model.n_layers, **cells.sizes()}
    job.declare(sizes, {"layer": (_ROW, layers), **cells.coords()})
    width, off, total = sizes["position"], 0.0, len(tokens.ids)
    for row in range(total):
        lead = {} if tokens.single else {"batch": row}

        def see(site: Site, state: Tensor, lead: dict[str, int] = lead) -> None:
            nonlocal off
            job.tick()
            found, here = cosines(state[0])
            off = max(off, here)
            rest = width - len(found["cosine"])
            for name in ("cosine", "cosine_chance"):
                found[name] = np.pad(found[name], (0, rest), constant_values=np.nan)
            job.emit({**lead, "layer": site.block}, found)

        sites = [Site("resid_post", layer) for layer in range(model.n_layers)]
        forward(model, row_of(tokens, row), sites, see, logits=None)
        job.progress(row + 1, total, "texts")
    job.note(passes=total)
    what = "how far the cosine of a state with itself is from 1"
    job.check("a state is like itself", off, 1e-6, what)


def cosines(states: Tensor) -> tuple[dict[str, np.ndarray], float]:
    """What one layer's states of one text ``[position, d_model]`` give, by variable.

    Beside it, how far the cosine of a state with itself is from 1.
    """
    rows = states.cpu().double()
    unit = rows / rows.norm(dim=-1, keepdim=True)
    every = unit @ unit.T
    itself = torch.eye(len(rows), dtype=torch.bool)
    first = torch.zeros_like(itself)
    first[:, 0] = True
    others = every.masked_fill(itself | first, torch.nan)
    found = {
        "cosine": every[:, 0].clamp(-1, 1).numpy(),
        "cosine_chance": others.nanmean(-1).numpy(),
        "decorrelation": every[1:, 0].square().nanmean().numpy(),
        "decorrelation_chance": others[1:].square().nanmean().numpy(),
    }
    return found, float((every.diagonal() - 1).abs().nan_to_num().max())
