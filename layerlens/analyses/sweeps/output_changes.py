"""The arrays of an analysis that measures what the output loses when something is done to it."""

from __future__ import annotations

from collections.abc import Mapping

from layerlens.analyses.contract.parts import Variable, with_interval

OUTPUT_CHANGES = {"kl": "KL divergence of the prediction", "loss_change": "change of the loss"}
"""What is measured, each a mean over tokens, in nats."""


def output_changes(dims: tuple[str, ...], ways: Mapping[str, str]) -> dict[str, Variable]:
    """Both measures of each thing that was done, with intervals over texts.

    Parameters
    ----------
    dims
        Their axes.
    ways
        Name of what was done, which is added to that of the measure, to words; "" for an
        analysis that does one thing.

    Examples
    --------
    >>> list(output_changes(("layer",), {"zero": "set to 0"}))[:4]
    ['kl_zero', 'kl_zero_low', 'kl_zero_high', 'loss_change_zero']
    """
    return {
        name: variable
        for measure, what in OUTPUT_CHANGES.items()
        for way, words in ways.items()
        for name, variable in with_interval(
            f"{measure}_{way}" if way else measure,
            Variable(dims, "float64", "nats", f"{what}, {words}"),
        ).items()
    }
