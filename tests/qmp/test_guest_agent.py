"""The guest agent's client on a scripted agent: in sync, out of it, programs, files, errors."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from pytest_qmp import GuestAgentClient, GuestExecResult
from pytest_qmp.errors import (
    QMPCommandError,
    QMPConnectError,
    QMPDisconnectedError,
    QMPError,
    QMPProtocolError,
    QMPTimeoutError,
)
from pytest_qmp.qmp import guest_agent
from pytest_qmp.qmp.agent_session import AgentSession

from .conftest import InThread, Play, Serve
from .peer import GREETING_LINE, LIMIT, Peer, line, reply

SYNC = "guest-sync-delimited"
MARK = b"\xff"
SOON = 0.4

PARSE_ERROR = line({"error": {"class": "GenericError", "desc": "JSON parse error, stray '\\xff'"}})
"""What an agent says of the byte with which a client announces its sync."""


class Agent(Peer):
    """The agent's side of a channel, for a script."""

    def request(self) -> Any:
        """The next command; 0xFF throws away what came before it, as in the agent's parser."""
        while b"\n" not in self._received:
            data = self.sock.recv(1 << 20)
            assert data, f"the client left in the middle of {self._received[:200]!r}"
            self._received += data
        text, _, self._received = self._received.partition(b"\n")
        return json.loads(text.rpartition(MARK)[2])

    def expect(self, command: str) -> dict[str, Any]:
        message: dict[str, Any] = self.request()
        assert message["execute"] == command, f"{command} was to come, but {message} came"
        assert "id" not in message, "agents before QEMU 3.0 refuse a command with an id"
        return message

    def sync(self, *before: bytes) -> None:
        """Answers a sync, as the agent does, after whatever else is still in the channel."""
        found = self.expect(SYNC)
        self.send(*before, PARSE_ERROR, MARK, reply(found, found["arguments"]["id"]))

    def serve_syncs(self) -> dict[str, Any]:
        """Answers syncs, however many come; returns the first other command."""
        found: dict[str, Any]
        while (found := self.request())["execute"] == SYNC:
            self.send(PARSE_ERROR, MARK, reply(found, found["arguments"]["id"]))
        return found

    def refuse(self, command: str, cls: str, desc: str) -> None:
        self.expect(command)
        self.send({"error": {"class": cls, "desc": desc}})


AgentScript = Callable[[Agent], object]


def scripted(script: AgentScript) -> Callable[[Peer], None]:
    def play(peer: Peer) -> None:
        script(Agent(peer.sock))

    return play


class Meet(Protocol):
    """A client in sync with an agent that plays the script, then sees the client leave."""

    def __call__(self, script: AgentScript | None = None, **options: Any) -> GuestAgentClient: ...


@pytest.fixture(autouse=True)
def one_sync_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts count syncs; on a busy host one would be repeated before it can be answered."""
    monkeypatch.setattr("pytest_qmp.qmp.agent_connecting._FIRST_REPEAT_SECONDS", LIMIT)


@pytest.fixture
def agents() -> Iterator[list[GuestAgentClient]]:
    """Clients, closed before the scripts have to have ended."""
    agents: list[GuestAgentClient] = []
    yield agents
    for agent in agents:
        agent.close()


@pytest.fixture
def meet(play: Play, agents: list[GuestAgentClient]) -> Meet:
    def meet(script: AgentScript | None = None, **options: Any) -> GuestAgentClient:
        def whole(agent: Agent) -> None:
            agent.sync()
            if script is not None:
                script(agent)
            if agent.sock.fileno() >= 0:
                agent.wait_for_end()

        timeout = options.pop("timeout", LIMIT)
        agents.append(GuestAgentClient.connect(play(scripted(whole)), timeout=LIMIT, **options))
        agents[-1].timeout = timeout
        return agents[-1]

    return meet


# -- into sync -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stale",
    [
        b"",
        b'{"return": {"pid": 12, "exi',
        b'{"return": 7}\r\n' * 3,
        b'bits": "of an earlier reply"}\r\n{"return": {}}\r\n',
        MARK + b'{"return": 12345}\r\n{"return": {}}\r\n',
        MARK + MARK + b'{"return": {"half',
        MARK + b"login: \r\n",
        MARK + b'{"execute":"guest-sync-delimited","arguments":{"id":1}}\r\n',
    ],
    ids=["none", "half", "whole", "tail", "sync", "half-sync", "no-json", "echo"],
)
def test_what_came_before_the_sync_is_dropped(
    play: Play, agents: list[GuestAgentClient], stale: bytes
) -> None:
    def script(agent: Agent) -> None:
        agent.sync(stale)
        agent.answer("guest-ping")

    agents.append(GuestAgentClient.connect(play(scripted(script)), timeout=LIMIT))
    agents[0].ping()


def test_sync_at_every_split_of_the_stream() -> None:
    for split in range(200):
        session = AgentSession()
        sync = session.sync_call()
        session.expect(sync)
        number = json.loads(sync.data[1:])["arguments"]["id"]
        stream = b'"}{' + PARSE_ERROR + MARK + line({"return": 5}) + MARK + line({"return": number})
        for piece in (stream[:split], stream[split:]):
            session.receive(piece)
        assert session.synced, split
        assert sync.reply == {"return": number}
        assert session.dropped == 0


def test_agent_that_starts_late_is_waited_for(
    play: Play, agents: list[GuestAgentClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_qmp.qmp.agent_connecting._FIRST_REPEAT_SECONDS", 0.01)

    def script(agent: Agent) -> None:
        # All that waits in the channel is answered, once there is somebody to answer.
        syncs = [agent.expect(SYNC) for _ in range(4)]
        for one in syncs:
            agent.send(PARSE_ERROR, MARK, reply(one, one["arguments"]["id"]))
        agent.reply(agent.serve_syncs())

    agents.append(GuestAgentClient.connect(play(scripted(script)), timeout=LIMIT))
    agents[0].ping()


def test_agent_that_swallowed_the_first_syncs_gets_another(
    play: Play, agents: list[GuestAgentClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_qmp.qmp.agent_connecting._FIRST_REPEAT_SECONDS", 0.01)

    def script(agent: Agent) -> None:
        agent.expect(SYNC)
        agent.expect(SYNC)
        agent.reply(agent.serve_syncs())

    agents.append(GuestAgentClient.connect(play(scripted(script)), timeout=LIMIT))
    agents[0].ping()


def test_socket_that_is_there_only_later(
    tmp_path: Path, in_thread: InThread, agents: list[GuestAgentClient]
) -> None:
    path = tmp_path / "agent.sock"
    client = in_thread(lambda: GuestAgentClient.connect(path, timeout=LIMIT))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(LIMIT)
        with listener.accept()[0] as sock:
            Agent(sock).sync()
            agents.append(client.result())
    assert repr(agents[0]) == f"<GuestAgentClient of the guest agent at unix:{path}>"


def test_no_agent_says_what_to_check(play: Play) -> None:
    def script(agent: Agent) -> None:
        agent.expect(SYNC)
        agent.wait_for_end()

    began = time.monotonic()
    with pytest.raises(QMPTimeoutError) as caught:
        GuestAgentClient.connect(play(scripted(script)), timeout=SOON)
    assert SOON <= time.monotonic() - began < LIMIT / 2
    assert "waited 0.4 s for the reply to 'guest-sync-delimited' from the guest" in str(
        caught.value
    )
    assert "it has not sent a byte" in str(caught.value)
    assert "qemu-guest-agent is installed and runs" in str(caught.value)


def test_somebody_who_never_syncs_is_quoted(play: Play) -> None:
    def script(agent: Agent) -> None:
        agent.expect(SYNC)
        agent.send(b"Welcome to the guest!\r\nlogin: ")
        agent.wait_for_end()

    with pytest.raises(QMPTimeoutError, match=r"30 bytes came.*no reply.*login: '"):
        GuestAgentClient.connect(play(scripted(script)), timeout=SOON)


def test_monitor_is_recognised(play: Play) -> None:
    def script(agent: Agent) -> None:
        agent.send(GREETING_LINE)
        agent.expect(SYNC)
        agent.wait_for_end()

    with pytest.raises(QMPTimeoutError, match="QEMU's monitor, not a guest agent"):
        GuestAgentClient.connect(play(scripted(script)), timeout=SOON)


def test_channel_that_nobody_reads_fills_no_memory(agents: list[GuestAgentClient]) -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with theirs:
        theirs.settimeout(LIMIT)
        agent = Agent(theirs)
        client = GuestAgentClient(timeout=LIMIT)
        agents.append(client)
        thread = threading.Thread(target=client._adopt, args=(ours, client._deadline(LIMIT)))
        thread.start()
        agent.sync()
        thread.join(LIMIT)
        with pytest.raises(QMPTimeoutError):
            client.guest_set_time(time=list(range(100_000)), timeout=SOON)
        for _ in range(3):
            with pytest.raises(QMPTimeoutError):
                client.ping(timeout=0.01)
        connection = client._connection
        assert connection is not None
        assert len(connection._transport.outbox) <= 1


def test_nobody_there_names_the_option_of_an_agent(tmp_path: Path) -> None:
    with pytest.raises(QMPConnectError) as caught:
        GuestAgentClient.connect(tmp_path / "none", timeout=0.01)
    assert "there is no such socket" in str(caught.value)
    assert "virtserialport,chardev=agent,name=org.qemu.guest_agent.0" in str(caught.value)
    assert "-qmp" not in str(caught.value)


def test_channel_that_closes_before_the_sync(play: Play) -> None:
    with pytest.raises(QMPDisconnectedError, match="the guest agent closed the connection"):
        GuestAgentClient.connect(play(scripted(lambda agent: agent.expect(SYNC))), timeout=LIMIT)


# -- commands --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda a: a.execute("guest-info"), {"execute": "guest-info"}),
        (lambda a: a.guest_info(), {"execute": "guest-info"}),
        (lambda a: a.ping(), {"execute": "guest-ping"}),
        (
            lambda a: a.guest_exec({"path": "true"}, capture_output=True),
            {"execute": "guest-exec", "arguments": {"path": "true", "capture-output": True}},
        ),
    ],
)
def test_commands_as_they_are_sent(
    meet: Meet, use: Callable[[GuestAgentClient], object], message: dict[str, Any]
) -> None:
    def script(agent: Agent) -> None:
        request = agent.request()
        assert request == message
        agent.reply(request)

    use(meet(script))


@pytest.mark.parametrize("echo", [False, True])
def test_agents_that_echo_ids_and_agents_that_do_not(meet: Meet, echo: bool) -> None:
    """No id is sent, also not after a timeout: ``Agent.expect`` sees to that."""

    def script(agent: Agent) -> None:
        for number in range(3):
            agent.reply(agent.expect("guest-get-time"), number, echo=echo)
        late = agent.expect("guest-get-time")
        agent.sync(line(reply(late, 3, echo=echo)))
        agent.reply(agent.expect("guest-get-time"), 4, echo=echo)

    client = meet(script)
    assert [client.guest_get_time() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(QMPTimeoutError):
        client.guest_get_time(timeout=SOON)
    assert client.guest_get_time() == 4


def test_command_after_a_timeout_syncs_first_and_drops_the_late_reply(meet: Meet) -> None:
    timed_out = threading.Event()

    def script(agent: Agent) -> None:
        slow = agent.expect("guest-get-time")
        agent.wait(timed_out)
        late = line(reply(slow, 111))
        agent.sync(late)
        agent.answer("guest-get-time", 222)

    client = meet(script)
    with pytest.raises(QMPTimeoutError, match=r"waited 0\.4 s for the reply to 'guest-get-time'"):
        client.guest_get_time(timeout=SOON)
    timed_out.set()
    assert client.guest_get_time() == 222


def test_agent_that_lost_the_command_answers_the_next(meet: Meet) -> None:
    """It was restarted, say: order alone would take the next reply for the lost one."""

    def script(agent: Agent) -> None:
        agent.expect("guest-get-time")
        agent.sync(b'{"return": 1')
        agent.answer("guest-get-time", 2)
        agent.sync()
        agent.answer("guest-get-time", 3)

    client = meet(script)
    with pytest.raises(QMPTimeoutError):
        client.guest_get_time(timeout=SOON)
    assert client.guest_get_time() == 2
    client.sync()
    assert client.guest_get_time() == 3


def test_reply_that_nobody_asked_for_makes_it_sync(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        request = agent.expect("guest-get-time")
        agent.send(reply(request, 1), reply(request, 1))
        agent.sync()
        agent.answer("guest-get-time", 2)

    client = meet(script)
    assert client.guest_get_time() == 1
    assert client.guest_get_time() == 2


@pytest.mark.parametrize(
    "garbage", [b"Segmentation fault\r\n", b'{"return": nonsense}\r\n', b"{}\n"]
)
def test_garbage_is_shown_and_the_next_command_syncs(meet: Meet, garbage: bytes) -> None:
    def script(agent: Agent) -> None:
        agent.expect("guest-get-time")
        agent.send(garbage)
        agent.sync()
        agent.answer("guest-get-time", 2)

    client = meet(script)
    with pytest.raises(QMPProtocolError) as caught:
        client.guest_get_time()
    assert repr(garbage.strip())[2:-1] in str(caught.value)
    assert client.guest_get_time() == 2


def test_reply_over_the_limit_leaves_it_usable(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        agent.answer("guest-get-time", "x" * 2000)
        agent.sync()
        agent.answer("guest-get-time", 2)

    client = meet(script, max_message_size=1000)
    with pytest.raises(QMPProtocolError, match="longer than the limit of 1000 bytes"):
        client.guest_get_time()
    assert client.guest_get_time() == 2


def test_sync_of_the_callers_own_is_answered(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        found = agent.expect(SYNC)
        agent.send(MARK, reply(found, 5))
        agent.answer("guest-get-time", 2)

    client = meet(script)
    assert client.guest_sync_delimited(id=5) == 5
    assert client.guest_get_time() == 2


def test_agent_that_dies_in_a_command(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        agent.expect("guest-get-time")
        agent.send(b'{"retu')
        agent.close()

    client = meet(script)
    client.explain_loss = lambda: "QEMU exited with status 0"
    with pytest.raises(QMPDisconnectedError, match=r"'guest-get-time' was awaited: QEMU exited"):
        client.guest_get_time()
    assert not client.connected
    with pytest.raises(QMPDisconnectedError):
        client.ping()


def test_reconnect(serve: Serve, agents: list[GuestAgentClient]) -> None:
    def first(agent: Agent) -> None:
        agent.sync()
        agent.expect("guest-ping")

    def second(agent: Agent) -> None:
        agent.sync(b'{"return": {}}\r\n')
        agent.answer("guest-get-time", 1)
        agent.wait_for_end()

    agents.append(GuestAgentClient.connect(serve(scripted(first), scripted(second)), timeout=LIMIT))
    with pytest.raises(QMPDisconnectedError):
        agents[0].ping()
    agents[0].reconnect()
    assert agents[0].guest_get_time() == 1


def test_reconnect_without_an_address_names_sync(meet: Meet) -> None:
    with pytest.raises(QMPError, match=r"no address.*sync\(\) is enough"):
        meet().reconnect()


def test_closed_and_unconnected_clients_say_so(meet: Meet) -> None:
    client = meet()
    with client:
        pass
    client.close()
    with pytest.raises(QMPDisconnectedError, match="was closed here"):
        client.ping()
    assert repr(client) == "<GuestAgentClient of the guest agent, not connected>"
    with pytest.raises(QMPDisconnectedError, match="not connected"):
        GuestAgentClient().ping()


def test_attributes_that_are_no_commands(meet: Meet) -> None:
    client = meet()
    with pytest.raises(AttributeError, match="begin with guest_"):
        client.query_status()
    with pytest.raises(TypeError, match="are a dict, or keywords"):
        client.execute("guest-exec", ["true"])  # type: ignore[arg-type]


def test_threads_take_turns(meet: Meet, in_thread: InThread) -> None:
    asked = threading.Event()
    refused = threading.Event()

    def script(agent: Agent) -> None:
        request = agent.expect("guest-get-time")
        asked.set()
        agent.wait(refused)
        agent.reply(request, 1)
        for _ in range(20):
            request = agent.request()
            agent.reply(request, request["arguments"]["number"])

    client = meet(script)
    first = in_thread(client.guest_get_time)
    assert asked.wait(LIMIT)
    with pytest.raises(QMPTimeoutError, match="for the turn of 'guest-ping': another thread"):
        client.ping(timeout=SOON)
    refused.set()
    assert first.result() == 1
    rest = [in_thread(partial(client.guest_echo, number=number)) for number in range(20)]
    assert [one.result() for one in rest] == list(range(20))


class InterruptionError(Exception):
    """Raised out of a signal handler."""


def test_interrupt_leaves_it_usable(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        late = agent.expect("guest-get-time")
        os.kill(os.getpid(), signal.SIGUSR1)
        agent.sync(line(reply(late, 1)))
        agent.answer("guest-get-time", 2)

    def interrupt(signum: int, frame: object) -> None:
        with pytest.raises(QMPError, match="used by a signal handler"):
            client.ping()
        raise InterruptionError

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        client = meet(script)
        with pytest.raises(InterruptionError):
            client.guest_get_time()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert client.guest_get_time() == 2


def test_interrupt_once_it_was_sent_leaves_it_usable(
    meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(agent: Agent) -> None:
        late = agent.expect("guest-get-time")
        agent.sync(line(reply(late, 1)))
        agent.answer("guest-get-time", 2)

    client = meet(script)
    connection = client._connection
    assert connection is not None
    flush = connection._flush

    def interrupted() -> None:
        flush()
        raise InterruptionError

    with monkeypatch.context() as patch:
        patch.setattr(connection, "_flush", interrupted)
        with pytest.raises(InterruptionError):
            client.guest_get_time()
    assert client.guest_get_time() == 2


def test_arguments_that_are_no_json_cost_no_sync(meet: Meet) -> None:
    client = meet(lambda agent: agent.answer("guest-get-time", 2))
    with pytest.raises(TypeError, match="can't be sent"):
        client.guest_set_time(time=object())
    assert client.guest_get_time() == 2


# -- refusals --------------------------------------------------------------------------------------

INFO = {
    "version": "7.2.22",
    "supported_commands": [
        {"name": "guest-info", "enabled": True, "success-response": True},
        {"name": "guest-exec", "enabled": False, "success-response": True},
        {"name": "guest-file-open", "enabled": True, "success-response": True},
    ],
}


def test_refusal(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        agent.refuse("guest-file-close", "GenericError", "handle '5' has not been found")

    with pytest.raises(QMPCommandError) as caught:
        meet(script).guest_file_close(handle=5)
    assert str(caught.value) == (
        "the guest agent refused 'guest-file-close' with {'handle': 5}: GenericError: "
        "handle '5' has not been found"
    )


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("guest-file-opne", "no such command; did you mean 'guest-file-open'"),
        ("info", "no such command; did you mean 'guest-info'"),
        ("guest-zzz", "no such command among its 3"),
        ("guest-exec", "has it, but it is disabled"),
    ],
)
def test_command_that_is_not_there_or_disabled(meet: Meet, command: str, hint: str) -> None:
    def script(agent: Agent) -> None:
        agent.refuse(command, "CommandNotFound", f"The command {command} has not been found")
        agent.answer("guest-info", INFO)

    with pytest.raises(QMPCommandError) as caught:
        meet(script).execute(command)
    assert hint in str(caught.value)
    assert "7.2.22" in str(caught.value)
    assert caught.value.error_class == "CommandNotFound"


def test_hint_that_can_not_be_had_is_left_out(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        agent.refuse("guest-zzz", "CommandNotFound", "no")
        agent.refuse("guest-info", "CommandNotFound", "no")

    with pytest.raises(QMPCommandError, match=r"refused 'guest-zzz': CommandNotFound: no$"):
        meet(script).execute("guest-zzz")


# -- commands that say nothing when they succeed ---------------------------------------------------


def test_shutdown_returns_once_the_agent_answers_again(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        agent.sync()
        assert agent.expect("guest-shutdown")["arguments"] == {"mode": "halt"}
        found = agent.expect(SYNC)
        agent.send(MARK, reply(found, found["arguments"]["id"]))
        agent.sync()
        agent.answer("guest-get-time", 1)

    client = meet(script)
    assert client.guest_shutdown(mode="halt") is None
    assert client.guest_get_time() == 1


def test_shutdown_returns_when_the_machine_is_gone(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        agent.sync()
        agent.expect("guest-shutdown")
        agent.close()

    meet(script).guest_shutdown()


def test_suspend_returns_without_an_answer(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        agent.sync()
        agent.expect("guest-suspend-ram")
        agent.expect(SYNC)

    meet(script).guest_suspend_ram(timeout=SOON)


def test_shutdown_that_is_refused(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        agent.sync()
        agent.expect("guest-shutdown")
        found = agent.expect(SYNC)
        error = {"class": "GenericError", "desc": "child process has failed to shutdown"}
        agent.send({"error": error}, MARK, reply(found, found["arguments"]["id"]))

    with pytest.raises(QMPCommandError, match="failed to shutdown"):
        meet(script).guest_shutdown()


def test_shutdown_of_an_agent_that_is_not_there_is_no_success(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        agent.expect(SYNC)

    with pytest.raises(QMPTimeoutError, match=SYNC):
        meet(script).guest_shutdown(timeout=SOON)


# -- programs --------------------------------------------------------------------------------------


def test_exec(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        request = agent.answer("guest-exec", {"pid": 42})
        assert request["arguments"] == {
            "path": "tr",
            "arg": ["a", "b"],
            "capture-output": True,
            "input-data": b64encode(b"banana\0").decode(),
            "env": ["LANG=C", "HOME=/"],
        }
        for _ in range(2):
            found = agent.answer("guest-exec-status", {"exited": False})
            assert found["arguments"] == {"pid": 42}
        agent.answer(
            "guest-exec-status",
            {
                "exited": True,
                "exitcode": 3,
                "out-data": b64encode(b"bbnbnb\0").decode(),
                "err-data": b64encode(b"\xff").decode(),
                "out-truncated": True,
            },
        )

    result = meet(script).exec(["tr", "a", "b"], b"banana\0", env={"LANG": "C", "HOME": "/"})
    assert result == GuestExecResult(3, None, b"bbnbnb\0", b"\xff", True, False)


def test_exec_that_a_signal_ends_and_input_as_text(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        request = agent.answer("guest-exec", {"pid": 1})
        assert b64decode(request["arguments"]["input-data"]) == "é".encode()
        assert "env" not in request["arguments"]
        agent.answer("guest-exec-status", {"exited": True, "signal": 9})

    assert meet(script).exec(["cat"], "é") == GuestExecResult(None, 9, b"", b"")


def test_exec_that_runs_on(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        agent.answer("guest-exec", {"pid": 42})
        while (found := agent.request())["execute"] == "guest-exec-status":
            agent.reply(found, {"exited": False})
        if found["execute"] == SYNC:  # the last look had no time left for its reply
            agent.send(MARK, reply(found, found["arguments"]["id"]))
            found = agent.request()
        agent.reply(found)

    client = meet(script)
    began = time.monotonic()
    with pytest.raises(QMPTimeoutError) as caught:
        client.exec(["sleep", "60"], timeout=SOON)
    assert SOON <= time.monotonic() - began < LIMIT / 2
    assert "waited 0.4 s for the end of ['sleep', '60'], process 42 in the guest" in str(
        caught.value
    )
    client.ping()


@pytest.mark.parametrize("argv", ["ls -l", [], b"ls"])
def test_exec_takes_a_list(meet: Meet, argv: Any) -> None:
    with pytest.raises(TypeError, match=r'list of a program.*\["sh", "-c"'):
        meet().exec(argv)


# -- files -----------------------------------------------------------------------------------------


def opened(agent: Agent, path: str, mode: str) -> None:
    request = agent.answer("guest-file-open", 1000)
    assert request["arguments"] == {"path": path, "mode": mode}


def closed(agent: Agent) -> None:
    assert agent.answer("guest-file-close")["arguments"] == {"handle": 1000}


def test_read_file_in_parts(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        opened(agent, "/etc/motd", "rb")
        for part, eof in ((b"he", False), (b"llo\0", False), (b"", True)):
            text = b64encode(part).decode()
            found = agent.answer(
                "guest-file-read", {"count": len(part), "buf-b64": text, "eof": eof}
            )
            assert found["arguments"]["handle"] == 1000
        closed(agent)

    assert meet(script).read_file(Path("/etc/motd")) == b"hello\0"


def test_write_file_in_parts(meet: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_agent, "CHUNK", 4)
    written = []

    def script(agent: Agent) -> None:
        opened(agent, "C:\\x", "wb")
        for count in (4, 1, 4, 1):
            request = agent.expect("guest-file-write")
            written.append(b64decode(request["arguments"]["buf-b64"])[:count])
            agent.reply(request, {"count": count, "eof": False})
        agent.answer("guest-file-flush")
        closed(agent)

    meet(script).write_file("C:\\x", bytearray(b"0123456789"))
    assert b"".join(written) == b"0123456789"


def test_empty_file_is_made_all_the_same(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        opened(agent, "/tmp/x", "wb")
        agent.answer("guest-file-flush")
        closed(agent)

    meet(script).write_file("/tmp/x", b"")


def test_handle_is_closed_after_a_refusal(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        opened(agent, "/x", "rb")
        agent.refuse("guest-file-read", "GenericError", "Is a directory")
        closed(agent)

    with pytest.raises(QMPCommandError, match="Is a directory"):
        meet(script).read_file("/x")


def test_handle_is_closed_after_a_timeout(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        opened(agent, "/x", "wb")
        agent.expect("guest-file-write")
        agent.sync()
        closed(agent)

    with pytest.raises(QMPTimeoutError, match="the reply to 'guest-file-write'"):
        meet(script).write_file("/x", b"1", timeout=SOON)


def test_disk_that_is_full(meet: Meet) -> None:
    def script(agent: Agent) -> None:
        opened(agent, "/x", "wb")
        agent.answer("guest-file-write", {"count": 0, "eof": False})
        closed(agent)

    with pytest.raises(QMPError, match="after 0 of 3 bytes: look whether the guest's disk is full"):
        meet(script).write_file("/x", b"123")
