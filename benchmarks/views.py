"""What a view of attention sends, and when its first picture is there, beside the rivals.

    python benchmarks/views.py                     # the default model
    python benchmarks/views.py --model gpt2-shape  # GPT-2 small with random weights
    python benchmarks/views.py --quick             # a tiny model, seconds: does it run?

``bytes a layer`` is what a page fetches when a layer is looked at: a byte for each weight that a
causal model has, which is the floor for eight bits, and a header. ``first picture`` is the time
from the call of the view until the first layer has been fetched, as a page fetches it, next to the
bare forward of the same weights in the same process; ``first row`` that until the lens table has
one. The payload of a rival is the HTML that it hands to the notebook for the same attention, which
it needs all at once: BertViz for every layer, CircuitsVis one layer at a time, here added up. They
take part where they are installed (``pip install -e .[rivals]``).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable
from typing import Any, ClassVar

import comm
import torch
from measure import gpt2_shape, rivals, tiny
from timing import Timer

import layerlens as ll
from layerlens.export.html import html_bytes

SECONDS = 60.0
"""After which a view that says nothing has failed."""


class Page(comm.base_comm.BaseComm):  # type: ignore[misc]
    """A front end that notes when what arrives, and asks for the first layer that is done."""

    opened: ClassVar[list[Page]] = []

    def __init__(self, *given: Any, **named: Any) -> None:
        self.replied: float | None = None
        self.framed: float | None = None
        self.header: dict[str, Any] = {}
        self.bytes = 0
        self.asked = False
        super().__init__(*given, **named)
        Page.opened.append(self)

    def publish_msg(
        self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any
    ) -> None:
        """Take a message of the kernel."""
        now = time.perf_counter()
        data = data or {}
        status = data.get("state", {}).get("status", {})
        if status.get("done", 0) >= 1 and not self.asked and msg_type == "comm_msg":
            self.asked = True
            self.ask(method="slice", params={"weighting": "pattern"})
        content = data.get("content", {}) if data.get("method") == "custom" else {}
        if content.get("kind") == "frame" and content.get("arrays") and self.framed is None:
            self.framed = now
        if content.get("kind") == "reply":
            self.replied, self.header = now, content["result"]
            self.bytes = sum(len(bytes(part)) for part in buffers)

    def ask(self, **request: Any) -> None:
        """Send a request, as a page does."""
        content = {"kind": "request", "rid": 1, **request}
        data = {"method": "custom", "content": content}
        self.handle_msg({"content": {"data": data}, "buffers": []})


def until(there: Callable[[], Any]) -> None:
    """Wait until something is there."""
    end = time.perf_counter() + SECONDS
    while there() is None:
        if time.perf_counter() > end:
            raise RuntimeError("The view did not answer.")
        time.sleep(0.0005)


def first_picture(model: ll.LensModel, ids: list[int]) -> tuple[float, Page]:
    """Seconds until the first layer of attention is on the page, and the page."""
    start = time.perf_counter()
    view = ll.AttentionView(model, ids, layer=0)
    page = Page.opened[-1]
    until(lambda: page.replied)
    seconds = float(page.replied or 0) - start
    view.wait()
    view.close()
    return seconds, page


def first_row(model: ll.LensModel, ids: list[int]) -> float:
    """Seconds until the lens table has its first row."""
    start = time.perf_counter()
    view = ll.LensView(model, ids)
    page = Page.opened[-1]
    until(lambda: page.framed)
    view.wait()
    view.close()
    return float(page.framed or 0) - start


def payloads(attention: tuple[torch.Tensor, ...], words: list[str]) -> dict[str, tuple[int, float]]:
    """Bytes that each rival hands to the notebook for all layers, and its seconds."""
    found = {}
    installed = rivals("bertviz", "circuitsvis")
    if "bertviz" in installed:
        from bertviz import head_view

        start = time.perf_counter()
        shown = head_view(attention, words, html_action="return")
        found["BertViz head_view"] = len(shown.data), time.perf_counter() - start
    if "circuitsvis" in installed:
        from circuitsvis.attention import attention_heads

        start = time.perf_counter()
        sizes = [len(str(attention_heads(layer[0], words))) for layer in attention]
        found["CircuitsVis attention_heads"] = sum(sizes), time.perf_counter() - start
    return found


def measure(model: ll.LensModel, length: int, repeats: int) -> None:
    """Print the table of one length."""
    drawn = random.Random(0)
    ids = [drawn.randrange(2, model.d_vocab_in) for _ in range(length)]
    row = torch.tensor([ids])

    def bare() -> object:
        with model.running():
            return model.hf(row)

    first_picture(model, ids)
    pairs = [
        (Timer.once(bare)[0], first_picture(model, ids)[0], first_row(model, ids))
        for _ in range(repeats)
    ]
    once, picture, lens = (statistics.median(column) for column in zip(*pairs, strict=True))
    _, page = first_picture(model, ids)
    floor = model.n_heads * length * (length + 1) // 2
    start = time.perf_counter()
    result = ll.attention(model, ids)
    computed = time.perf_counter() - start
    start = time.perf_counter()
    view = result.widget()
    packed = html_bytes(*view._frozen(), "attention")
    written = time.perf_counter() - start
    print(f"\n{length} tokens, {model.n_layers} layers of {model.n_heads} heads")
    print(f"  bytes a layer    {page.bytes:>12,}   {page.bytes / floor:.2f} of the floor")
    print(
        f"  all layers       {page.bytes * model.n_layers:>12,}   fetched when they are looked at"
    )
    print(f"  a page by itself {len(packed):>12,}   written in {written:.2f} s, the script in it")
    print(f"  bare forward     {1e3 * once:>9.0f} ms")
    print(f"  first picture    {1e3 * picture:>9.0f} ms   {picture / once:.2f} of the forward")
    print(f"  first row, lens  {1e3 * lens:>9.0f} ms   {lens / once:.2f} of the forward")
    print(f"  ll.attention     {1e3 * computed:>9.0f} ms   {computed / once:.2f} of the forward")
    pattern = torch.from_numpy(result.data["pattern"].values)
    words = [str(word) for word in result.data["token"].values]
    for name, (size, seconds) in payloads(tuple(pattern[:, None]), words).items():
        ratio = size / (page.bytes * model.n_layers)
        print(f"  {name:<28} {size:>12,} bytes in {seconds:.2f} s: {ratio:.0f} times all layers")


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=("default", "gpt2-shape"), default="default")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.model, arguments.lengths = "tiny", [16]
        arguments.repeats = arguments.threads = 1
    torch.set_num_threads(arguments.threads)
    comm.create_comm = Page
    model = {"default": ll.load, "gpt2-shape": gpt2_shape, "tiny": tiny}[arguments.model]()
    print(f"{model.name}; load {os.getloadavg()[0]:.1f}, {arguments.threads} threads")
    for length in arguments.lengths:
        measure(model, length, arguments.repeats)


if __name__ == "__main__":
    main()
