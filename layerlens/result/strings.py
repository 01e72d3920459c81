"""Strings in tables: any that Python can hold, whatever pandas stores its own in."""

from __future__ import annotations

from contextlib import AbstractContextManager


def any_string() -> AbstractContextManager[object]:
    """Return a context in which pandas, and xarray by way of it, take every Python string.

    Where pyarrow is installed they would keep strings in its arrays, which refuse halves of split
    characters (lone surrogates).
    """
    import pandas as pd

    return pd.option_context("mode.string_storage", "python")
