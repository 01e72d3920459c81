"""What a person would see in a notebook: nbval runs its cells, and this looks at what they show."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from nbval.plugin import IPyNbCell

UNSEEN = ("Figure size", "Picture size")
"""How a figure reads where it has no picture."""


def pytest_configure(config: pytest.Config) -> None:
    # The notebooks lie in another folder, which this file alone would not reach.
    config.pluginmanager.register(Look())


@pytest.fixture(autouse=True, scope="session")
def bare_kernels() -> Generator[None]:
    """Kernels that nobody has prepared for drawing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)
        yield


class Look:
    """Looks at the outputs of every cell that has run."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        yield
        if isinstance(item, IPyNbCell):
            look(item.cell.source, item.test_outputs)


def look(source: str, outputs: list[Any]) -> None:
    """Fail for a figure without its picture, and for words on stderr.

    Not for a progress bar: nbval keeps what was shown first, not what took its place.
    """
    shown = [out.data for out in outputs if "data" in out]
    last = source.rstrip().splitlines()[-1]
    if ".figure(" in last or last == "figure":
        assert any("image/png" in data for data in shown), f"no picture:\n{source}"
    streams = [out for out in outputs if out.output_type == "stream"]
    assert not [out.text for out in streams if out.name == "stderr"], source
    for data in shown:
        text = data.get("text/plain", "")
        assert "image/png" in data or not any(word in text for word in UNSEEN), source
