"""Results: labelled arrays with their provenance and checks; save, open, table, figure."""

from layerlens.result.checks import Check, Checks
from layerlens.result.result import Result, open_result

__all__ = ["Check", "Checks", "Result", "open_result"]
