"""A folder of model files in the user's cache: where it is, what it must hold, how it is replaced.

Every folder carries a ``manifest.json`` with the size and SHA-256 of each of its files. The sizes
are compared at every load (cheap, finds interrupted copies and full disks); the sums on demand.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def cache_root() -> Path:
    """Folder under which layerlens keeps converted models.

    ``LAYERLENS_CACHE`` if set, else ``layerlens`` below ``XDG_CACHE_HOME``, ``LOCALAPPDATA``
    (Windows only) or ``~/.cache``.
    """
    if own := os.environ.get("LAYERLENS_CACHE"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "layerlens"
    local = os.environ.get("LOCALAPPDATA")
    if sys.platform == "win32" and local:
        return Path(local) / "layerlens"
    return Path.home() / ".cache" / "layerlens"


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    """Write ``manifest.json`` with ``about`` and the size and sum of every file of the folder."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    text = json.dumps({**about, "files": files}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the folder's manifest, or None where it is missing or is not one."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None


def damage(folder: Path, *, full: bool = False) -> str | None:
    """Say in a few words what is wrong with a cached folder; None if nothing is.

    Parameters
    ----------
    folder
        A folder that :func:`write_manifest` has described.
    full
        Compare the SHA-256 of every file too, not only its size.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return f"{MANIFEST} is missing or unreadable"
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["size"]:
            return f"{name} has {size:,} bytes where {expected['size']:,} were expected"
        if full and sha256(path) != expected["sha256"]:
            return f"{name} does not have the SHA-256 that was recorded when it was written"
    return None


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of ``final`` when the block ends well.

    Nobody ever sees a half-written ``final``. Where another process put one there meanwhile and
    it is sound, that one stays. When the block fails the temporary folder goes away.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    before = _identity(final)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        yield temporary
        _let_others_read(temporary)
        if final.exists() and (_identity(final) == before or damage(final) is not None):
            shutil.rmtree(final)
        if not final.exists():
            temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _let_others_read(folder: Path) -> None:
    """Undo the private modes of temporary files: a class may share one cache on purpose."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _identity(folder: Path) -> int | None:
    return folder.stat().st_ino if folder.exists() else None
