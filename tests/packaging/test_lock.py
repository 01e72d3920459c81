"""The lock holds what pyproject.toml asks for, pinned and hashed, and nothing of a machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: Name and version of each pin; a name may be there twice, for different Pythons.
PINS = [
    (canonicalize_name(name), Version(version))
    for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", LOCK, re.MULTILINE)
]
ASKED = [
    Requirement(text)
    for text in (
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["test"],
        *PROJECT["optional-dependencies"]["dev"],
    )
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_what_is_asked_for_is_pinned(asked: Requirement) -> None:
    name = canonicalize_name(asked.name)
    found = [version for pinned, version in PINS if pinned == name]
    if name == "torch":  # installed by itself: its builds differ by machine
        assert not found
        return
    assert found, f"{asked} is not in requirements.lock: make lock"
    assert all(version in asked.specifier for version in found)


def test_every_pin_has_hashes_and_none_an_address() -> None:
    entries = re.split(r"\n(?=[\w.-]+==)", LOCK)[1:]
    assert len(entries) == len(PINS)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCK and "index" not in LOCK and " @ " not in LOCK


def test_no_machine_is_told_to_fetch_what_only_some_can_use() -> None:
    assert not [name for name, _ in PINS if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_torch_is_the_one_that_the_makefile_installs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (asked,) = [asked for asked in ASKED if asked.name == "torch"]
    (named,) = re.findall(r"^TORCH \?= torch==(.+)$", makefile, re.MULTILINE)
    assert Version(named) in asked.specifier
