"""One question, one file: each analysis emits finished parts of its answer while it runs.

``layerlens.analyses`` is this package and, called, the table of all of them.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerlens.index import Table


class _Callable(ModuleType):
    """A package cannot share its name with a public function, so it is that function too."""

    def __call__(self, *words: str) -> Table:
        """Return a table of the analyses, of those that speak of `words` where some are given.

        See :func:`layerlens.index.analyses`.

        Parameters
        ----------
        *words
            As there.

        Examples
        --------
        >>> import layerlens as ll
        >>> "knockout" in ll.analyses("attention").index
        True
        """
        from layerlens.index import analyses

        return analyses(*words)


analyses = sys.modules[__name__]
analyses.__class__ = _Callable
