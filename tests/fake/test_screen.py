"""Pictures of the screen, dumps of the memory, and the balloon."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_qmp.errors import FakeQMPServerError
from pytest_qmp.fake import FakeQMPServer

from .client import LineClient

MakeServer = Callable[..., FakeQMPServer]
Connect = Callable[[FakeQMPServer], LineClient]


def dots(png: bytes) -> tuple[int, int, bytes]:
    """Width, height and dots of a PNG."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    place, chunks = 8, {}
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        data = png[place + 8 : place + 8 + length]
        (check,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
        assert check == zlib.crc32(kind + data)
        chunks[kind] = data
        place += 12 + length
    width, height, depth, color = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, color) == (8, 2)
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = 1 + width * 3
    assert len(raw) == stride * height
    assert list(chunks)[-1] == b"IEND"
    rows = [raw[row * stride : (row + 1) * stride] for row in range(height)]
    assert {row[0] for row in rows} == {0}
    return width, height, b"".join(row[1:] for row in rows)


def ppm_dots(ppm: bytes) -> tuple[int, int, bytes]:
    kind, size, depth, data = ppm.split(b"\n", 3)
    assert (kind, depth) == (b"P6", b"255")
    width, height = map(int, size.split())
    assert len(data) == width * height * 3
    return width, height, data


def test_both_formats_show_the_same(client: LineClient, tmp_path: Path) -> None:
    client.execute("screendump", filename=str(tmp_path / "a.ppm"))
    client.execute("screendump", filename=str(tmp_path / "a.png"), format="png")
    ppm = ppm_dots((tmp_path / "a.ppm").read_bytes())
    assert ppm == dots((tmp_path / "a.png").read_bytes())
    assert ppm[:2] == (720, 400)


def test_what_the_guest_writes_is_seen(
    server: FakeQMPServer, client: LineClient, tmp_path: Path
) -> None:
    path = tmp_path / "a.ppm"
    pictures = []
    for text in (b"", b"login: ", b"root\r\n"):
        server.guest.write_console(text)
        client.execute("screendump", filename=str(path))
        pictures.append(ppm_dots(path.read_bytes())[2])
    assert not any(pictures[0])
    assert len(set(pictures)) == 3


def test_before_it_runs_the_screen_says_so(
    make_server: MakeServer, connect: Connect, tmp_path: Path
) -> None:
    client = connect(make_server("7.2", args=["-S", "-vga", "std"]))
    client.execute("screendump", filename=str(tmp_path / "a"))
    width, height, picture = ppm_dots((tmp_path / "a").read_bytes())
    assert (width, height) == (640, 480)
    assert any(picture)


def test_a_text_console_is_a_screen_too(
    make_server: MakeServer, connect: Connect, tmp_path: Path
) -> None:
    arguments = {"filename": str(tmp_path / "a")}
    bare = connect(make_server("11.1", args=["-nodefaults"]))
    assert "no console" in bare.execute("screendump", **arguments)["error"]["desc"]
    text = connect(make_server("11.1", args=["-nodefaults", "-serial", "vc"]))
    assert text.execute("screendump", **arguments) == {"return": {}}


def dump(client: LineClient, path: Path, **more: object) -> None:
    arguments = {"paging": False, "protocol": f"file:{path}", **more}
    client.send({"execute": "dump-guest-memory", "arguments": arguments})


def test_a_dump_is_a_core_file(client: LineClient, tmp_path: Path) -> None:
    dump(client, tmp_path / "core")
    told = [client.read() for _ in range(4)]
    assert [one.get("event") for one in told] == ["STOP", "DUMP_COMPLETED", "RESUME", None]
    result = told[1]["data"]["result"]
    assert result["status"] == "completed"
    header = (tmp_path / "core").read_bytes()[:64]
    assert header[:6] == b"\x7fELF\x02\x01"
    kind, machine = struct.unpack("<HH", header[16:20])
    assert (kind, machine) == (4, 62)
    (count,) = struct.unpack("<H", header[56:58])
    assert (tmp_path / "core").stat().st_size == 64 + 56 * count + result["total"]


def test_a_detached_dump_ends_after_its_reply(client: LineClient, tmp_path: Path) -> None:
    dump(client, tmp_path / "core", detach=True)
    told = [client.read() for _ in range(4)]
    assert [one.get("event") for one in told] == ["STOP", None, "DUMP_COMPLETED", "RESUME"]
    assert client.status() == "running"
    assert client.execute("query-dump")["return"]["status"] == "completed"


def test_saved_memory_has_the_size_that_was_asked_for(client: LineClient, tmp_path: Path) -> None:
    for command in ("memsave", "pmemsave"):
        path = tmp_path / command
        assert client.execute(command, val=0, size=4096, filename=str(path)) == {"return": {}}
        assert path.stat().st_size == 4096


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_the_screen_can_be_asked_for_by_device(
    make_server: MakeServer, connect: Connect, tmp_path: Path, version: str
) -> None:
    args = ["-nodefaults", "-device", "virtio-gpu-pci,id=g,max_outputs=2"]
    client = connect(make_server(version, args=args))
    for head, works in ((0, True), (1, True), (2, False)):
        reply = client.execute("screendump", filename=str(tmp_path / "a"), device="g", head=head)
        assert ("return" in reply) is works


def test_the_guest_changes_its_balloon(make_server: MakeServer, connect: Connect) -> None:
    server = make_server("10.0", args=["-m", "16", "-device", "virtio-balloon"])
    client = connect(server)
    assert client.execute("balloon", value=8 << 20) == {"return": {}}
    assert client.execute("query-balloon") == {"return": {"actual": 16 << 20}}
    server.guest.set_balloon(8 << 20)
    assert client.read()["data"] == {"actual": 8 << 20}
    assert client.execute("query-balloon") == {"return": {"actual": 8 << 20}}


def test_a_guest_without_a_balloon_has_none_to_change(server: FakeQMPServer) -> None:
    with pytest.raises(FakeQMPServerError, match="the machine has none"):
        server.guest.set_balloon(1 << 20)
