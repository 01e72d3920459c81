"""Answers as a notebook's file keeps them: in its own metadata, else in its widgets' state."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerlens.errors import InputError

WIDGETS = "application/vnd.jupyter.widget-state+json"


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the answers in a notebook's file by the ids of their questions.

    Raises
    ------
    InputError
        It is no notebook.
    """
    try:
        metadata = json.loads(Path(path).read_text(encoding="utf-8"))["metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"The notebook '{path}' could not be read: {error}.") from None
    own = metadata.get("layerlens", {}).get("answers", {})
    return {**dict(_in_widgets(metadata)), **own}


def here() -> dict[str, Any]:
    """Return the answers in the notebook whose kernel this is; empty where it cannot be told.

    Jupyter names the file in the environment. Where it does not, as when a notebook is executed
    without a front end, the kernel runs in the notebook's folder, and what its files hold is taken
    together; an id that two of them answer differently is left out.
    """
    named = Path(os.environ.get("JPY_SESSION_NAME", ""))
    if named.suffix == ".ipynb" and named.is_file():
        return read(named)
    found: dict[str, Any] = {}
    differ: set[str] = set()
    for path in sorted(Path.cwd().glob("*.ipynb")):
        for key, answer in read(path).items():
            if key in found and found[key]["value"] != answer["value"]:
                differ.add(key)
            found[key] = answer
    return {key: answer for key, answer in found.items() if key not in differ}


def _in_widgets(metadata: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    models = metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    for model in models.values():
        state = model.get("state", {})
        if state.get("view") == "course" and state.get("answer", {}).get("value") is not None:
            yield state["question"]["id"], state["answer"]
