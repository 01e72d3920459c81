"""The whole answer to one question: labelled arrays, what was verified, how to get it again."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from layerlens.errors import LayerLensError
from layerlens.result.checks import Check, Checks
from layerlens.result.files import checked_path, write_bytes
from layerlens.result.select import one_text
from layerlens.result.store import load_dataset, save_dataset
from layerlens.result.summary import summary
from layerlens.result.tidy import to_pandas

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from layerlens.model.lensmodel import LensModel
    from layerlens.result.fitted import Fitted

_IMAGE_DPI = 96


class Result:
    """The answer of an analysis.

    Last in a cell it shows the view of its analysis, with a picture and a text beside it for
    hosts that show no widgets.

    Parameters
    ----------
    analysis : str
        Name of the analysis.
    data : xarray.Dataset
        Labelled arrays; its attributes say with what they were made.
    checks : iterable of Check
        What was verified for this very result.
    code : str
        The call that makes it again.
    model : LensModel, optional
        The model that it was made with, so that the widget can ask it more; None after `open`.

    Attributes
    ----------
    analysis, data, checks, code, model
        As given; `checks` prints as a table. The attributes of `data` hold the first, the third
        and the fourth as well, so that they survive in files.
    fitted
        What an analysis that learns has learned; None for others, and after `open`.
    given
        Texts by name and options as they were given, so that the question can be asked again;
        None after `open`.
    """

    def __init__(
        self,
        analysis: str,
        data: xr.Dataset,
        checks: Iterable[Check] = (),
        code: str = "",
        model: LensModel | None = None,
    ) -> None:
        self.analysis = analysis
        self.checks = Checks(checks)
        self.code = code
        self.model = model
        self.data = data.assign_attrs(analysis=analysis, checks=self.checks.to_json(), code=code)
        self.fitted: Fitted | None = None
        self.given: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
        self._shown: Any = None

    def to_pandas(self, of: str | None = None) -> pd.DataFrame:
        """Return a tidy table: a row a point and position, a column a quantity.

        See `layerlens.result.tidy.to_pandas` for the names of the columns. Where a result has
        variables over unrelated axes, ``of`` names the one whose axes make the rows.
        """
        return to_pandas(self.data, of)

    def figure(
        self,
        variable: str | None = None,
        *,
        text: int = 0,
        kind: str | None = None,
        **options: Any,
    ) -> Figure:
        """Draw the result with matplotlib, as its view shows it.

        Parameters
        ----------
        variable : str, optional
            What to draw of a result of several quantities: a metric, a variable.
        text : int
            Which text of a result of many.
        kind : str, optional
            Another figure than the view's own: ``"trajectories"`` has the tracked tokens.
        **options
            As the drawing function has them: ``color``, ``theme``, ``positions``, ``title``, ...

        Returns
        -------
        matplotlib.figure.Figure
            Not known to pyplot, so nothing has to be closed.

        Raises
        ------
        ResultError
            There is no such figure, or the result lacks what it needs.
        """
        from layerlens.figures import draw

        if variable is not None:
            options["variable"] = variable
        return draw(kind or self.view, one_text(self.data, text), **options)

    @property
    def view(self) -> str:
        """Name of the view that shows this result."""
        return str(self.data.attrs.get("view", "lens"))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a NetCDF file (``.nc``) that `layerlens.open` reads back; return its path.

        Raises
        ------
        ResultError
            The file could not be written; the result in memory, and an older file of that name,
            are as they were.
        """
        return save_dataset(self.data, path)

    def html(self, path: str | os.PathLike[str], *, text: int = 0, theme: str = "auto") -> Path:
        """Write one HTML file that shows the result with no kernel and no network.

        Parameters
        ----------
        path : path-like
            Must end in ``.html`` or ``.htm``.
        text : int
            Which text of a result of many.
        theme : {"auto", "light", "dark"}
            ``auto`` follows the reader's system.
        """
        from layerlens.export.html import write_result

        return write_result(self, path, text=text, theme=theme)

    def png(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write `figure` as a PNG file; options are those of `figure`, and ``dpi``."""
        return self._image(path, ".png", **options)

    def svg(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write `figure` as an SVG file; options are those of `figure`."""
        return self._image(path, ".svg", **options)

    def pdf(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write `figure` as a PDF file; options are those of `figure`."""
        return self._image(path, ".pdf", **options)

    def _image(
        self, path: str | os.PathLike[str], suffix: str, dpi: int = 150, **options: Any
    ) -> Path:
        from layerlens.figures.images import image_bytes

        target = checked_path(path, suffix)
        return write_bytes(target, image_bytes(self.figure(**options), suffix[1:], dpi=dpi))

    def csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_pandas` as a CSV file."""
        target = checked_path(path, ".csv")
        content = self.to_pandas().to_csv(index=False)
        return write_bytes(target, content.encode("utf-8", errors="backslashreplace"))

    def widget(self, *, text: int = 0) -> Any:
        """Return the view of this result: live while the model is there, else frozen."""
        from layerlens.views import view_of

        return view_of(self, text=text)

    def embed(self, *, text: int = 0, height: int = 560) -> Any:
        """Return the page that `html` writes as a piece of any other page.

        See `layerlens.export.inline.Inline`; options are those of `widget` and of a view's `embed`.
        """
        return self.widget(text=text).embed(height=height)

    def identical(self, other: Result) -> bool:
        """Whether `other` has the same data, attributes, checks and code, to the last bit."""
        return (
            self.analysis == other.analysis
            and self.code == other.code
            and self.checks.to_json() == other.checks.to_json()
            and self.data.identical(other.data)
        )

    def __repr__(self) -> str:
        return summary(self)

    def _ipython_display_(self) -> None:
        """Show the widget where there is one; it keeps a picture of itself in the notebook."""
        from layerlens.views.kept import publish

        self._widget_bundle()  # makes the widget, if it was not made before
        live = getattr(self._shown, "_ipython_display_", None)
        if live is not None:
            live()
        else:
            publish(*self._repr_mimebundle_())

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the widget, and beside it a picture and a text for hosts that show none."""
        data, metadata = self._widget_bundle()
        data["text/plain"] = repr(self) + data.pop("layerlens/problem", "")
        kinds = {*data, "image/png"} & set(include or {*data, "image/png"}) - set(exclude or ())
        if "image/png" in kinds - set(data):
            data["image/png"] = self._png_base64()
        return {kind: data[kind] for kind in data if kind in kinds}, metadata

    def _widget_bundle(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._shown is None:
            try:
                self._shown = self.widget()
            except (ImportError, LayerLensError) as error:
                # The picture and the text remain; the text says why there is no widget.
                return {"layerlens/problem": f"\nno widget: {error}"}, {}
        bundle = self._shown._repr_mimebundle_()
        if isinstance(bundle, tuple):
            return dict(bundle[0]), dict(bundle[1])
        return dict(bundle or {}), {}

    def _png_base64(self) -> str:
        from layerlens.figures import quick
        from layerlens.figures.images import image_bytes

        figure = quick(self.view, one_text(self.data))
        return base64.b64encode(image_bytes(figure, "png", dpi=_IMAGE_DPI)).decode("ascii")


def open_result(path: str | os.PathLike[str]) -> Result:
    """Open a result that `Result.save` wrote.

    Parameters
    ----------
    path : path-like
        A ``.nc`` file.

    Returns
    -------
    Result
        Identical to the one saved, without its model.

    Raises
    ------
    ResultError
        There is no such file, it is damaged, it is none of ours, or a newer version wrote it.
    """
    data = load_dataset(path)
    checks = Checks.from_json(data.attrs.get("checks", "[]"))
    return Result(str(data.attrs["analysis"]), data, checks, str(data.attrs.get("code", "")))
