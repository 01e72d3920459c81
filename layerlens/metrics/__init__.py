"""What is measured of each layer, in one pass for all that was asked for.

``ll.metrics`` is this package and a function at once: ``ll.metrics()`` is the table of all
metrics; see :func:`layerlens.index.metrics`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerlens.index import Table


class _Metrics(ModuleType):
    """The package, callable."""

    def __call__(self, *words: str) -> Table:
        """Return a table of the metrics, of those that speak of `words` where some are given.

        See :func:`layerlens.index.metrics`.

        Parameters
        ----------
        *words
            As there.

        Examples
        --------
        >>> import layerlens as ll
        >>> "cka" in ll.metrics("similarity").index
        True
        """
        from layerlens.index import metrics

        return metrics(*words)


sys.modules[__name__].__class__ = _Metrics
