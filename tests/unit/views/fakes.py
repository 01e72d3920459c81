"""A front end that records what it is told, and a model that is as fast as a test lets it be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from layerlens.analyses.contract.contract import About, Analysis, Job, Work
from layerlens.analyses.contract.parts import Variable
from layerlens.errors import InputError, LayerLensError
from layerlens.model.feed import Feed
from layerlens.model.text import Tokens
from layerlens.model.vocabulary import Vocabulary

N_LAYERS, D_VOCAB = 4, 40
POINTS = ["embed", *(f"{layer}_post" for layer in range(N_LAYERS)), "final"]
LAYERS = [-1, *range(N_LAYERS), N_LAYERS]


class FakeComm:
    """Keeps every message; `receive` acts as the front end."""

    count = 0
    kernel = "there"

    def __init__(self, **opened: Any) -> None:
        FakeComm.count += 1
        self.comm_id = f"fake-{FakeComm.count}"
        self.opened = opened["data"]
        self.sent: list[tuple[dict[str, Any], list[bytes]]] = []
        self.handler: Callable[[dict[str, Any]], None] | None = None
        self.closed = False

    def on_msg(self, handler: Callable[[dict[str, Any]], None]) -> None:
        self.handler = handler

    def send(self, data: Any = None, metadata: Any = None, buffers: Any = None) -> None:
        self.sent.append((data, [bytes(b) for b in buffers or []]))

    def close(self, *args: Any, **kwargs: Any) -> None:
        self.closed, self.handler = True, None

    def _receive(self, data: dict[str, Any]) -> None:
        assert self.handler is not None
        self.handler({"content": {"data": data}, "buffers": []})

    def set(self, **state: Any) -> None:
        self._receive({"method": "update", "state": state})

    def custom(self, **content: Any) -> None:
        self._receive({"method": "custom", "content": content})

    def customs(self, kind: str) -> list[tuple[dict[str, Any], list[bytes]]]:
        found = [(m["content"], b) for m, b in list(self.sent) if m["method"] == "custom"]
        return [(content, buffers) for content, buffers in found if content["kind"] == kind]

    def updates(self, name: str) -> list[Any]:
        states = [m["state"] for m, _ in list(self.sent) if m["method"] == "update"]
        return [state[name] for state in states if name in state]


class FakeModel:
    """One token a word; words are numbers of the vocabulary."""

    name, n_layers, d_vocab, dtype = "fake", N_LAYERS, D_VOCAB, torch.float32
    d_vocab_in, answers_words = D_VOCAB, True
    vocabulary = answers = Vocabulary(None, D_VOCAB)
    load_code = "ll.load('fake')"
    remote = None

    def __init__(self) -> None:
        self.anatomy = SimpleNamespace(family="fake", head=None)
        self.feed = Feed("text", "input_ids", "input_ids")
        self.lock = threading.RLock()
        self.steps = threading.Semaphore(10**6)
        self.began: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.fail_at: int | None = None
        self.seconds = 0.0

    def facts(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "load": self.load_code,
            "model_type": self.anatomy.family,
            "dtype": "float32",
            "n_layers": self.n_layers,
            "d_vocab": self.d_vocab,
        }

    def hold(self) -> None:
        """From now on each layer waits for `step`."""
        self.steps = threading.Semaphore(0)

    def step(self, count: int = 1) -> None:
        self.steps.release(count)

    @contextmanager
    def running(self, *, gradients: bool = False) -> Iterator[None]:
        with self.lock:
            yield

    def tokens(self, text: Any, add_bos: bool | None = None) -> Tokens:
        if isinstance(text, Tokens):
            return text
        single = isinstance(text, str) or (bool(text) and isinstance(text[0], int))
        rows = [text] if single else list(text)
        ids = [[self.token_id(w) for w in row.split()] if isinstance(row, str) else row
               for row in rows]  # fmt: skip
        if not all(ids):
            raise InputError("The text is empty; give at least one token.")
        return Tokens(
            ids=torch.tensor(ids),
            mask=torch.ones(len(ids), len(ids[0]), dtype=torch.bool),
            texts=tuple(row if isinstance(row, str) else None for row in rows),
            strings=tuple(tuple(self.token_string(i) for i in row) for row in ids),
            continues=tuple((False,) * len(row) for row in ids),
            single=single,
            notes=("a note",),
        )

    def token_id(self, target: str | int, after: Any = None) -> int:
        if isinstance(target, int):
            return target
        if not target.strip().isdigit():
            raise InputError(f"{target!r} is not one token; its pieces are ...")
        return int(target) % D_VOCAB

    def token_string(self, index: int) -> str:
        return f"<b>{index}</b>"

    def token_named(self, index: int) -> str | int:
        return index

    def search_tokens(self, query: str, limit: int = 50) -> list[tuple[int, str]]:
        found = [(i, self.token_string(i)) for i in range(D_VOCAB) if query in str(i)]
        return found[:limit]


def _lens(
    job: Job,
    model: FakeModel,
    tokens: Tokens,
    *,
    top_k: int = 2,
    points: Any = None,
    positions: Any = None,
    tracked: Any = (),
) -> None:
    model.began.append(tokens.texts[0] or "")
    model.calls.append({"top_k": top_k, "positions": positions, "tracked": tracked})
    where = list(range(len(tokens.ids[0]))) if positions is None else list(positions)
    sizes = {"point": len(POINTS), "position": len(where), "k": top_k}
    coords: dict[str, Any] = {
        "point": (("point",), POINTS),
        "layer": (("point",), LAYERS),
        "position": (("position",), where),
        "token": (("position",), [tokens.strings[0][i] for i in where]),
        "input_id": (("position",), [int(tokens.ids[0][i]) for i in where]),
        "k": (("k",), list(range(top_k))),
    }
    if tracked:
        sizes["tracked"] = len(tracked)
        coords["tracked"] = (("tracked",), list(tracked))
        coords["tracked_token"] = (("tracked",), [model.token_string(i) for i in tracked])
    job.declare(sizes, coords)
    for point in range(len(POINTS)):
        while not model.steps.acquire(timeout=0.005):
            job.tick()
        job.tick()
        if point == model.fail_at:
            raise LayerLensError(f"NaN at point {point}; the weights are broken.")
        time.sleep(model.seconds)
        job.emit({"point": point}, _row(point, len(where), top_k, tracked))
        job.progress(point + 1, len(POINTS), POINTS[point])
    job.check("sum", 0.0, 1e-6, "Probabilities sum to one.")


def _row(point: int, length: int, top_k: int, tracked: Any) -> dict[str, np.ndarray]:
    ids = (np.arange(length * top_k).reshape(length, top_k) + point) % D_VOCAB
    row: dict[str, np.ndarray] = {
        "token_id": ids,
        "probability": np.full((length, top_k), 0.5 / (point + 1), dtype=np.float32),
        "entropy": np.full(length, float(point), dtype=np.float32),
    }
    if tracked:
        shape = (length, len(tracked))
        row["tracked_probability"] = np.full(shape, 0.1 * (point + 1), dtype=np.float32)
        row["tracked_rank"] = np.full(shape, point + 1)
    return row


_CELL = ("point", "position")
VARIABLES = {
    "token_id": Variable((*_CELL, "k"), "int32", "1", "token", is_token=True),
    "probability": Variable((*_CELL, "k"), "float32", "1", "probability"),
    "entropy": Variable(_CELL, "float32", "nats", "entropy"),
    "tracked_probability": Variable((*_CELL, "tracked"), "float32", "1", "probability"),
    "tracked_rank": Variable((*_CELL, "tracked"), "int32", "1", "rank", missing=0),
}

FAKE_LENS = Analysis(
    _lens,
    About("logit_lens", "what?", "us", "1", "lens"),
    VARIABLES,
    lambda model, tokens, **options: Work(1, 0, 0),
)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until something holds; fail if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)
