"""What is measured of each layer, in one pass for all that was asked for.

``ll.metrics`` is this package and a function at once: ``ll.metrics()`` is the table of all
metrics; see :func:`layerlens.metrics.registry.table`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class _Metrics(ModuleType):
    """The package, callable."""

    def __call__(self) -> pd.DataFrame:
        """Return a table of every metric: question, unit, axes, cost, source."""
        from layerlens.metrics.registry import table

        return table()


sys.modules[__name__].__class__ = _Metrics
