"""What only a real kernel shows: busy cells, subshells, interrupts, the user's own work."""

from __future__ import annotations

import time

import numpy as np
import pytest

from .conftest import SET_UP
from .front_end import FrontEnd, until


def test_it_opens_at_once_and_streams_in_order(kernel: FrontEnd, view: str) -> None:
    frames = kernel.frames(view, run=1)
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[-1]["last"]
    heard = kernel.heard(view)
    kinds = ["frame" if m["content"]["data"]["method"] == "custom" else "meta"
             if "meta" in m["content"]["data"]["state"] else "" for m in heard]  # fmt: skip
    assert kinds.index("meta") < kinds.index("frame")
    first = kernel.customs(view, "frame")[0]
    header = first["content"]["data"]["content"]["arrays"][0]
    values = np.frombuffer(first["buffers"][0], np.dtype(header["dtype"]).newbyteorder("<"))
    assert values.size == np.prod(header["shape"])


def test_a_prompt_from_the_front_end_runs(kernel: FrontEnd, view: str) -> None:
    kernel.set(view, text="w4 w5")
    kernel.until_state(view, "done", run=2)
    assert [t["text"] for t in kernel.states(view, "meta")[-1]["tokens"]] == ["w4", "w5"]
    assert kernel.run("print(view.text, view.wait().data.sizes['position'])") == "w4 w5 2"


def test_token_text_is_data(kernel: FrontEnd, view: str) -> None:
    kernel.set(view, text="<b>bold</b><script>alert(1)</script> w5")
    kernel.until_state(view, "done", run=2)
    token = kernel.states(view, "meta")[-1]["tokens"][0]
    assert token["text"] == "<b>bold</b><script>alert(1)</script>"


def test_stop_in_the_middle_of_a_run(kernel: FrontEnd, view: str) -> None:
    kernel.run("pace['seconds'] = 0.3")
    kernel.set(view, text="w4 w5")
    until(lambda: len(kernel.frames(view, run=2)) > 1)  # a row is done
    begun = time.monotonic()
    kernel.custom(view, kind="cancel", run=2)
    kernel.until_state(view, "cancelled", run=2)
    assert time.monotonic() - begun < 1.0
    assert kernel.frames(view, run=2)[-1]["last"]
    assert kernel.run("print(view.partial is not None, view.result is not None)") == "True True"


def test_a_late_stop_does_not_hit_the_next_run(kernel: FrontEnd, view: str) -> None:
    kernel.run("pace['seconds'] = 0.05")
    kernel.set(view, text="w4 w5")
    kernel.custom(view, kind="cancel", run=1)
    kernel.until_state(view, "done", run=2)


def test_it_streams_while_a_cell_is_busy(kernel: FrontEnd, view: str) -> None:
    cell = kernel.start("pace['seconds'] = 0.1; view.text = 'w7 w8'; time.sleep(1.5)")
    kernel.until_state(view, "done", run=2)
    assert not kernel.ended(cell)
    until(lambda: kernel.ended(cell))


def test_a_subshell_reaches_a_busy_kernel(kernel: FrontEnd, view: str) -> None:
    subshell = kernel.subshell()
    if subshell is None:
        pytest.skip("this kernel has no subshells")
    cell = kernel.start("pace['seconds'] = 0.2; time.sleep(2.5)")
    time.sleep(0.2)
    kernel.set(view, subshell, text="w7 w8")
    until(lambda: kernel.frames(view, run=2))
    kernel.custom(view, subshell, kind="cancel", run=2)
    kernel.until_state(view, "cancelled", run=2)
    assert not kernel.ended(cell)
    until(lambda: kernel.ended(cell))


def test_stop_works_while_a_later_cell_is_busy(kernel: FrontEnd) -> None:
    """The cell that shows the view and the next one run back to back, as with Run All."""
    subshell = kernel.subshell()
    if subshell is None:
        pytest.skip("this kernel has no subshells")
    kernel.run("pace['seconds'] = 0.2; view = ll.LensView(model, 'w1 w2')")
    comm = kernel.last_opened()
    cell = kernel.start("time.sleep(2)")
    until(lambda: kernel.frames(comm))
    kernel.custom(comm, subshell, kind="cancel", run=1)
    kernel.until_state(comm, "cancelled")
    assert not kernel.ended(cell)
    until(lambda: kernel.ended(cell))


def test_an_interrupt_leaves_the_worker_alive(kernel: FrontEnd, view: str) -> None:
    cell = kernel.start("pace['seconds'] = 0.1; view.text = 'w9'; view.wait()")
    until(lambda: kernel.frames(view, run=2))
    kernel.manager.interrupt_kernel()
    until(lambda: kernel.ended(cell))
    assert kernel.of(cell, "error")[0]["content"]["ename"] == "KeyboardInterrupt"
    kernel.until_state(view, "done", run=2)
    kernel.set(view, text="w10 w11")
    kernel.until_state(view, "done", run=3)


def test_an_awaited_cell_lets_messages_through(kernel: FrontEnd, view: str) -> None:
    cell = kernel.start("pace['seconds'] = 0.1; view.text = 'w9 w3'; r = await view.done()")
    until(lambda: kernel.ended(cell))
    assert not kernel.of(cell, "error")
    assert kernel.run("print(r is view.result, r.data.sizes['position'])") == "True 2"


def test_two_views_of_one_model(kernel: FrontEnd, view: str) -> None:
    kernel.run("other = ll.LensView(model, 'w5'); pace['seconds'] = 0.02")
    other = kernel.last_opened()
    for number in range(5):
        kernel.set(view, text=f"w{number} w1")
        kernel.set(other, text=f"w{number}")
    code = "print(view.wait(9).data.attrs['text'], other.wait(9).data.attrs['text'], sep='|')"
    assert kernel.run(code) == "w4 w1|w4"
    for comm in (view, other):
        run = kernel.until_state(comm, "done")["run"]
        assert kernel.frames(comm, run=run)[-1]["last"]
    kernel.run("other.close()")


def test_the_users_own_generate_is_not_disturbed(kernel: FrontEnd, view: str) -> None:
    kernel.run(
        "ids = torch.tensor([[3, 4, 5]])\n"
        "make = lambda: hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,"
        " max_new_tokens=30, pad_token_id=0).tolist()\n"
        "alone = make()\n"
        "lens = ll.logit_lens(model, 'w6 w7')\n"
        "pace['seconds'] = 0.01"
    )
    kernel.set(view, text="w6 w7")
    same = kernel.run("print([make() == alone for _ in range(5)] == [True] * 5)")
    assert same == "True"
    kernel.until_state(view, "done", run=2)
    assert kernel.run("print(view.result.data.equals(lens.data))") == "True"


def test_a_flood_ends_in_the_last_question(kernel: FrontEnd, view: str) -> None:
    kernel.run("pace['seconds'] = 0.05")
    for number in range(500):
        kernel.custom(view, kind="run", text=f"w{number % 60} w2", options={})
    kernel.until_state(view, "done", run=501)
    done = [s["run"] for s in kernel.states(view, "status") if s["state"] == "done"]
    assert done == [1, 501]
    assert kernel.run("print(view.result.data.attrs['text'])") == "w19 w2"


def test_a_reloaded_page_gets_the_picture_again(kernel: FrontEnd, view: str) -> None:
    before = kernel.frames(view, run=1)
    kernel.send(view, {"method": "request_state"})
    until(lambda: any("_esm" in m["content"]["data"].get("state", {}) for m in kernel.heard(view)))
    kernel.custom(view, kind="ready", run=0, seq=0)
    until(lambda: len(kernel.frames(view, run=1)) == 2 * len(before))
    assert kernel.frames(view, run=1)[len(before) :] == before


def test_a_request_is_answered(kernel: FrontEnd, view: str) -> None:
    kernel.custom(view, kind="request", rid=1, method="track", params={"position": 1, "id": 9})
    kernel.custom(view, kind="request", rid=2, method="search", params={"query": "w1", "limit": 3})
    replies = until(
        lambda: len(kernel.customs(view, "reply")) == 2 and kernel.customs(view, "reply")
    )
    results = {m["content"]["data"]["content"]["rid"]: m["content"]["data"]["content"]["result"]
               for m in replies}  # fmt: skip
    assert len(results[1]["rank"]) == len(kernel.states(view, "meta")[-1]["points"])
    assert len(results[2]) == 3


def test_an_error_is_said_and_the_next_run_works(kernel: FrontEnd, view: str) -> None:
    kernel.set(view, text="")
    assert kernel.until_state(view, "error", run=2)["message"]
    kernel.set(view, text="w1 " * 100)
    assert "64" in kernel.until_state(view, "error", run=3)["message"]
    kernel.set(view, text="w1")
    kernel.until_state(view, "done", run=4)


def test_nan_weights_are_said(kernel: FrontEnd, view: str) -> None:
    kernel.run("weight = hf.model.layers[3].mlp.up_proj.weight\nold = weight.data.clone()\n"
               "weight.data[0, 0] = float('nan')")  # fmt: skip
    kernel.set(view, text="w1 w2")
    message = kernel.until_state(view, "error", run=2)["message"]
    kernel.run("weight.data.copy_(old)")
    assert "NaN" in message
    kernel.set(view, text="w1 w2 w3")
    kernel.until_state(view, "done", run=3)


def test_a_restarted_kernel_starts_anew(kernel: FrontEnd) -> None:
    kernel.run("pace['seconds'] = 0.2; view = ll.LensView(model, 'w1 w2')")
    old = kernel.last_opened()
    until(lambda: kernel.frames(old))
    kernel.restart()
    kernel.custom(old, kind="ready", run=1, seq=1)
    kernel.run(SET_UP, seconds=120)
    kernel.run("view = ll.LensView(model, 'w1 w2')")
    comm = kernel.last_opened()
    assert comm != old
    kernel.until_state(comm, "done", run=1)
