"""A dictionary of features: what an activation is encoded as, and what features decode to.

What ``ll.train_sae`` and ``ll.load_sae`` return is a :class:`layerlens.Fitted` of kind ``"sae"``;
of kind ``"transcoder"`` is what ``ll.train_transcoder`` returns, and ``ll.load_sae`` where the file
holds one. Its arrays, with ``d`` the width read, ``o`` the width written (``d`` unless it is a
transcoder) and ``m`` the number of features:

============  ========  ==========================================================================
``W_enc``     [d, m]    encoder
``W_dec``     [m, o]    decoder: row ``j`` is what feature ``j`` writes
``b_dec``     [o]       what is written without any feature
``b_enc``     [m]       of every kind but gated
``threshold`` [m]       jumprelu: what a pre-activation has to exceed
``b_gate``, ``b_mag``, ``r_mag``  [m]  gated
``W_skip``    [o, d]    a transcoder's affine path from what it reads
``density``   [m]       share of the training tokens on which a feature is on, where it is known
============  ========  ==========================================================================

Those of transcoders of several layers have one more axis, the layer, in front; where features write
into later layers, too, ``W_dec_later [pairs of layers, m, o]`` holds what (see ``crossing.py``). Of
one such layer it is ``[later layer, m, o]``. Its options hold
``site`` (a kind of site), ``layers`` (their numbers), ``positions_skipped`` and ``dictionary``,
which are the fields of :class:`Form`; a transcoder's also ``site_out``, the site that it writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from layerlens.analyses.features.dictionaries.crossing import LATER, later_of
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.result.fitted import Fitted

ARCHITECTURES = ("relu", "topk", "jumprelu", "gated")
NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
"""What SAELens calls them, and what they do is said in :func:`normalised`."""
_TINY = 1e-5


@dataclass(frozen=True)
class Form:
    """What a dictionary computes with its arrays.

    Parameters
    ----------
    architecture
        One of ``ARCHITECTURES``.
    k
        Features that are on at once, of a topk one.
    normalise
        One of ``NORMALISATIONS``.
    scale
        Factor of ``expected_average_only_in``.
    centred_input
        Whether ``b_dec`` is taken from what is read.
    token_centred
        Whether the mean over its entries is taken from what is read first, as a model whose
        writing weights were centred had it.
    only_in
        Whether only what is read is normalised: what is decoded is not scaled back, and ``W_skip``
        reads what was normalised, too. So is a transcoder that reads the stream before a norm.
    """

    architecture: str
    k: int | None = None
    normalise: str = "none"
    scale: float = 1.0
    centred_input: bool = True
    token_centred: bool = False
    only_in: bool = False

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise InputError(
                f"A dictionary of kind {self.architecture!r} is not known: expected one of "
                f"{', '.join(ARCHITECTURES)}."
            )
        if self.normalise not in NORMALISATIONS:
            raise InputError(
                f"Activations cannot be normalised by {self.normalise!r}: expected one of "
                f"{', '.join(NORMALISATIONS)}."
            )
        if (self.architecture == "topk") != (self.k is not None):
            raise InputError(f"A {self.architecture} dictionary has k={self.k}; a topk one has k.")

    def told(self) -> dict[str, Any]:
        """As it stands in the options of a :class:`layerlens.Fitted`."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """From what :meth:`told` wrote."""
        return cls(**{field.name: told[field.name] for field in fields(cls) if field.name in told})


class Dictionary:
    """Arrays with what is computed from them, in float32.

    Parameters
    ----------
    form
        What is computed.
    arrays
        See the module.

    Examples
    --------
    >>> import torch
    >>> arrays = {"W_enc": torch.eye(2), "W_dec": torch.eye(2)}
    >>> arrays |= {"b_enc": torch.zeros(2), "b_dec": torch.zeros(2)}
    >>> relu = Dictionary(Form("relu"), arrays)
    >>> relu.encode(torch.tensor([[1.0, -2.0]])).tolist()
    [[1.0, 0.0]]
    """

    def __init__(self, form: Form, arrays: Mapping[str, Tensor]) -> None:
        self.form = form
        needed = ["W_enc", "W_dec", "b_dec"]
        needed += ["b_gate", "b_mag", "r_mag"] if form.architecture == "gated" else ["b_enc"]
        needed += ["threshold"] if form.architecture == "jumprelu" else []
        if lack := [name for name in needed if name not in arrays]:
            raise InputError(f"A {form.architecture} dictionary needs {', '.join(lack)}.")
        self.arrays = {name: array.float() for name, array in arrays.items()}
        d, m, written = self.width, self.features, len(self["b_dec"])
        shapes: dict[str, tuple[int, ...]] = {
            "W_enc": (d, m),
            "W_dec": (m, written),
            "W_skip": (written, d),
        }
        shapes[LATER] = (len(self.later), m, written)
        for name, array in self.arrays.items():
            shape = shapes.get(name, (written,) if name == "b_dec" else (m,))
            if tuple(array.shape) != shape:
                raise InputError(
                    f"{name} of this dictionary is {list(array.shape)}; expected {list(shape)}."
                )
        if form.k is not None and not 1 <= form.k <= m:
            raise InputError(f"k is {form.k}; expected 1 to {m}, the number of features.")

    @classmethod
    def of(cls, fitted: Fitted) -> Self:
        """The dictionary of what ``ll.train_sae`` or ``ll.load_sae`` returned."""
        return cls(
            Form.of(fitted.options["dictionary"]),
            {name: fitted[name] for name in fitted if name in _NAMES},
        )

    @classmethod
    def by_layer(cls, fitted: Fitted) -> dict[int, Self]:
        """The transcoder of each layer, of what ``ll.train_transcoder`` returned."""
        layers = fitted.options["layers"]
        if len(layers) == 1:
            return {layers[0]: cls.of(fitted)}
        form = Form.of(fitted.options["dictionary"])
        found = {}
        for place, layer in enumerate(layers):
            where = {LATER: later_of(place, len(layers))}
            names = [name for name in fitted if name in _NAMES]
            arrays = {name: fitted[name][where.get(name, place)] for name in names}
            found[layer] = cls(form, arrays)
        return found

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    @property
    def width(self) -> int:
        """Entries of what is read."""
        return int(self["W_enc"].shape[0])

    @property
    def features(self) -> int:
        """Number of features."""
        return int(self["W_enc"].shape[1])

    @property
    def later(self) -> Tensor:
        """``[later layer, m, o]``: what features write into the layers after their own."""
        own = self["W_dec"]
        return self.arrays.get(LATER, own.new_zeros(0, *own.shape))

    def require(self, number: int) -> int:
        """The number of a feature, where there is one of that number.

        Raises
        ------
        InputError
            There is none.
        """
        if not 0 <= number < self.features:
            raise InputError(
                f"There is no feature {number}: this dictionary has {self.features}, counted "
                "from 0."
            )
        return number

    def normalised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :func:`normalised`."""
        return normalised(x, self.form.normalise, self.form.scale)

    def pre_activations(self, x: Tensor) -> Tensor:
        """``[n, m]`` of normalised activations ``[n, d]``; of a gated one those of the gate."""
        bias = self["b_gate" if self.form.architecture == "gated" else "b_enc"]
        return self._centred(x) @ self["W_enc"] + bias

    def encode(self, x: Tensor) -> Tensor:
        """Features ``[n, m]``, none below 0, of activations ``[n, d]``."""
        return self._encode(self.normalised(self._read(x))[0])

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is decoded from activations ``[n, d]``, ``[n, o]``, and the features in between."""
        features = self.encode(x)
        return self.written(x, features), features

    def written(self, x: Tensor, features: Tensor) -> Tensor:
        """What features ``[n, m]`` write in the place of activations ``[n, d]``: ``[n, o]``."""
        read = self._read(x)
        inside, factor, offset = self.normalised(read)
        found = self.decode(features)
        if self.form.only_in:
            return found + inside @ self["W_skip"].T if "W_skip" in self.arrays else found
        found = found * factor + offset
        if "W_skip" in self.arrays:
            return found + read @ self["W_skip"].T
        if self.form.token_centred:
            found = found + x.float().mean(-1, keepdim=True)
        return found

    def factor(self, x: Tensor) -> Tensor:
        """``[n, 1]``: what decoder rows are multiplied with in the place of activations."""
        factor = self.normalised(self._read(x))[1]
        return (torch.ones_like(factor) if self.form.only_in else factor).expand(len(x), 1)

    def decode(self, features: Tensor) -> Tensor:
        """``[n, o]`` of features ``[n, m]``, in the units of normalised activations."""
        return features @ self["W_dec"] + self["b_dec"]

    def _read(self, x: Tensor) -> Tensor:
        x = x.float()
        return x - x.mean(-1, keepdim=True) if self.form.token_centred else x

    def _centred(self, x: Tensor) -> Tensor:
        return x - self["b_dec"] if self.form.centred_input else x

    def _encode(self, x: Tensor) -> Tensor:
        pre = self.pre_activations(x)
        if self.form.architecture == "relu":
            return pre.relu()
        if self.form.architecture == "jumprelu":
            return pre.relu() * (pre > self["threshold"])
        if self.form.architecture == "gated":
            magnitude = self._centred(x) @ (self["W_enc"] * self["r_mag"].exp()) + self["b_mag"]
            return magnitude.relu() * (pre > 0)
        best = pre.topk(self.form.k or 0, dim=-1)
        return torch.zeros_like(pre).scatter_(-1, best.indices, best.values.relu())

    def rescaled(self, factor: Tensor) -> Dictionary:
        """The same map with features ``factor`` ``[m]`` times as large and rows as much shorter.

        Only of kinds whose features scale with their pre-activations, and not of a topk one, whose
        choice of features would change.
        """
        if self.form.architecture == "topk":
            raise InputError("Features of a topk dictionary compete, so they are not rescaled.")
        arrays = dict(self.arrays)
        arrays["W_enc"] = arrays["W_enc"] * factor
        for name in {"W_dec", LATER} & set(arrays):
            arrays[name] = arrays[name] / factor[:, None]
        for name in ("b_enc", "threshold", "b_gate", "b_mag"):
            if name in arrays:
                arrays[name] = arrays[name] * factor
        return Dictionary(self.form, arrays)

    def folded(self) -> Dictionary:
        """The same map without ``expected_average_only_in``: the factor goes into the biases.

        With ``s`` the factor, features become ``1 / s`` times as large, ``W_enc`` and ``W_dec``
        stay, and all biases and thresholds are divided by ``s``.
        """
        if self.form.normalise != "expected_average_only_in":
            return self
        names = ("b_enc", "b_dec", "threshold", "b_gate", "b_mag")
        arrays = {n: a / self.form.scale if n in names else a for n, a in self.arrays.items()}
        told = self.form.told() | {"normalise": "none", "scale": 1.0}
        return Dictionary(Form.of(told), arrays)

    def as_jumprelu(self) -> Dictionary:
        """A gated dictionary written as a jumprelu one, exactly.

        ``W = W_enc e^r``, ``b = b_mag`` and the threshold ``b_mag - e^r b_gate``, or 0 where that
        lies below: a gate that is open there lets only positive magnitudes pass.
        """
        if self.form.architecture != "gated":
            raise InputError(f"A {self.form.architecture} dictionary has no gate.")
        grown = self["r_mag"].exp()
        arrays = {name: a for name, a in self.arrays.items() if name not in _GATED}
        arrays["W_enc"] = self["W_enc"] * grown
        arrays["b_enc"] = self["b_mag"]
        arrays["threshold"] = (self["b_mag"] - grown * self["b_gate"]).clamp_min(0)
        return Dictionary(Form.of(self.form.told() | {"architecture": "jumprelu"}), arrays)


def normalised(x: Tensor, how: str, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Activations as an encoder takes them, with what undoes it: ``x * factor + offset``.

    ``expected_average_only_in`` multiplies with a constant, ``constant_norm_rescale`` gives every
    activation the norm of the root of its width, ``layer_norm`` takes its mean away and divides
    by its standard deviation (unbiased, plus 1e-5).
    """
    one, zero = x.new_ones(()), x.new_zeros(())
    if how == "expected_average_only_in":
        return x * scale, one / scale, zero
    if how == "constant_norm_rescale":
        norms = x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        factor = x.shape[-1] ** 0.5 / norms
        return x * factor, 1 / factor, zero
    if how == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        deviation = x.std(-1, keepdim=True) + _TINY
        return (x - mean) / deviation, deviation, mean
    return x, one, zero


_GATED = ("b_gate", "b_mag", "r_mag")
_NAMES = ("W_enc", "W_dec", "b_dec", "b_enc", "threshold", *_GATED, "W_skip", "density",
          LATER)  # fmt: skip


def weighted_rows(index: Tensor, value: Tensor, rows: Tensor) -> Tensor:
    """``[n, o]``: the sum over ``k`` of ``value [n, k]`` times the rows ``index [n, k]``.

    What a decoder gives where few features are on, without a product with all of them.
    """
    found: Tensor = embedding_bag(index, rows, per_sample_weights=value, mode="sum")
    return found


def mean_max_cosine(rows: Tensor, other: Tensor, chunk: int = 1024) -> float:
    """Mean over the rows of the largest cosine with any row of another dictionary.

    Source: Sharkey, Braun and Millidge (2022), Taking features out of superposition with sparse
    autoencoders.

    Parameters
    ----------
    rows, other
        ``[m, o]`` and ``[n, o]``; rows of norm 0 count as 0.
    chunk
        Rows at once.
    """
    mine, theirs = (torch.nn.functional.normalize(one.float(), dim=-1) for one in (rows, other))
    best = [(part @ theirs.T).amax(-1) for part in mine.split(chunk)]
    return float(torch.cat(best).mean())
