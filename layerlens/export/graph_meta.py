"""What the graph view needs to know beside the numbers: what nodes are called, and kinds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypedDict, cast

from layerlens.export.answer_meta import AnswerMeta, answer_meta_of

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.result.checks import Check


class MetaGraph(TypedDict):
    """The names of nodes; `words` are what someone called them, or their token."""

    kinds: list[str]
    ids: list[str]
    words: list[str]


class GraphMeta(AnswerMeta):
    """The ``meta`` trait of the graph view."""

    graph: MetaGraph


def graph_meta_of(data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1) -> GraphMeta:
    """Build the ``meta`` trait; see `layerlens.export.answer_meta.answer_meta_of`."""
    return with_graph(answer_meta_of(data, checks, run), data)


def with_graph(meta: Any, data: xr.Dataset) -> GraphMeta:
    """Return the meta of an answer with what its graph is called."""
    axes = {name: dict(axis) for name, axis in meta["axes"].items()}
    for name in ("node", "link"):  # a link has no name, and nodes have theirs below
        axes[name]["labels"] = []
    named = ("node", "words")
    ids, words = ([str(name) for name in data[coord].values.tolist()] for coord in named)
    graph = MetaGraph(kinds=data["kind"].attrs["long_name"].split(": ")[-1].split(", "),
                      ids=ids, words=words)  # fmt: skip
    return cast(GraphMeta, {**meta, "axes": axes, "graph": graph})
