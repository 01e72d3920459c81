"""What is said of versions that were never tested."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import layerlens as ll
from layerlens.errors import UntestedVersionWarning
from layerlens.model import tested
from layerlens.model.tested import PAGE, gather, page, remark, warn_of_newer
from layerlens.model.tiny import tiny_model


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """What is installed, for the test to say; its own warning comes afresh."""
    found: dict[str, str | None] = {name: both[-1] for name, both in tested.tested().items()}
    monkeypatch.setattr(tested, "installed", found.get)
    warn_of_newer.cache_clear()
    yield found
    warn_of_newer.cache_clear()


@pytest.mark.parametrize(
    ("package", "here", "said"),
    [
        ("transformers", "5.23.0", None),
        ("transformers", "5.23.4", None),
        ("transformers", "5.24.0", None),
        ("transformers", "99.0.dev0", "newer than"),
        ("transformers", "5.22.2", "older than 5.23, the oldest"),
        ("torch", "2.13.0+cpu", None),
        ("torch", "2.13.1+cpu", "newer than 2.13.0, the newest"),
        ("python", "3.11.7", None),
        ("python", "3.12.0", "newer than 3.11"),
        ("numpy", None, "not installed"),
    ],
)
def test_a_remark_says_how_a_version_differs(
    versions: dict[str, str | None], package: str, here: str | None, said: str | None
) -> None:
    versions[package] = here
    found = remark(package)
    assert found is None if said is None else found and found.startswith(said)


def test_a_newer_transformers_is_said_once_at_load(versions: dict[str, str | None]) -> None:
    hf = tiny_model("gpt2")
    versions["transformers"] = "99.1"
    with pytest.warns(UntestedVersionWarning, match=r"transformers 99\.1 is newer than .*proven"):
        ll.load(hf, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ll.load(hf, None)


def test_tested_versions_are_not_spoken_of(versions: dict[str, str | None]) -> None:
    versions["numpy"] = "99"  # models are not read through it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ll.load(tiny_model("gpt2"), None)


def test_the_record_and_the_page_are_those_of_the_checkout() -> None:
    assert tested.tested() == gather()
    assert PAGE.read_text(encoding="utf-8") == page(gather())


def test_versions_are_read_where_they_are_set(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("TORCH ?= torch==3.1\n")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nrequires-python = ">=3.12"\n'
        'dependencies = ["torch>=2", "transformers>=6.1,<7", "numpy>=2"]\n'
    )
    (tmp_path / "requirements.lock").write_text(
        "numpy==2.5 ; python_full_version < '3.13' \\\n    --hash=sha256:0\n"
        "numpy==2.6 ; python_full_version >= '3.13' \\\n    --hash=sha256:1\n"
        "transformers==6.2.0 \\\n    --hash=sha256:2\n"
    )
    assert gather(tmp_path) == {
        "python": ["3.12"],
        "torch": ["3.1"],
        "transformers": ["6.1", "6.2.0"],
        "numpy": ["2.5"],
    }
