"""What there is to ask: the tables of analyses and of metrics.

Each analysis and metric says itself what it asks; importing all of them takes torch and seconds.
So what they say is also written down, in ``index.json``, and the tables need nothing else:
``python -m layerlens.index`` writes it again, and a test says when that is due.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Analysis
    from layerlens.metrics.registry import MetricClass

INDEX = Path(__file__).with_name("index.json")

Rows = dict[str, dict[str, str]]

_WHOLE = (
    *("display.max_colwidth", None),
    *("display.max_rows", None),
    *("display.max_columns", None),
)
_LEFT = ' style="text-align: left; vertical-align: top"'


class Table(pd.DataFrame):
    """A data frame of sentences: shown whole, whatever pandas is told of other frames."""

    @property
    def _constructor(self) -> type[Table]:
        return Table

    def __repr__(self) -> str:
        with pd.option_context(*_WHOLE):
            return super().__repr__()

    def _repr_html_(self) -> str | None:
        with pd.option_context(*_WHOLE):
            found = super()._repr_html_()  # type: ignore[misc]
        return (
            None
            if found is None
            else found.replace("<td>", f"<td{_LEFT}>").replace("<th>", f"<th{_LEFT}>")
        )


def analyses(*words: str) -> Table:
    """Return a table of every analysis: question, method, cost in passes, source, view.

    Parameters
    ----------
    *words : str
        Only those that speak of all of these words, in whatever column.

    Returns
    -------
    Table
        A pandas data frame, indexed by the names under which ``ll`` has them.

    Examples
    --------
    >>> "knockout" in ll.analyses("attention").index
    True
    >>> ll.analyses().loc["logit_lens", "view"]
    'lens'
    """
    rows = _written()["analyses"]
    if registry := sys.modules.get("layerlens.analyses.contract.registry"):
        rows |= {name: _analysis_row(one) for name, one in registry.known().items()}
    return _table("analysis", rows, words)


def metrics(*words: str) -> Table:
    """Return a table of every metric: family, question, unit, axes, cost, source, formula.

    Parameters
    ----------
    *words : str
        Only those that speak of all of these words, in whatever column.

    Returns
    -------
    Table
        A pandas data frame, indexed by the names that ``ll.layer_metrics`` takes.

    Examples
    --------
    >>> "effective_rank" in ll.metrics("directions", "tokens").index
    True
    >>> ll.metrics().loc["cka", "family"]
    'similarity'
    """
    rows = _written()["metrics"]
    if registry := sys.modules.get("layerlens.metrics.registry"):
        rows |= {name: _metric_row(one) for name, one in registry.known().items()}
    return _table("metric", rows, words)


def _table(what: str, rows: Rows, words: tuple[str, ...]) -> Table:
    kept = {name: rows[name] for name in sorted(rows) if _speaks_of(name, rows[name], words)}
    columns = list(next(iter(rows.values())))
    return Table(list(kept.values()), index=pd.Index(list(kept), name=what), columns=columns)


def _speaks_of(name: str, row: dict[str, str], words: tuple[str, ...]) -> bool:
    said = " ".join([name, *row.values()]).casefold()
    return all(str(word).casefold() in said for word in words)


def _written() -> dict[str, Rows]:
    found: dict[str, Rows] = json.loads(INDEX.read_text(encoding="utf-8"))
    return found


def now() -> dict[str, Rows]:
    """Return what is to be written: what all analyses and metrics say of themselves."""
    from layerlens.analyses.contract import registry as known
    from layerlens.metrics import registry

    return {
        "analyses": {name: _analysis_row(known.get(name)) for name in known.names()},
        "metrics": {name: _metric_row(one) for name, one in registry.every().items()},
    }


def _analysis_row(analysis: Analysis) -> dict[str, str]:
    about = analysis.about
    method, _, _ = (analysis.__doc__ or "").partition("\n\n")
    return {
        "question": about.question,
        "method": " ".join(method.split()),
        "cost": about.cost,
        "source": about.source,
        "view": about.view,
    }


def _metric_row(metric: MetricClass) -> dict[str, str]:
    from layerlens.metrics.catalogue import family

    return {
        "family": family(metric),
        "question": metric.question,
        "units": metric.units,
        "axes": ", ".join(metric.axes),
        "cost": metric.cost,
        "source": metric.source,
        "formula": metric.formula,
    }


def main() -> None:
    """Write the index again."""
    text = json.dumps(now(), ensure_ascii=False, indent=1)
    INDEX.write_text(text + "\n", encoding="utf-8")
    print(f"{INDEX}: written")


if __name__ == "__main__":
    main()
