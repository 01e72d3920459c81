"""What a metric is: a question about each layer that is answered while the model runs."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from layerlens.errors import InputError, SiteError
from layerlens.metrics.layer import sites_of

if TYPE_CHECKING:
    from layerlens.metrics.batch import Batch
    from layerlens.metrics.layer import Layer
    from layerlens.model.lensmodel import LensModel

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Output:
    """One array that a metric gives.

    Attributes
    ----------
    axes
        Names of its axes: ``layer``, ``point`` (the states before, between and after the
        blocks), ``head``, ``layer_other``, ``point_other``, or one of the metric's own.
    units
        Unit, "1" for pure numbers.
    long_name
        In words for an axis title.
    dtype
        NumPy dtype; integers use ``missing`` where there is nothing.
    interval
        Whether ``<name>_low`` and ``<name>_high`` come with it: the 95 % interval that the
        choice of texts leaves open.
    is_token
        Whether the values are token ids.
    """

    axes: tuple[str, ...]
    units: str
    long_name: str
    dtype: str = "float64"
    interval: bool = True
    is_token: bool = False
    missing: int = -1


@dataclass(frozen=True)
class ModelShape:
    """The sizes that a metric needs of a model.

    Attributes
    ----------
    n_layers, d_model, d_vocab
        As of the model.
    n_heads
        The largest number of query heads of a layer.
    """

    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int

    @classmethod
    def of(cls, model: LensModel) -> Self:
        """Read the sizes of a model."""
        return cls(model.n_layers, model.n_heads, model.d_model, model.d_vocab)

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each axis that all metrics share."""
        points = self.n_layers + 1
        return {
            "layer": self.n_layers,
            "layer_other": self.n_layers,
            "point": points,
            "point_other": points,
            "head": self.n_heads,
        }

    @property
    def coords(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Coordinates of these axes; ``point_layer`` is -1 for the embedding."""
        layers = np.arange(self.n_layers, dtype=np.int32)
        labels = np.array(["embed", *(f"{layer}_post" for layer in layers)])
        return {
            "layer": (("layer",), layers),
            "layer_other": (("layer_other",), layers),
            "point": (("point",), labels),
            "point_other": (("point_other",), labels),
            "point_layer": (("point",), np.arange(-1, self.n_layers, dtype=np.int32)),
            "head": (("head",), np.arange(self.n_heads, dtype=np.int32)),
        }


class Described:
    """What is said of a metric; the values are class attributes.

    Attributes
    ----------
    name
        How it is asked for, and the name of its first array.
    question
        What it answers, in plain words.
    formula
        Its definition as plain text.
    units, axes
        Of its first array.
    source
        Authors, year, title.
    cost
        In passes and words.
    outputs
        Name -> what it is, for all of its arrays; the first is called like the metric.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    formula: ClassVar[str]
    units: ClassVar[str]
    source: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]
    cost: ClassVar[str] = "1 pass for all metrics"
    outputs: ClassVar[Mapping[str, Output]] = {}
    long_name: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__ and "outputs" not in cls.__dict__:
            words = cls.long_name or cls.name.replace("_", " ")
            cls.outputs = {cls.name: Output(cls.axes, cls.units, words)}

    def __init__(self, shape: ModelShape, **options: Any) -> None:
        self.shape = shape
        # As a stored state gives them back, so that merging with one compares like with like.
        self.options: dict[str, Any] = json.loads(json.dumps(options))

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Its options and their defaults: the keyword-only parameters of ``__init__``."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def sizes(self) -> dict[str, int]:
        """Lengths of axes of its own."""
        return {}

    def coords(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Coordinates of axes of its own."""
        return {}

    def checks(self) -> list[tuple[str, float, float, str]]:
        """What it verified of itself: (name, error, limit, what the error is)."""
        return []


class LayerMetric(Described, ABC):
    """A metric that sees each layer as one pass makes it.

    All that it keeps are the NumPy arrays in ``arrays``, made with :meth:`zeros`; by default two
    metrics are merged by adding them. Anything else it sets while a batch runs is forgotten
    between batches.

    Attributes
    ----------
    parts
        Which parts of a layer it reads; see :func:`layerlens.metrics.layer.sites_of`.
    """

    parts: ClassVar[tuple[str, ...]]

    def __init__(self, shape: ModelShape, **options: Any) -> None:
        super().__init__(shape, **options)
        self.arrays: Arrays = {}

    def zeros(self, name: str, *shape: int, dtype: str = "float64", fill: float = 0) -> None:
        """Make an array to keep."""
        self.arrays[name] = np.full(shape, fill, dtype=dtype)

    def start(self, batch: Batch) -> None:
        """Called before each pass."""

    @abstractmethod
    def update(self, layer: Layer) -> None:
        """Called with each layer, in the order in which they run.

        A layer without one of ``parts`` (``layer.has(*self.parts)``) is to be left out.
        """

    def end(self, batch: Batch) -> None:
        """Called after each pass: the place for what compares layers with each other."""

    @abstractmethod
    def value(self, intervals: bool = True) -> Arrays:
        """Its arrays as they stand, by the names in ``outputs``; NaN where nothing came.

        Parameters
        ----------
        intervals
            Add ``<name>_low`` and ``<name>_high`` for outputs with an interval.
        """

    def merge(self, other: Self) -> None:
        """Take in what another metric of the same kind saw, of other texts.

        Raises
        ------
        InputError
            When it is another metric, or one with other options or of another model's sizes.
        """
        mine = (type(self), self.options, self.shape)
        if mine != (type(other), other.options, other.shape):
            raise InputError(
                f"{self.name} with {self.options} cannot be merged with {other.name} with "
                f"{other.options}: both have to be made alike, for models of the same sizes."
            )
        for name in self.arrays:
            self.arrays[name] = self.combine(name, self.arrays[name], other.arrays[name])

    def combine(self, name: str, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Merge one array with that of another metric."""
        return np.asarray(mine + theirs)

    def state(self) -> Arrays:
        """All that it has seen, as arrays that can be stored."""
        return dict(self.arrays)

    @classmethod
    def from_state(
        cls, shape: ModelShape, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> Self:
        """Make one that goes on from a stored state.

        Raises
        ------
        InputError
            When the arrays are not those of this metric.
        """
        metric = cls(shape, **options)
        wrong = [
            name
            for name in metric.arrays.keys() | arrays.keys()
            if name not in metric.arrays or name not in arrays or not metric.fits(name, arrays)
        ]
        if wrong:
            raise InputError(
                f"The stored state is not one of {cls.name}: {wrong[0]} is missing, unknown or of "
                "another shape; begin anew."
            )
        metric.arrays = {name: np.array(array) for name, array in arrays.items()}
        return metric

    def fits(self, name: str, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether a stored array has the shape of a new metric's; those that grow say so here."""
        return arrays[name].shape == self.arrays[name].shape

    @classmethod
    def missing(cls, model: LensModel) -> str | None:
        """Why no layer of this model has what it reads; None where one has."""
        reason = None
        for layer in range(model.n_layers):
            try:
                for part in cls.parts:
                    sites_of(model, part, layer)
            except SiteError as error:
                reason = reason or str(error)
            else:
                return None
        return reason


class WeightMetric(Described, ABC):
    """A metric of the weights alone: it needs no text and no pass."""

    cost: ClassVar[str] = "no pass, weights only"

    def prepare(self, model: LensModel) -> None:
        """Called once, when it is made: the place to see how long axes of its own are."""

    @abstractmethod
    def compute(self, model: LensModel, tick: Callable[[], None] = lambda: None) -> Arrays:
        """Its arrays, by the names in ``outputs``.

        Parameters
        ----------
        tick
            Called at least once a layer; may raise to stop.
        """

    @classmethod
    def missing(cls, model: LensModel) -> str | None:
        """Why it cannot be computed for this model; None where it can."""
        return None
