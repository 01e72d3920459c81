"""Which versions of what it builds on this layerlens was tested with.

``make lock`` runs ``python -m layerlens.model.tested --write``, which reads them where they are
set: ``requirements.lock``, the bounds of transformers in ``pyproject.toml``, and the ``Makefile``
for torch. It writes ``tested.json`` beside this file, and ``docs/versions.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import tomllib
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from layerlens.errors import UntestedVersionWarning

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("tested.json")
PAGE = ROOT / "docs" / "versions.md"

#: Models are read through these two.
READ_THROUGH = ("torch", "transformers")


@cache
def tested() -> dict[str, list[str]]:
    """Package (and ``python``) to the versions that were tested, the oldest first."""
    found: dict[str, list[str]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def installed(package: str) -> str | None:
    """Version that is here, of a package or of ``python``; None where it is not installed."""
    if package == "python":
        return platform.python_version()
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def remark(package: str) -> str | None:
    """Say how the version that is here differs from those tested; None where it does not."""
    here = installed(package)
    if here is None:
        return "not installed"
    oldest, newest = tested()[package][0], tested()[package][-1]
    if _release(here, newest) > _release(newest, newest):
        return f"newer than {newest}, the newest that was tested"
    if _release(here, oldest) < _release(oldest, oldest):
        return f"older than {oldest}, the oldest that was tested"
    return None


def _release(version: str, like: str) -> tuple[int, ...]:
    """Numbers of a release, as many as another version has.

    ``2.13.0+cpu`` like ``2.13.0`` is ``(2, 13, 0)``; ``3.11.7`` like ``3.11`` is ``(3, 11)``.
    """
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    length = like.count(".") + 1
    return tuple([*numbers, *[0] * length][:length])


@cache
def warn_of_newer() -> None:
    """Warn, once in a process, if models are read through a version newer than those tested."""
    for package in READ_THROUGH:
        found = remark(package)
        if found and found.startswith("newer"):
            warnings.warn(
                f"{package} {installed(package)} is {found}; each model is still proven when it "
                "is loaded. ll.doctor() lists all versions.",
                UntestedVersionWarning,
                stacklevel=3,
            )


def gather(root: Path = ROOT) -> dict[str, list[str]]:
    """The versions that a checkout is tested with, from the files that set them.

    Parameters
    ----------
    root
        Folder of the checkout.
    """
    lock = (root / "requirements.lock").read_text(encoding="utf-8")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    names = [re.split(r"[<>=]", asked)[0] for asked in project["dependencies"]]
    found = {"python": [project["requires-python"].removeprefix(">=")]}
    for name in names:
        # A package may be pinned more than once, for different Pythons; ours comes first.
        pins = re.findall(rf"^{re.escape(name)}==(\S+)", lock, re.MULTILINE)
        found[name] = pins[:1]
    found["torch"] = re.findall(r"^TORCH \?= torch==(\S+)", makefile, re.MULTILINE)
    (asked,) = (asked for asked in project["dependencies"] if asked.startswith("transformers"))
    oldest = re.findall(r">=([\d.]+)", asked)
    found["transformers"] = list(dict.fromkeys([*oldest, *found["transformers"]]))
    return found


def page(versions: dict[str, list[str]]) -> str:
    """The text of ``docs/versions.md``."""
    rows = [f"| {name} | {' and '.join(found)} |" for name, found in versions.items()]
    return "\n".join(
        [
            "# Versions",
            "",
            "What this layerlens was tested with, on Linux and without an accelerator. "
            "`pyproject.toml` allows more; `ll.doctor()` compares what is installed with this "
            "table, and loading a model says so once where torch or transformers is newer.",
            "",
            "Of transformers, the unit tests run with the newest that is named here; those of "
            "edits, hooks, families and records with the oldest too, and with the newest release "
            "there is on the day of the test.",
            "",
            "| package | tested |",
            "| --- | --- |",
            *rows,
            "",
            "This page is written by `make lock`.",
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m layerlens.model.tested", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write tested.json and versions.md")
    if not parser.parse_args(arguments).write:
        print(page(tested()))
        return
    found = gather()
    RECORD.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
    print(f"wrote {RECORD} and {PAGE}")


if __name__ == "__main__":
    main()
