"""Tests of this folder share `measuring`: run metrics, and what must hold for each of them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
