"""Texts of installed packages: in the order of names, cut, none too short."""

from __future__ import annotations

from importlib.metadata import PathDistribution
from pathlib import Path

from layerlens.corpus.installed import installed_texts


def package(at: Path, name: str, text: str) -> PathDistribution:
    folder = at / f"{name}-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n\n{text}")
    return PathDistribution(folder)


def test_descriptions_come_by_name_and_are_cut(tmp_path: Path) -> None:
    made = [package(tmp_path, name, text) for name, text in
            (("beta", "b" * 50), ("Alpha", "a" * 20), ("tiny", "t"))]  # fmt: skip
    assert installed_texts(10, 30, made) == ["a" * 20, "b" * 30]
    assert installed_texts(10, 30, reversed(made)) == ["a" * 20, "b" * 30]


def test_there_are_some_here() -> None:
    assert len(installed_texts()) > 5
