"""A result of which there is no widget: its figure and its text, wherever it is shown."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING

from layerlens.figures.images import image_bytes

if TYPE_CHECKING:
    from layerlens.result import Result

_DPI = 96


class Still:
    """The picture of a result, shown when it is last in a cell.

    Parameters
    ----------
    result : Result
        Of any analysis.
    text : int
        Which text of a result of many.
    """

    def __init__(self, result: Result, text: int = 0) -> None:
        self.result = result
        self.text = text

    def __repr__(self) -> str:
        return repr(self.result)

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> dict[str, str]:
        kinds = set(include or ("text/plain", "image/png")) - set(exclude or ())
        data = {"text/plain": repr(self.result)}
        if "image/png" in kinds:
            picture = image_bytes(self.result.figure(text=self.text), "png", dpi=_DPI)
            data["image/png"] = base64.b64encode(picture).decode("ascii")
        return {kind: value for kind, value in data.items() if kind in kinds}
