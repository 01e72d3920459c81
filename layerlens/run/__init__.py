"""One pass through a model: read sites, edit them, replay blocks.

``ll.run`` is this package and a function at once, because both have a right to the name:
``ll.run(model, text, edits)`` runs a model with edits; see :func:`layerlens.run.record.run`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.sites import SiteName
    from layerlens.run.edits import Edit
    from layerlens.run.record import Trace


class _Run(ModuleType):
    """The package, callable."""

    def __call__(
        self,
        model: LensModel,
        text: Any,
        edits: Edit | Iterable[Edit] = (),
        *,
        sites: SiteName | Iterable[SiteName] = (),
        logits: Literal["all", "last"] | None = "all",
        add_bos: bool | None = None,
    ) -> Trace:
        """Run a model once, with edits; see :func:`layerlens.run.record.run`.

        Parameters
        ----------
        model, text, edits, sites, logits, add_bos
            As there.

        Examples
        --------
        >>> import layerlens as ll
        >>> model = ll.load("toy:induction")
        >>> ll.run(model, "cat dog owl cat").top(1)[0][1]
        'dog'
        """
        from layerlens.run.record import run

        return run(model, text, edits, sites=sites, logits=logits, add_bos=add_bos)


sys.modules[__name__].__class__ = _Run
