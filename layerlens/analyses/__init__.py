"""One question, one file: each analysis emits finished parts of its answer while it runs.

``layerlens.analyses`` is this package and, called, the table of all of them.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class _Callable(ModuleType):
    """A package cannot share its name with a public function, so it is that function too."""

    def __call__(self) -> pd.DataFrame:
        """Return a table of every analysis: question, cost in passes, source, view."""
        from layerlens.analyses.contract.registry import table

        return table()


analyses = sys.modules[__name__]
analyses.__class__ = _Callable
