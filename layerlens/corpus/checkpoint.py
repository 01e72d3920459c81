"""A file that holds what was measured so far, so that a later call goes on from there."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from layerlens.corpus.shard import Measured
from layerlens.errors import InputError, ResultError
from layerlens.metrics.collection import MetricSet
from layerlens.result.files import write_bytes

FORMAT = "1"
"""Version of the file."""

_FORMAT = "layerlens_corpus"


@dataclass
class Saved:
    """What a checkpoint holds.

    Attributes
    ----------
    shards
        How many shards, from the first on, are in ``found``.
    digest
        Hash of their content.
    found
        What was measured.
    """

    shards: int
    digest: str
    found: Measured


def write(path: Path, settings: dict[str, Any], saved: Saved) -> None:
    """Write a checkpoint whole, or leave the old one as it was.

    Raises
    ------
    ResultError
        The file could not be written; says why.
    """
    arrays, about = saved.found.metrics.state()
    done = {
        "shards": saved.shards,
        "digest": saved.digest,
        "passes": saved.found.passes,
        "broken": saved.found.broken,
        "tokens": saved.found.tokens,
        "reason": saved.found.reason,
    }
    metadata = {
        _FORMAT: FORMAT,
        "settings": json.dumps(settings),
        "metrics": about,
        "done": json.dumps(done),
    }
    write_bytes(path, save(arrays, metadata))


def read(path: Path, settings: dict[str, Any]) -> Saved | None:
    """Read a checkpoint of a call with the same settings; None where there is no file.

    Raises
    ------
    ResultError
        The file is no checkpoint, or damaged.
    InputError
        It was made with other settings; names the first that differs.
    """
    if not path.exists():
        return None
    metadata, arrays = _content(path)
    if metadata.get(_FORMAT) != FORMAT:
        raise ResultError(
            f"'{path}' is no checkpoint of this version of layerlens: give another name, or "
            "remove it."
        )
    _require_same(path, json.loads(metadata["settings"]), settings)
    done = json.loads(metadata["done"])
    found = Measured(
        MetricSet.from_state(arrays, metadata["metrics"]),
        done["passes"],
        tuple(done["broken"]),
        done["tokens"],
        done["reason"],
    )
    return Saved(done["shards"], done["digest"], found)


def _content(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return dict(file.metadata() or {}), arrays
    except (SafetensorError, OSError) as error:
        raise ResultError(
            f"'{path}' is not a checkpoint, or it is damaged ({error}): give another name, or "
            "remove it."
        ) from error


def _require_same(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            raise InputError(
                f"The checkpoint '{path}' was made with {name} = {old.get(name)!r}, and this call "
                f"has {new.get(name)!r}: call with the same settings, or give another file."
            )


def checked(path: str | os.PathLike[str] | None) -> Path | None:
    """The path of a checkpoint, in a folder that is there.

    Raises
    ------
    InputError
        Before anything is computed, when nothing could be written there.
    """
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"checkpoint is {path!r}; expected the name of a file in a folder.")
    found = Path(path).expanduser()
    if found.is_dir() or not found.parent.is_dir():
        raise InputError(f"checkpoint is '{path}'; expected the name of a file in a folder.")
    return found
