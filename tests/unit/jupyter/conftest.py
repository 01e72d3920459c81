"""A real Jupyter server on a loopback port, with the extension loaded."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytest_jupyter.jupyter_server"]


@pytest.fixture
def jp_server_config() -> dict[str, object]:
    return {
        "ServerApp": {
            "jpserver_extensions": {"layerlens": True},
            "allow_unauthenticated_access": False,
        }
    }
