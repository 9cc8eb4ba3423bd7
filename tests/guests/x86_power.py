"""x86 guests that sleep, and that heed a non-maskable interrupt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_qmp import Drive

from . import x86

__all__ = ["panics_on_nmi", "sleeps_on_key"]

_DISK_SIZE = 1 << 20


def sleeps_on_key(directory: Path, banner: str = "ready") -> dict[str, Any]:
    """Sleeps (ACPI's S3) at a key; being woken, it starts anew. The ``VMConfig`` fields for it."""
    path = directory / "x86-sleeps.img"
    path.write_bytes(x86.firmware(_sleep_on_key, banner))
    return {"arch": "x86_64", "firmware": path}


def panics_on_nmi(directory: Path, banner: str = "ready") -> dict[str, Any]:
    """Panics when a non-maskable interrupt comes. The ``VMConfig`` fields that run it.

    SeaBIOS starts it, as that lets such interrupts reach the CPU.
    """
    path = directory / "x86-nmi.img"
    with path.open("wb") as disk:
        disk.write(x86.boot_sector(_panic_on_nmi, banner))
        disk.truncate(_DISK_SIZE)
    drive = Drive(path, format="raw", snapshot=True)
    return {"arch": "x86_64", "drives": [drive], "devices": ["pvpanic"]}


def _sleep_on_key(code: x86.X86Code) -> None:
    code.call("getc")
    code.op("mov dx, PM1A_CNT", "BA 04 06")
    code.op("mov ax, 2400h", "B8 00 24")  # SLP_EN, sleep type 1: S3
    code.op("out dx, ax", "EF")
    x86.halt(code)


def _panic_on_nmi(code: x86.X86Code) -> None:
    # The vector of interrupt 2, at 0000:0008.
    code.address("mov ax, nmi", 0xB8, "nmi")
    code.op("mov [8], ax", "A3 08 00")
    code.op("xor ax, ax", "31 C0")
    code.op("mov [10], ax", "A3 0A 00")
    code.print("armed")
    x86.halt(code)
    code.label("nmi")
    code.print("came")
    code.op("mov dx, 505h", "BA 05 05")
    code.op("mov al, 1", "B0 01")
    code.op("out dx, al", "EE")
    code.label("rest")
    code.op("hlt", "F4")
    code.jump("jmp", "rest")
    code.string("armed", "armed\r\n")
    code.string("came", "came\r\n")
