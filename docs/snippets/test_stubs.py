"""What a stub can do."""

import pytest
from pytest_qmp import FakeQMPServer, QMPClient, QMPTimeoutError


# region: slow
def test_qemu_is_slow(qmp_fake_server: FakeQMPServer) -> None:
    qmp_fake_server.on("query-status").delay(0.5)

    with QMPClient.connect(qmp_fake_server.address) as qmp:
        with pytest.raises(QMPTimeoutError):
            qmp.execute("query-status", timeout=0.1)
        assert qmp.execute("query-name") == {}  # the late reply is not taken for this one


# endregion
# region: once
def test_first_try_fails(qmp_fake_server: FakeQMPServer) -> None:
    stub = qmp_fake_server.on("device_add", driver="virtio-net-pci")
    stub.reply_error("GenericError", "the bus is busy").once()
    qmp_fake_server.on("device_add").reply()

    with QMPClient.connect(qmp_fake_server.address) as qmp:
        with pytest.raises(Exception, match="busy"):
            qmp.device_add(driver="virtio-net-pci", id="net0")
        qmp.device_add(driver="virtio-net-pci", id="net0")

    qmp_fake_server.assert_called("device_add", id="net0")


# endregion
# region: call
def test_reply_made_of_the_arguments(qmp_fake_server: FakeQMPServer) -> None:
    qmp_fake_server.on("human-monitor-command").call(lambda got: f"you said {got['command-line']}")

    with QMPClient.connect(qmp_fake_server.address) as qmp:
        assert qmp.human_monitor_command(command_line="info block") == "you said info block"


# endregion
# region: events
def test_guest_does_something(qmp_fake_server: FakeQMPServer) -> None:
    with QMPClient.connect(qmp_fake_server.address) as qmp:
        qmp_fake_server.guest.reset()
        qmp.wait_for_event("RESET", match={"data": {"guest": True}})

        qmp_fake_server.emit(
            "DEVICE_DELETED", {"device": "net0", "path": "/machine/peripheral/net0"}
        )
        assert qmp.wait_for_event("DEVICE_DELETED").data["device"] == "net0"


# endregion


# region: unplug
def test_device_is_gone_only_with_its_event(qmp_fake_server: FakeQMPServer) -> None:
    gone = {"device": "net0", "path": "/machine/peripheral/net0"}
    qmp_fake_server.on("device_del", id="net0").reply().then_emit("DEVICE_DELETED", gone)

    with QMPClient.connect(qmp_fake_server.address) as qmp:
        qmp.device_del(id="net0")
        assert qmp.wait_for_event("DEVICE_DELETED").data == gone


# endregion


# region: misbehave
def test_server_misbehaves(qmp_fake_server: FakeQMPServer) -> None:
    faults = qmp_fake_server.faults
    faults.refuse_connections(seconds=0.2)  # QEMU has not got to listen yet
    faults.event_before_greeting("RESUME")
    faults.split_writes(3)  # no reply comes in one piece

    with QMPClient.connect(qmp_fake_server.address) as qmp:
        assert qmp.query_status()["status"] == "running"

        faults.stop_answering()
        with pytest.raises(QMPTimeoutError):
            qmp.execute("query-status", timeout=0.1)

        faults.heal()
        assert qmp.execute("query-name") == {}


# endregion
