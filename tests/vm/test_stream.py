"""The log of a guest's output."""

from __future__ import annotations

import threading

from pytest_qmp.vm.stream import OutputStream


def test_the_whole_has_its_beginning_while_it_grows() -> None:
    stream = OutputStream()
    stream.feed(b"first")
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            stream.feed(b".")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(stream.everything().startswith(b"first") for _ in range(2000))
    finally:
        over.set()
        writer.join()
        stream.close()
