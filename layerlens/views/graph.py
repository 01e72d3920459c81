"""An attribution graph, live: nodes by layer and token, the links between them, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import traitlets as t

from layerlens.export.graph_meta import with_graph
from layerlens.views.answer import AnswerView

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.result import Result
    from layerlens.views.one_run import Run


class GraphView(AnswerView):
    """A graph of features (or of whatever else an analysis links), tokens below, answers above.

    Nodes stand in rows of layers and columns of tokens. Hovering shows the links of a node,
    choosing one lists what enters and what leaves it; a share of the influence is chosen by a
    slider, of stored numbers.

    Parameters
    ----------
    model, analysis, *texts, start, other, label, **keywords
        As in `GridView`. Traits of its own: ``node``, ``pins``, ``share``, ``errors``.

    Examples
    --------
    >>> import json, pathlib
    >>> import layerlens as ll
    >>> node = {"node_id": "E_5_0", "layer": "E", "ctx_idx": 0, "feature_type": "embedding"}
    >>> graph = {"metadata": {"prompt": "a", "prompt_tokens": ["a"]}, "nodes": [node], "links": []}
    >>> _ = pathlib.Path("graph.json").write_text(json.dumps(graph))
    >>> ll.GraphView.from_result(ll.import_graph("graph.json"), node="E_5_0").node
    'E_5_0'
    """

    PICTURE = (*AnswerView.PICTURE, "node", "pins", "share", "errors")

    view = t.Unicode("graph").tag(sync=True)
    node = t.Unicode("", help="Node that is looked at, by its name; empty: none.").tag(sync=True)
    pins = t.List(t.Unicode(), help="Nodes that always are drawn.").tag(sync=True)
    share = t.Float(1.0, min=0, max=1, help="Influence that drawn nodes have together.").tag(
        sync=True
    )
    errors = t.Bool(True, help="Whether nodes of what is not explained are drawn.").tag(sync=True)

    def _meta_of_blank(self, run: Run, blank: xr.Dataset) -> dict[str, Any]:
        return dict(with_graph(super()._meta_of_blank(run, blank), blank))

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        return dict(with_graph(super()._meta_of(result, data, run, about), data))

    def _figure_options(self) -> dict[str, Any]:
        """Return what the figure draws: the nodes that are on screen."""
        base: Mapping[str, Any] = super(AnswerView, self)._figure_options()
        return {**base, "share": self.share, "errors": self.errors, "node": self.node or None}
