"""One way to open whatever layerlens has saved."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from layerlens.result.files import as_path
from layerlens.result.result import Result, open_result

if TYPE_CHECKING:
    from layerlens.result.fitted import Fitted


def open_saved(path: str | os.PathLike[str]) -> Result | Fitted:
    """Open a result (``.nc``), or what an analysis learned (``.safetensors``).

    Parameters
    ----------
    path : path-like
        A file that ``Result.save`` or ``Fitted.save`` wrote.

    Returns
    -------
    Result or Fitted
        Identical to what was saved, without its model.

    Raises
    ------
    ResultError
        There is no such file, it is damaged, it is none of ours, or a newer version wrote it.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> lens = ll.logit_lens(model, "cat dog owl cat")
    >>> ll.open(lens.save("lens.nc")).identical(lens)
    True
    """
    if as_path(path).suffix.lower() != ".safetensors":
        return open_result(path)
    from layerlens.result.fitted import open_fitted  # needs torch, which a result does not

    return open_fitted(path)
