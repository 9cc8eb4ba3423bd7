"""Tests on a recording of a real QEMU."""

# region: strict
from pathlib import Path

from pytest_qmp import FakeQMPServer, QMPClient

RECORDING = Path(__file__).with_name("pause.jsonl")


def test_the_same_conversation() -> None:
    with FakeQMPServer.replay(RECORDING) as server, QMPClient.connect(server.address) as qmp:
        qmp.execute("cont")
        assert qmp.execute("query-status")["status"] == "running"
        qmp.execute("stop")


# endregion
# region: loose
def test_the_same_answers() -> None:
    server = FakeQMPServer.replay(RECORDING, strict=False)
    with server, QMPClient.connect(server.address) as qmp:
        qmp.execute("stop")
        qmp.execute("cont")
        qmp.wait_for_event("RESUME")


# endregion
