"""What a guest that begins with another's state lacks: the time, and random numbers of its own."""

from __future__ import annotations

import os
import struct
import time

from pytest_qmp.vm.config import VMConfig

__all__ = ["freshening_command", "is_repeatable"]

#: ioctl(0, RNDRESEEDCRNG) and exit, as a program: nothing that a shell has does it.
_RESEED = 0x5207
_CODE = {
    # xor edi,edi; mov esi,RESEED; push 16; pop rax; syscall; mov edi,eax; neg edi; push 60; …
    "x86_64": bytes.fromhex("31ffbe075200006a10580f0589c7f7df6a3c580f05"),
    # mov x0,#0; mov w1,#RESEED; mov x8,#29; svc 0; neg x0,x0; mov x8,#93; svc 0
    "aarch64": struct.pack(
        "<7I",
        *(0xD2800000, 0x52800001 | _RESEED << 5, 0xD2800008 | 29 << 5, 0xD4000001),
        *(0xCB0003E0, 0xD2800008 | 93 << 5, 0xD4000001),
    ),
    # li a0,0; lui a1,5; addi a1,a1,0x207; li a7,29; ecall; neg a0,a0; li a7,93; ecall
    "riscv64": struct.pack(
        "<8I",
        *(0x00000513, 0x000055B7, 0x20758593, 0x01D00893, 0x00000073),
        *(0x40A00533, 0x05D00893, 0x00000073),
    ),
}
_MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243}
_BASE = 0x400000
_HEADERS = 64 + 56


def is_repeatable(config: VMConfig) -> bool:
    """Whether a machine has a time or random numbers that are to be the same each time."""
    said = (config.rtc, config.rtc_clock, config.icount, config.seed)
    own = {"-rtc", "-icount", "-seed"}.intersection(config.args)
    return bool(own) or any(one is not None for one in said)


def _program(arch: str) -> bytes:
    code = _CODE[arch]
    size = _HEADERS + len(code)
    identity = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(identity, 2, _MACHINES[arch], 1, _BASE + _HEADERS, 64, 0),
        *(4 if arch == "riscv64" else 0, 64, 56, 1, 0, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def _octal(data: bytes) -> str:
    """For printf's format; a digit behind a short octal would be taken for a part of it."""
    return "".join(
        f"\\{byte:03o}" if not 0x30 <= byte < 0x7F or byte in b"'%\\" else chr(byte)
        for byte in data
    )


def freshening_command(arch: str) -> str:
    """A command for a POSIX shell: sets the clock, and has Linux make new random numbers.

    What it can't do, for lack of a right or because it is no Linux, it leaves.

    Args:
        arch: of the guest.
    """
    commands = [f"date -u -s @{time.time():.0f}"]
    seed = _octal(os.urandom(32))
    commands.append(f"printf '{seed}' >/dev/urandom")
    if arch in _CODE:
        commands.append(
            "f=${TMPDIR:-/tmp}/.qmp$$; "
            f"printf '{_octal(_program(arch))}' >$f && chmod 700 $f && $f </dev/urandom; rm -f $f"
        )
    return f"( {'; '.join(commands)} ) >/dev/null 2>&1"
