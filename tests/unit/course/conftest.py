"""Every test here begins with no question asked and no notebook in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.course import asked


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(asked, "_ASKED", {})
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
