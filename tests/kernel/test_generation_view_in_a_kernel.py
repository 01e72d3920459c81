"""A text that is written in a real kernel: columns as they come, Stop in the middle."""

from __future__ import annotations

from .front_end import FrontEnd, until


def test_it_writes_column_by_column_and_stops_where_it_is_told(kernel: FrontEnd) -> None:
    kernel.run(
        "pace['seconds'] = 0.05; "
        "writing = ll.GenerationView(model, 'w1 w2', max_new_tokens=40, "
        "edits=ll.edit('mlp_out.1', 'scale', 0.5, always=True))"
    )
    comm = kernel.last_opened()
    until(lambda: len(kernel.frames(comm, run=1)) > 1)
    kernel.custom(comm, kind="cancel", run=1)
    kernel.until_state(comm, "cancelled", run=1)
    n = int(kernel.run("print(writing.partial.data.sizes['step'])"))
    assert 1 <= n < 40
    kernel.run("pace['seconds'] = 0.0")
    kernel.set(comm, begin=[5], options={"max_new_tokens": 3})
    kernel.until_state(comm, "done", run=2)
    assert kernel.run("print(writing.wait().data.written_id.values[0])") == "5"
    kernel.run("writing.close()")
