"""Guests for x86 PCs with a screen, a keyboard and a pointer; what they see goes to COM1."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from pytest_qmp import Drive

from . import x86
from .x86 import Body, X86Code

__all__ = ["BEHAVIOURS", "overrides"]

# The interface of VMware's mouse, which QEMU's PCs have, too.
_MAGIC, _PORT = 0x564D5868, 0x5658
_DATA, _STATUS, _COMMAND = 39, 40, 41
_READ_ID, _BE_ABSOLUTE = 0x45414552, 0x53424152


def keys(code: X86Code) -> None:
    """Show what is typed, as the BIOS reads it, on the screen and on COM1."""
    code.op("sti", "FB")
    code.address("mov si, banner", 0xBE, "banner")
    code.label("keys_banner")
    code.op("lodsb", "AC")
    code.op("test al, al", "84 C0")
    code.jump("jz", "keys_next")
    code.call("teletype")
    code.jump("jmp", "keys_banner")
    code.label("keys_next")
    code.op("mov ah, 0", "B4 00")
    code.op("int 16h", "CD 16")
    code.call("teletype")
    code.call("putc")
    code.jump("jmp", "keys_next")

    code.label("teletype")
    code.op("push ax", "50")
    code.op("mov ah, 0Eh", "B4 0E")
    code.op("mov bx, 7", "BB 07 00")
    code.op("int 10h", "CD 10")
    code.op("pop ax", "58")
    code.op("ret", "C3")


def scancodes(code: X86Code) -> None:
    """Print what the keyboard controller has, byte by byte, and take long for each."""
    code.label("scancodes")
    code.op("in al, 64h", "E4 64")
    code.op("test al, 1", "A8 01")
    code.jump("jz", "scancodes")
    code.op("in al, 60h", "E4 60")
    code.op("mov ah, al", "88 C4")
    code.op("mov bp, ax", "89 C5")
    code.op("mov bx, 2", "BB 02 00")
    code.call("digits")
    code.print("space")
    code.op("mov ecx, 100000h", "66 B9 00 00 10 00")
    code.label("scancodes_pause")
    code.op("loop ecx", "67 E2 FD")
    code.jump("jmp", "scancodes")
    _digits(code)


def mouse(code: X86Code) -> None:
    """Have the PS/2 mouse tell of itself, then print what comes."""
    code.op("mov al, D4h", "B0 D4")
    code.op("out 64h, al", "E6 64")
    code.op("mov al, F4h", "B0 F4")
    code.op("out 60h, al", "E6 60")
    scancodes(code)


def pointer(code: X86Code) -> None:
    """Print the buttons, the place and the wheel at each event of an absolute pointer."""
    for command, argument in ((_COMMAND, _READ_ID), (_DATA, 1), (_COMMAND, _BE_ABSOLUTE)):
        _backdoor(code, command, argument)
    code.print("ready")
    code.label("pointer")
    _backdoor(code, _STATUS, 0)
    code.op("test ax, ax", "85 C0")
    code.jump("jz", "pointer")
    _backdoor(code, _DATA, 4)
    for register in ("52", "51", "53", "50"):  # push dx, cx, bx, ax
        code.op("push", register)
    code.op("mov di, 4", "BF 04 00")
    code.label("pointer_word")
    code.op("pop bp", "5D")
    code.op("mov bx, 4", "BB 04 00")
    code.call("digits")
    code.print("space")
    code.op("dec di", "4F")
    code.jump("jnz", "pointer_word")
    code.print("newline")
    code.jump("jmp", "pointer")

    code.label("backdoor")
    code.op("mov eax, MAGIC", f"66 B8 {struct.pack('<I', _MAGIC).hex()}")
    code.op("mov edx, PORT", f"66 BA {struct.pack('<I', _PORT).hex()}")
    code.op("in eax, dx", "66 ED")
    code.op("ret", "C3")
    _digits(code)
    code.string("ready", "pointing\r\n")
    code.string("newline", "\r\n")


def _backdoor(code: X86Code, command: int, argument: int) -> None:
    code.op("mov ebx, argument", f"66 BB {struct.pack('<I', argument).hex()}")
    code.op("mov ecx, command", f"66 B9 {struct.pack('<I', command).hex()}")
    code.call("backdoor")


def _digits(code: X86Code) -> None:
    code.label("digits")  # print as many hexadecimal digits of BP as BX says
    code.op("rol bp, 4", "C1 C5 04")
    code.op("mov ax, bp", "89 E8")
    code.op("and al, 0Fh", "24 0F")
    code.op("cmp al, 10; sbb al, 69h; das", "3C 0A 1C 69 2F")
    code.call("putc")
    code.op("dec bx", "4B")
    code.jump("jnz", "digits")
    code.op("ret", "C3")
    code.string("space", " ")


_FIRMWARE: dict[str, Body] = {"scancodes": scancodes, "mouse": mouse, "pointer": pointer}
#: ``keys`` needs a BIOS, so it is a boot sector.
BEHAVIOURS = ("keys", *_FIRMWARE)

_DISK_SIZE = 1 << 20


def overrides(behaviour: str, directory: Path, *, banner: str = "ready") -> dict[str, Any]:
    """Write a guest into *directory* and return the ``VMConfig`` fields that run it."""
    path = directory / f"{behaviour}.img"
    if behaviour in _FIRMWARE:
        path.write_bytes(x86.firmware(_FIRMWARE[behaviour], banner))
        return {"arch": "x86_64", "firmware": path}
    with path.open("wb") as disk:
        disk.write(x86.boot_sector(keys, banner))
        disk.truncate(_DISK_SIZE)
    return {"arch": "x86_64", "drives": (Drive(path, format="raw", snapshot=True),)}
