"""Texts of installed packages: in the order of names, cut, none too short; their docstrings."""

from __future__ import annotations

from importlib.metadata import PathDistribution
from pathlib import Path

from layerlens.corpus.installed import installed_docs, installed_texts


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


def test_docstrings_of_modules_come_by_name_without_tests_and_what_is_no_python(
    tmp_path: Path,
) -> None:
    long, other = "a" * 50, "b" * 60
    files = {
        "beta/a.py": f'"""{long}"""\ndef f():\n    """{other}"""\n    """Short."""\n',
        "beta/b.py": 'def f():\n    """See above."""\n',
        "beta/c.py": "print 1\n",
        "beta/tests/d.py": f'"""{long}"""\n',
        "alpha.py": f'"""{other}"""\n',
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    made = [package(tmp_path, name, "") for name in ("beta", "alpha")]
    for name in ("beta", "alpha"):
        listed = [f"{file},,\n" for file in [*files, "beta/gone.py"] if file.startswith(name)]
        (tmp_path / f"{name}-1.dist-info" / "RECORD").write_text("".join(listed))
    assert installed_docs(50, packages=made) == [other, f"{long}\n\n{other}"]
    assert installed_docs(50, 70, made) == [other, f"{long}\n\n{other}"[:70]]
