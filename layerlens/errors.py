"""Every error that layerlens raises on purpose, and its one kind of warning.

Each message is one sentence that says what was wrong, what was expected and what to do.
"""


class LayerLensError(Exception):
    """Base of all errors of layerlens."""


class ModelError(LayerLensError):
    """A model could not be loaded or its structure could not be understood."""


class ProofError(ModelError):
    """A model was understood, but the numbers say that the understanding is wrong."""


class InputError(LayerLensError, ValueError):
    """A text, token, position or option does not fit."""


class SiteError(InputError):
    """A site does not exist in this model, or did not fire."""


class MemoryLimitError(LayerLensError):
    """The work asked for does not fit under the memory ceiling."""


class ActivationError(LayerLensError):
    """A model's activations hold NaN or infinity."""


class ResultError(LayerLensError):
    """A result could not be saved, opened or drawn."""


class UntestedVersionWarning(UserWarning):
    """A package is newer than those that this layerlens was tested with."""


class Cancelled(LayerLensError):
    """The work was stopped; ``partial`` holds what was finished, where anything was."""

    partial: object | None = None
