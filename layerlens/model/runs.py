"""``ll.Runs``: a network at several moments of its training, or several networks, side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.settled import settled

State = Mapping[str, Tensor]
Network = LensModel | nn.Module


class Runs:
    """What stands where a model stands, for an analysis that follows a training.

    Either one network with its checkpoints, or several networks that are alike: models from
    ``ll.load``, or any ``torch.nn.Module`` that is called with one batch of inputs.

    Parameters
    ----------
    networks
        One network, or several: a mapping from the name or number of each run to it, or a list.
        They are used where they are, never copied nor changed. ``"toy:modular"``: this toy at
        each step of its training that is shipped.
    checkpoints
        With one ``torch`` network: its ``state_dict`` at each moment, a mapping from the moment
        (an epoch, a step) to it, or a list. Copy the tensors when you keep one:
        ``{name: tensor.clone() for name, tensor in network.state_dict().items()}``.
    layers
        Names of the modules of a ``torch`` network whose outputs are its layers, as in
        ``network.named_modules()``, in the order that they run; None for its own children. Name
        them to choose the activations of ``nn.Sequential(nn.Linear(...), nn.Tanh(), ...)``:
        ``layers=["1", "3", "5"]``. A model from ``ll.load`` has the states after its embedding
        and after each block.
    name
        What the network is called in results.

    Attributes
    ----------
    labels
        The name or number of each run.
    points
        The name of each layer.

    Raises
    ------
    InputError
        There is no run, the networks are of two kinds, a layer does not exist, or checkpoints do
        not go with what was given.

    Examples
    --------
    >>> import torch, layerlens as ll
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    >>> weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    >>> ll.Runs(network, {0: weights, 10: weights}, layers=["1", "2"])
    Runs(Sequential: 2 layers, runs 0, 10)
    >>> ll.Runs("toy:modular").labels[:3]
    [0, 50, 100]
    """

    d_vocab = d_vocab_in = 0  # no token stands in what is said of torch networks

    def __init__(
        self,
        networks: str | Network | Mapping[Any, Network] | Sequence[Network],
        checkpoints: Mapping[Any, State] | Sequence[State] | None = None,
        *,
        layers: Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        source = networks if isinstance(networks, str) else ""
        named = _labelled(_loaded(source) if source else networks)
        self.labels, self._networks = list(named), list(named.values())
        self._states: list[State | None] = [None] * len(named)
        if checkpoints is not None:
            states = _labelled(checkpoints, what="state")
            if len(named) > 1 or isinstance(self._networks[0], LensModel):
                raise InputError(
                    "checkpoints are state_dicts of one torch network: give one, or a model from "
                    "ll.load for each run."
                )
            self.labels, self._states = list(states), list(states.values())
            self._networks *= len(states)
        _require_alike(self._networks)
        first = self._networks[0]
        self.hf: nn.Module = first.hf if isinstance(first, LensModel) else first
        self.texts = isinstance(first, LensModel)
        self.points = _layers(first, layers)
        own = first.name if isinstance(first, LensModel) else type(first).__name__
        self.name = name or source or own
        self.load_code = "ll.Runs(network, checkpoints)" if checkpoints else "ll.Runs(networks)"
        if source:
            self.load_code = f"ll.Runs({source!r})"
        if layers is not None:
            self.load_code = f"{self.load_code[:-1]}, layers={self.points})"
        if isinstance(first, LensModel):
            self.d_vocab, self.d_vocab_in = first.d_vocab, first.d_vocab_in
        self.lock = threading.RLock()

    remote = None
    """They are in this process."""

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.points)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return next((p.dtype for p in self.hf.parameters()), torch.get_default_dtype())

    @contextmanager
    def running(self, *, gradients: bool = False) -> Iterator[None]:
        """Hold the lock; each network settles itself while it runs."""
        with self.lock, torch.set_grad_enabled(gradients):
            yield

    def widths(self) -> list[int]:
        """About how many entries each layer has, by its last weight, for estimates."""
        if self.texts:
            return [self.model(0).d_model] * self.n_layers
        found: list[int] = []
        for name in self.points:
            weights = list(self.hf.get_submodule(name).parameters())
            found.append(len(weights[-1]) if weights else found[-1] if found else 1)
        return found

    def facts(self) -> dict[str, Any]:
        """What a result says of what was asked; see :meth:`LensModel.facts`."""
        return {
            "model": self.name,
            "load": self.load_code,
            "model_type": type(self.hf).__name__,
            "dtype": str(self.dtype).removeprefix("torch."),
            "n_layers": self.n_layers,
            "d_vocab": self.d_vocab,
        }

    @property
    def answers_words(self) -> bool:
        """Whether texts are numbered as its answers are: the texts of models, if it has any."""
        return True

    def token_string(self, index: int) -> str:
        """That of the first model; the number itself where there is none."""
        return self.model(0).token_string(index) if self.texts else str(index)

    def search_tokens(self, query: str, limit: int = 50) -> list[tuple[int, str]]:
        """Those of the first model, likewise."""
        return self.model(0).search_tokens(query, limit) if self.texts else []

    def model(self, run: int) -> LensModel:
        """The model from ``ll.load`` of a run, by its place."""
        found = self._networks[run]
        assert isinstance(found, LensModel)
        return found

    def outputs(self, run: int, inputs: Tensor) -> list[Tensor]:
        """What each layer of a ``torch`` network gives for a batch, in ``eval`` mode.

        Parameters
        ----------
        run
            Its place.
        inputs
            ``[n, ...]``, what the network is called with.

        Returns
        -------
        list of Tensor
            ``[n, width]`` each.

        Raises
        ------
        InputError
            The network cannot be called with these, a checkpoint does not fit, or a layer ran
            never or twice or gave no tensor with a row for each input.
        """
        network, state = self._networks[run], self._states[run]
        assert isinstance(network, nn.Module)
        found: dict[str, list[Any]] = {name: [] for name in self.points}
        hooks = [
            network.get_submodule(name).register_forward_hook(
                lambda _, args, output, kept=found[name]: kept.append(output)
            )
            for name in self.points
        ]
        try:
            with self.lock, settled(network), torch.no_grad():
                moved = inputs.to(next((p.device for p in network.parameters()), inputs.device))
                if state is None:
                    network(moved)
                else:
                    torch.func.functional_call(network, dict(state), (moved,), strict=True)
        except (RuntimeError, TypeError, ValueError) as error:
            label, said = self.labels[run], str(error).split("\n")[0]
            raise InputError(
                f"{self.name} could not be called as run {label!r} with inputs of shape "
                f"{tuple(inputs.shape)}: {said}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        return [self._rows(name, given, len(inputs)) for name, given in found.items()]

    def _rows(self, name: str, given: list[Any], count: int) -> Tensor:
        if len(given) != 1 or not isinstance(given[0], Tensor) or len(given[0]) != count:
            what = f"ran {len(given)} times" if len(given) != 1 else "gave no row for each input"
            raise InputError(
                f"Layer {name!r} of {self.name} {what}: name with layers= modules that run once "
                "and give a tensor with a row for each input."
            )
        return given[0].detach().reshape(count, -1)

    def __repr__(self) -> str:
        labels = ", ".join(map(str, self.labels))
        return f"Runs({self.name}: {self.n_layers} layers, runs {labels})"


def _loaded(source: str) -> dict[int, LensModel]:
    """A toy at each step of its training; they are alike, so one proof is enough."""
    from layerlens.model.load import load
    from layerlens.model.toy_checkpoints import sources

    found = sources(source)
    return {step: load(each, prove=step == max(found)) for step, each in found.items()}


def _labelled(given: Any, what: str = "network") -> dict[Any, Any]:
    """Things by their names, one of them by 0."""
    if isinstance(given, LensModel | nn.Module):
        return {0: given}
    if isinstance(given, Mapping):
        found = dict(given)
    elif isinstance(given, list | tuple):
        found = dict(enumerate(given))
    else:
        found = {}
    kind: Any = Mapping if what == "state" else LensModel | nn.Module
    if not found or not all(isinstance(one, kind) for one in found.values()):
        raise InputError(
            f"Runs needs a {what} for each run, as a mapping from names or a list; give models "
            "from ll.load, torch modules, or a module and its state_dicts."
        )
    return found


def _require_alike(networks: Sequence[Network]) -> None:
    """Raise InputError where networks cannot stand side by side."""
    if len({isinstance(network, LensModel) for network in networks}) > 1:
        raise InputError("Runs are of models from ll.load or of torch modules, not of both.")
    shapes = {
        (network.n_layers, network.d_model)
        for network in networks
        if isinstance(network, LensModel)
    }
    if len(shapes) > 1:
        raise InputError("These models differ in blocks or width: give runs of one architecture.")


def _layers(network: Network, layers: Sequence[str] | None) -> list[str]:
    """The names of the layers."""
    if isinstance(network, LensModel):
        if layers is not None:
            raise InputError("layers names modules of a torch network; leave it out for a model.")
        return ["embed", *(f"{layer}_post" for layer in range(network.n_layers))]
    known = [name for name, _ in network.named_modules() if name]
    found = [name for name, _ in network.named_children()] if layers is None else list(layers)
    for name in found:
        if name not in known:
            raise InputError(
                f"{type(network).__name__} has no module {name!r}; it has {', '.join(known[:12])}."
            )
    if not found or len(set(found)) < len(found):
        raise InputError("layers names no module, or one twice: name each layer once.")
    return found
