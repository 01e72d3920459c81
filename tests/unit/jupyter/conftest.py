"""A real Jupyter server on a loopback port, with the extension loaded."""

from __future__ import annotations

import pytest

# Imported here and not named as a plugin at the top, because some of its fixtures use themselves.
from pytest_jupyter.jupyter_server import *  # noqa: F403


@pytest.fixture
def jp_server_config() -> dict[str, object]:
    return {
        "ServerApp": {
            "jpserver_extensions": {"layerlens": True},
            "allow_unauthenticated_access": False,
        }
    }
