"""What a part of ``edge_attribution`` opens: its links, estimated and really cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.circuits.edge_nodes import Part, parts_of
from layerlens.analyses.circuits.edge_scores import cut
from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.texts.text_pair import Align, make_pairs
from layerlens.analyses.tracing.head_edges import Edges
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

MOST = 12
"""Links that are cut, the strongest first."""


def open_edges(
    job: Job,
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    place: Place,
    *,
    direction: str,
    align: Align | None,
    metric: Any,
    answer: Any,
    wrong: Any,
    **_: Any,
) -> Opened:
    """Patch each link of a part alone, beside what was estimated."""
    name = str(place.need("node"))
    parts = {part.name: part for part in parts_of(model)}
    links = _links(place, list(parts.values()), name)
    if not links:
        raise InputError(f"No link of {name} is in the graph: raise most_edges.")
    ends = {part.name: part for link in links for part in (parts[link[0]], parts[link[1]])}
    edges = _edges(model, list(ends.values()), make_pairs(clean, corrupt, align, direction)[0])
    runs = (edges.base, edges.source)
    first, other = runs if direction == "noise" else runs[::-1]
    measure = make_metric(
        model, metric, final=first.final, other=other.final, answer=answer, wrong=wrong
    )
    own, foreign = (float(measure(run.final.unsqueeze(0))[0]) for run in runs)
    rows = []
    for sender, receiver, estimate in links:
        job.tick()
        value = cut(edges, measure, parts[sender], parts[receiver])
        rows.append([f"{sender} → {receiver}", estimate, (value - own) / (foreign - own), value])
    head = ["link", "estimated", "really", measure.name]
    ends_ = f"{own:.3g} as it is, {foreign:.3g} in the other text"
    return Opened(
        title=f"Links of {name}, each patched alone",
        code=place.call,
        tables=[Table(head, rows, f"share of the difference ({measure.name}: {ends_})")],
    )


def _links(place: Place, parts: list[Part], name: str) -> list[tuple[str, str, float]]:
    """The strongest links of a node in the answer: sender, receiver and estimate."""
    found = place.answer
    known = {(part.layer, part.number): part.name for part in parts}
    ends = zip(found["node_layer"].tolist(), found["feature"].tolist(), strict=True)
    names = [known[end] for end in ends]
    rows = zip(*(found[one].tolist() for one in ("source", "target", "weight")), strict=True)
    links = [(names[sender], names[receiver], weight) for sender, receiver, weight in rows]
    own = [link for link in links if name in link[:2]]
    return sorted(own, key=lambda link: -abs(link[2]))[:MOST]


def _edges(model: LensModel, parts: list[Part], pair: Any) -> Edges:
    sends = [site for part in parts for site in part.sends]
    receives = [site for part in parts for site in part.receives]
    return Edges.make(model, pair, receives, sends, freeze_mlps=True, where=None)
