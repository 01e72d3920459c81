"""What a cell of ``path_patch`` opens: the next token of both runs, and with the path patched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.answers.next_tokens import chances, next_token_table
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.texts.text_pair import Align, make_pairs
from layerlens.analyses.tracing.head_edges import Edges, parse_receivers, parse_senders
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_path(
    job: Job,
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    place: Place,
    *,
    receiver: Any,
    direction: str,
    freeze_mlps: bool,
    positions: Any,
    align: Align | None,
    **_: Any,
) -> Opened:
    """Make the four runs of one sender, by whole passes as the check of the analysis does."""
    entry = place.need("sublayer" if "sublayer" in place.labels else "head")
    [sender] = parse_senders(model, (place.need("layer"), entry))
    receivers = parse_receivers(model, receiver)
    pair = make_pairs(clean, corrupt, align, direction)[0]
    job.tick()
    edges = Edges.make(model, pair, receivers, [sender], freeze_mlps=freeze_mlps, where=positions)
    job.tick()
    conditions = {
        "the other text": chances(model, edges.source.final),
        "as it is": chances(model, edges.base.final),
        "path patched": chances(model, edges.plainly(sender)),
    }
    ends = " and ".join(map(_words, receivers)) or "the logits"
    return Opened(
        title=f"The next token with one path patched: {_words(sender)} to {ends}",
        code=place.call,
        tables=[next_token_table(model, conditions)],
    )


def _words(site: Site) -> str:
    what = "" if site.kind == "z" else f"{site.kind} of "
    part = f"{what}head {site.head}" if site.head is not None else site.kind
    return f"{part} of layer {site.layer}"
