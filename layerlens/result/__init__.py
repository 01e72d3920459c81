"""Results: labelled arrays with their provenance and checks; what was learned; save and open."""

from layerlens.result.checks import Check, Checks
from layerlens.result.opening import open_saved
from layerlens.result.result import Result, open_result

__all__ = ["Check", "Checks", "Result", "open_result", "open_saved"]
