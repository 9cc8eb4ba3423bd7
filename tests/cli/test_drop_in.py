"""The fake as a program in the place of qemu-system-x86_64; the real one has to pass as well."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_qmp import VirtualMachine, VMConfig
from pytest_qmp.fake.commands import HANDLERS
from pytest_qmp.fake.versions import load_schema

from .conftest import BASE, FAKE, LIMIT, Client, Start

GREETING = {"micro": 22, "minor": 2, "major": 7}


def listening(path: Path) -> str:
    return f"unix:{path},server=on,wait=off"


# -- where monitors are ----------------------------------------------------------------------------


def test_listens_greets_and_ends(start: Start, folder: Path) -> None:
    program = start("-qmp", listening(folder / "q"), "-name", "vm1")
    client = program.connect(folder / "q")
    assert client.read()["QMP"]["version"]["qemu"] == GREETING
    client.execute("qmp_capabilities")
    assert client.execute("query-name") == {"return": {"name": "vm1"}}
    assert client.execute("query-status")["return"]["status"] == "prelaunch"
    assert client.execute("quit") == {"return": {}}
    assert client.at_eof()
    assert program.outcome() == (0, "", "")
    assert not (folder / "q").exists()


def test_one_client_after_the_other(start: Start, folder: Path) -> None:
    program = start("-qmp", listening(folder / "q"))
    first = program.connect(folder / "q").negotiate()
    second = program.connect(folder / "q")
    assert first.execute("cont") == {"return": {}}
    first.close()
    assert second.negotiate().execute("query-status")["return"]["status"] == "running"


def test_old_spelling_and_chardev(start: Start, folder: Path) -> None:
    chardev = f"socket,id=m,path={folder}/q,server,nowait"
    program = start("-chardev", chardev, "-mon", "chardev=m,mode=control,pretty=on")
    client = program.connect(folder / "q")
    assert client.sock.recv(1) == b"{"
    assert client.sock.recv(1) == b"\r"
    program.process.terminate()
    _, _, err = program.outcome()
    assert "warning: short-form boolean option 'server' deprecated\nPlease use server=on" in err
    assert "Please use wait=off instead" in err


def test_tcp(start: Start) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = start("-qmp", f"tcp:127.0.0.1:{port},server=on,wait=on")
    assert "info: QEMU waiting for connection on: disconnected:tcp" in program.read_stderr_line()
    with Client(socket.create_connection(("127.0.0.1", port), LIMIT)) as client:
        assert client.negotiate().execute("query-version")["return"]["qemu"] == GREETING


def test_inherited_descriptor(start: Start) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        chardev = f"socket,id=m,fd={theirs.fileno()}"
        monitor = ["-chardev", chardev, "-mon", "m,mode=control"]
        program = start(*monitor, pass_fds=[theirs.fileno()])
        theirs.close()
        with Client(ours) as client:
            client.negotiate()
            assert client.execute("quit") == {"return": {}}
            assert client.at_eof()
        assert program.outcome()[0] == 0


def test_standard_input_and_output(start: Start) -> None:
    program = start("-qmp", "stdio", stdin=subprocess.PIPE)
    assert program.process.stdin is not None
    program.process.stdin.write(b'{"execute":"qmp_capabilities"}{"execute":"quit","id":7}')
    program.process.stdin.close()
    program.process.stdin = None
    status, out, _ = program.outcome()
    assert status == 0
    greeting, negotiated, event, reply = out.splitlines()
    assert '"QMP"' in greeting
    assert negotiated == '{"return": {}}'
    assert '"host-qmp-quit"' in event
    assert reply == '{"return": {}, "id": 7}'


def test_output_goes_on_where_input_has_ended(start: Start) -> None:
    program = start("-qmp", "stdio", stdin=subprocess.PIPE)
    assert program.process.stdin is not None
    program.process.stdin.write(b'{"execute":"qmp_capabilities"}{"execute":"query-name"}')
    program.process.stdin.close()
    program.process.stdin = None
    assert program.process.stdout is not None
    for _ in range(3):
        program.process.stdout.readline()
    program.process.terminate()
    assert '"host-signal"' in program.process.stdout.readline().decode()


def test_several_monitors(start: Start, folder: Path) -> None:
    program = start("-qmp", listening(folder / "a"), "-qmp", listening(folder / "b"))
    one = program.connect(folder / "a").negotiate()
    other = program.connect(folder / "b")
    assert "QMP" in other.read()
    assert other.execute("query-name")["error"]["class"] == "CommandNotFound"
    other.execute("qmp_capabilities")
    one.execute("cont")
    assert other.read()["event"] == "RESUME"


def test_connects_to_a_client_again_and_again(start: Start, folder: Path) -> None:
    program = start(
        *("-chardev", f"socket,id=m,path={folder}/l,reconnect=1"),
        *("-mon", "chardev=m,mode=control"),
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/l")
        listener.listen()
        listener.settimeout(LIMIT)
        for _ in range(2):
            client = Client(listener.accept()[0])
            client.negotiate()
            client.close()
    assert program.process.poll() is None


def test_waits_for_its_first_client(start: Start, folder: Path) -> None:
    option = f"unix:{folder}/q,server=on,wait=on"
    program = start("-qmp", option)
    assert program.read_stderr_line() == (
        f"qemu-system-x86_64: -qmp {option}: info: QEMU waiting for connection on: "
        f"disconnected:unix:{folder}/q,server=on\n"
    )
    program.connect(folder / "q").negotiate().execute("quit")
    assert program.outcome()[0] == 0


def test_a_signal_kills_while_it_waits(start: Start, folder: Path) -> None:
    program = start("-qmp", f"unix:{folder}/q,server=on,wait=on")
    program.read_stderr_line()
    program.process.terminate()
    assert program.outcome() == (-signal.SIGTERM, "", "")
    assert (folder / "q").exists()


# -- how it ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_that_end_it(start: Start, folder: Path, number: signal.Signals) -> None:
    program = start("-qmp", listening(folder / "q"), "-pidfile", f"{folder}/pid")
    client = program.connect(folder / "q").negotiate()
    assert (folder / "pid").read_text() == f"{program.process.pid}\n"
    program.process.send_signal(number)
    assert client.read()["data"] == {"guest": False, "reason": "host-signal"}
    assert client.at_eof()
    status, _, err = program.outcome()
    sender = re.escape(f"from pid {os.getpid()}") + r" \(.*python.*\)\n"
    assert re.fullmatch(f"qemu-system-x86_64: terminating on signal {number} {sender}", err)
    assert status == 0
    assert not list(folder.iterdir())


def test_killed(start: Start, folder: Path) -> None:
    program = start("-qmp", listening(folder / "q"), "-pidfile", f"{folder}/pid")
    program.connect(folder / "q").negotiate()
    program.process.kill()
    assert program.outcome()[0] == -signal.SIGKILL
    assert {path.name for path in folder.iterdir()} == {"q", "pid"}


def test_daemonize(start: Start, folder: Path) -> None:
    option = listening(folder / "q")
    program = start("-qmp", option, "-daemonize", "-pidfile", f"{folder}/pid")
    assert program.outcome() == (0, "", "")
    sock = socket.socket(socket.AF_UNIX)
    with Client(sock) as client:
        sock.connect(f"{folder}/q")
        client.negotiate()
        pid = int((folder / "pid").read_text())
        assert pid != program.process.pid
        assert os.getsid(pid) != os.getsid(0)
        assert client.execute("quit") == {"return": {}}
        assert client.at_eof()


FAULTS = [
    (["-nosuch"], "-nosuch: invalid option"),
    (["--nosuch", "x"], "--nosuch: invalid option"),
    (["-qmp"], "-qmp: requires an argument"),
    (
        ["-qmp", "unix:/nonexistent/q,server=on,wait=off"],
        "-qmp unix:/nonexistent/q,server=on,wait=off: Failed to bind socket to /nonexistent/q: "
        "No such file or directory",
    ),
    (
        ["-qmp", "unix:/nonexistent/q"],
        "-qmp unix:/nonexistent/q: Failed to connect to '/nonexistent/q': "
        "No such file or directory",
    ),
    (
        ["-qmp", "foo:bar"],
        "-qmp foo:bar: 'foo:bar' is not a valid char driver\n"
        "qemu-system-x86_64: -qmp foo:bar: parse error: foo:bar",
    ),
    (["-qmp", "tcp:localhost"], "-qmp tcp:localhost: parse error: tcp:localhost"),
    (
        ["-qmp", "unix:q,server=on,wait=maybe"],
        "-qmp unix:q,server=on,wait=maybe: Parameter 'wait' expects 'on' or 'off'\n"
        "qemu-system-x86_64: -qmp unix:q,server=on,wait=maybe: parse error: "
        "unix:q,server=on,wait=maybe",
    ),
    (
        ["-qmp", "tcp:127.0.0.1:1"],
        "-qmp tcp:127.0.0.1:1: Failed to connect to '127.0.0.1:1': Connection refused",
    ),
    (
        ["-chardev", "socket,id=a,fd=99"],
        "-chardev socket,id=a,fd=99: File descriptor '99' is not a socket",
    ),
    (["-chardev", "null"], "-chardev null: chardev: no id specified"),
    (["-chardev", "id=a"], '-chardev id=a: chardev: "a" missing backend'),
    (
        ["-chardev", "nosuch,id=a"],
        "-chardev nosuch,id=a: 'nosuch' is not a valid char driver name",
    ),
    (
        ["-chardev", "null,id=a", "-chardev", "null,id=a"],
        "-chardev null,id=a: Duplicate ID 'a' for chardev",
    ),
    (
        ["-chardev", "null,id=a,foo=1"],
        "-chardev null,id=a,foo=1: Invalid parameter 'foo'",
    ),
    (
        ["-chardev", "socket,id=a,path=x,wait=off"],
        "-chardev socket,id=a,path=x,wait=off: 'wait' option is incompatible with socket in "
        "client connect mode",
    ),
    (
        ["-chardev", "stdio,id=a", "-chardev", "stdio,id=b"],
        "-chardev stdio,id=b: cannot use stdio by multiple character devices",
    ),
    (
        ["-mon", "chardev=nope,mode=control"],
        '-mon chardev=nope,mode=control: chardev "nope" not found',
    ),
    (["-mon", "mode=control"], "-mon mode=control: Parameter 'chardev' is missing"),
    (
        ["-chardev", "null,id=a", "-mon", "a", "-mon", "a"],
        "-mon a: Device 'a' is in use",
    ),
    (
        ["-serial", "bogus"],
        "-serial bogus: 'bogus' is not a valid char driver\n"
        "qemu-system-x86_64: -serial bogus: could not connect serial device to character backend "
        "'bogus'",
    ),
    (["-M", "nosuch"], "unsupported machine type\nUse -machine help to list supported machines"),
    (["-uuid", "xxx"], "-uuid xxx: failed to parse UUID string: wrong format"),
    (
        ["-action", "reboot=bar"],
        "-action reboot=bar: Parameter 'reboot' does not accept value 'bar'",
    ),
    (["-name", "vm,foo=bar"], "-name vm,foo=bar: Invalid parameter 'foo'"),
    (
        ["-device", "e1000,id=a", "-device", "e1000,id=a"],
        "-device e1000,id=a: Duplicate ID 'a' for device",
    ),
    (
        ["-pidfile", "/nonexistent/x"],
        "cannot create PID file: Could not create '/nonexistent/x': No such file or directory",
    ),
    (["-add-fd", "fd=99,set=1"], "-add-fd fd=99,set=1: fd is not valid or already in use"),
    (["-device", "nosuch"], "-device nosuch: 'nosuch' is not a valid device model name"),
    (["-device", "id=a"], "-device id=a: Parameter 'driver' is missing"),
    (["-netdev", "bogus"], "-netdev bogus: Parameter 'id' is missing"),
    (
        ["-netdev", "bogus,id=a"],
        "-netdev bogus,id=a: Parameter 'type' does not accept value 'bogus'",
    ),
    (
        ["-netdev", "user,id=a", "-netdev", "user,id=a"],
        "-netdev user,id=a: Duplicate ID 'a' for netdev",
    ),
    (
        ["-object", "nosuch,id=a"],
        "-object nosuch,id=a: Parameter 'qom-type' does not accept value 'nosuch'",
    ),
    (
        ["-object", "memory-backend-ram,id=a"],
        "-object memory-backend-ram,id=a: Parameter 'size' is missing",
    ),
    (
        ["-object", "iothread,id=a,foo=1"],
        "-object iothread,id=a,foo=1: Invalid parameter 'foo'",
    ),
    (
        ["-object", "iothread,id=1a"],
        "-object iothread,id=1a: Parameter 'id' expects an identifier\n"
        "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
    ),
    (
        ["-blockdev", "driver=nosuch,node-name=a"],
        "-blockdev driver=nosuch,node-name=a: Parameter 'driver' does not accept value 'nosuch'",
    ),
    (["-device", "e1000"], "-device e1000: No 'PCI' bus found for device 'e1000'"),
    (
        ["-M", "pc", "-device", "e1000,bus=nosuch"],
        "-device e1000,bus=nosuch: Bus 'nosuch' not found",
    ),
    (
        ["-M", "pc", "-device", "virtio-blk-pci,drive=nope"],
        "-device virtio-blk-pci,drive=nope: Property 'virtio-blk-device.drive' can't find value "
        "'nope'",
    ),
    (["-incoming", "bogus"], "-incoming bogus: unknown migration protocol: bogus"),
    (["-daemonize", "-qmp", "stdio"], "-qmp stdio: cannot use stdio with -daemonize"),
]


@pytest.mark.parametrize(("args", "said"), FAULTS, ids=[" ".join(args) for args, _ in FAULTS])
def test_does_not_start(start: Start, args: list[str], said: str, tmp_path: Path) -> None:
    program = start(*args, cwd=tmp_path)
    assert program.outcome() == (1, "", f"qemu-system-x86_64: {said}\n")


def test_no_pidfile_is_left(start: Start, folder: Path) -> None:
    assert start("-pidfile", f"{folder}/pid", "-incoming", "bogus").outcome()[0] == 1
    assert not (folder / "pid").exists()


def test_address_in_use(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        option = f"tcp:127.0.0.1:{taken.getsockname()[1]},server=on,wait=off"
        status, _, err = start("-qmp", option).outcome()
    assert status == 1
    assert err.endswith(": Failed to find an available port: Address already in use\n")


# -- what it says of itself ------------------------------------------------------------------------


def test_version(qemu: list[str], run: Start) -> None:
    status, out, err = run(*qemu, "--version").outcome()
    assert (status, err) == (0, "")
    assert re.match(r"QEMU emulator version 7\.2\.\d+ .*\nCopyright \(c\) 2003-2022 ", out)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["-machine", "help"], r"^q35 +Standard PC \(Q35"),
        (["-M", "help"], r"^none +empty machine"),
        (["-device", "help"], r'^name "virtio-net-pci", bus PCI'),
        (["-cpu", "help"], r"^x86 qemu64 "),
        (["-help"], r"^usage: qemu-system-x86_64 \[options\]"),
    ],
)
def test_lists(qemu: list[str], run: Start, args: list[str], line: str) -> None:
    status, out, _ = run(*qemu, *args).outcome()
    assert status == 0
    assert re.search(line, out, re.MULTILINE)


# -- the fake alone --------------------------------------------------------------------------------


def test_link_with_the_name_of_a_qemu(link: Path, run: Start, folder: Path) -> None:
    environment = {**os.environ, "PYTEST_QMP_EMULATE": "10.0"}
    program = run(str(link), *BASE, "-qmp", listening(folder / "q"), env=environment)
    assert program.connect(folder / "q").read()["QMP"]["version"]["qemu"]["major"] == 10
    assert run(str(link), "-x").outcome()[2] == "qemu-system-x86_64: -x: invalid option\n"


def test_a_virtual_machine_runs_on_it(link: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_QMP_EMULATE", "7.2")
    with VirtualMachine(VMConfig(qemu=link, accel="tcg", machine="pc", name="a,b")) as vm:
        assert vm.execute("query-name") == {"name": "a,b"}
        assert vm.execute("query-version")["qemu"] == GREETING
        vm.wait_for_status("running")
        vm.quit()
        assert vm.wait() == 0


def test_the_name_in_messages(run: Start) -> None:
    program = run(*FAKE[:4], "--emulate", "11.1", "--as", "qemu-kvm", "-M", "nosuch")
    said = 'unsupported machine type: "nosuch"\nUse -machine help to list supported machines\n'
    assert program.outcome() == (1, "", f"qemu-kvm: {said}")


def test_a_version_that_there_is_not(run: Start) -> None:
    status, _, err = run(*FAKE[:4], "--emulate", "5.0", *BASE).outcome()
    assert status == 2
    assert "cannot emulate QEMU '5.0': choose one of '7.2', '10.0', '11.1'" in err


def test_what_it_does_not_model_is_said(run: Start, folder: Path) -> None:
    program = run(*FAKE, *BASE, "-qmp", listening(folder / "q"))
    client = program.connect(folder / "q").negotiate()
    schema = load_schema("7.2")
    unknown = [name for name in schema.commands if name not in HANDLERS]
    plain = [name for name in unknown if not schema.argument_names(name)]
    if not plain:
        pytest.skip("the fake models every command")
    assert "write a stub" in client.execute(plain[0])["error"]["desc"]
    client.execute("quit")
    status, _, err = program.outcome()
    assert status == 0
    assert f'server.on("{plain[0]}")' in err


def test_imports_nothing_that_is_not_needed() -> None:
    code = (
        "import sys; from pytest_qmp import cli; import pytest_qmp.fake.program; "
        "print(*({'pytest', 'asyncio', 'pexpect', 'argparse'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
