"""Writing and reading files so that nothing is lost and every failure is one sentence.

A file is written whole to a temporary one in the same folder, flushed to the disk, and renamed:
whoever reads the path sees the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Any

from layerlens.errors import ResultError

_FORBIDDEN = "you may not write there; choose a folder that you may write to"
_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: _FORBIDDEN,
    errno.ENOENT: "the folder does not exist; make it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EISDIR: "the path is a folder; give the name of a file in it",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def checked_path(path: str | os.PathLike[str], *suffixes: str) -> Path:
    """Return `path` as a `Path`, if it ends in one of `suffixes`; raise `ResultError` else."""
    path = as_path(path)
    if path.suffix.lower() not in suffixes:
        expected = " or ".join(suffixes)
        raise ResultError(f"'{path}' ends in '{path.suffix}'; the name must end in {expected}.")
    return path


def as_path(path: Any) -> Path:
    """Return what names a file as a `Path`; raise `ResultError` for anything else."""
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        kind = type(path).__name__
        raise ResultError(f"A file is named by a string or a path, not by one of type {kind}.")
    return Path(path).expanduser()


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a whole file, or nothing.

    Raises
    ------
    ResultError
        The file could not be written; what was at `path` before is untouched.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        try:
            _write_through(temporary, content)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(f"'{path}' was not written: {_reason(error)}.") from error
    return path


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return what is in a file; `ResultError` if it cannot be read."""
    path = as_path(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ResultError(f"There is no file '{path}'; check the name and the folder.") from None
    except OSError as error:
        raise ResultError(f"'{path}' could not be read: {error.strerror or error}.") from error


def _write_through(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0, str(error.strerror or error))
