"""Many small decompositions on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside.

    LAPACK shares even a matrix of 180 rows among all threads, which then wait for each other at
    every column, longer than they compute where the cores are busy.

    Examples
    --------
    >>> with one_thread():
    ...     torch.linalg.eigvalsh(torch.eye(2)).tolist()
    [1.0, 1.0]
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
