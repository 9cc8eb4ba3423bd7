"""What a guest that begins with another's state lacks: the time, and random numbers of its own."""

from __future__ import annotations

import os
import struct
import time

from pytest_qmp.vm.config import VMConfig

__all__ = ["clock_command", "freshening_command", "is_repeatable"]

#: A program, since nothing that a shell has asks for new random numbers, and each program that a
#: guest starts takes its time: unlink(argv[0]); clock_settime(CLOCK_REALTIME, &time);
#: ioctl(0, RNDRESEEDCRNG); exit(0). The time follows it.
_CODE = {
    "x86_64": bytes.fromhex(
        "488b7c24086a57580f05 31ffbe00000000b8e30000000f05 31ffbe075200006a10580f05 31ff6a3c580f05"
    ),
    "aarch64": struct.pack(
        "<16I",
        *(0xF94007E1, 0x92800C60, 0xD2800002, 0xD2800468, 0xD4000001),
        *(0xD2800000, 0x10000141, 0xD2800E08, 0xD4000001),
        *(0xD2800000, 0x528A40E1, 0xD28003A8, 0xD4000001),
        *(0xD2800000, 0xD2800BA8, 0xD4000001),
    ),
    "riscv64": struct.pack(
        "<18I",
        *(0x00813583, 0xF9C00513, 0x00000613, 0x02300893, 0x00000073),
        *(0x00000513, 0x00000597, 0x03058593, 0x07000893, 0x00000073),
        *(0x00000513, 0x000055B7, 0x20758593, 0x01D00893, 0x00000073),
        *(0x00000513, 0x05D00893, 0x00000073),
    ),
}
#: Where x86_64's has the address of the time.
_TIME_ADDRESS = 13
_MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243}
_BASE = 0x400000
_HEADERS = 64 + 56


def is_repeatable(config: VMConfig) -> bool:
    """Whether a machine has a time or random numbers that are to be the same each time."""
    said = (config.rtc, config.rtc_clock, config.icount, config.seed)
    own = {"-rtc", "-icount", "-seed"}.intersection(config.args)
    return bool(own) or any(one is not None for one in said)


def _program(arch: str, nanoseconds: int) -> bytes:
    code = bytearray(_CODE[arch])
    if arch == "x86_64":
        struct.pack_into("<I", code, _TIME_ADDRESS, _BASE + _HEADERS + len(code))
    code += struct.pack("<QQ", *divmod(nanoseconds, 10**9))
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
    """For printf's format, in few characters: each takes a guest's serial port its time."""
    # No digit stands for itself, so that none is taken for a part of what comes before.
    plain = frozenset(range(0x3A, 0x7F)) - frozenset(b"\\")
    return "".join(chr(byte) if byte in plain else f"\\{byte:o}" for byte in data)


def clock_command() -> str:
    """A command for a POSIX shell: sets the clock, if it may."""
    return f"date -u -s @{time.time():.0f} >/dev/null 2>&1"


def freshening_command(arch: str) -> str:
    """A command for a POSIX shell: sets the clock, and has Linux make new random numbers.

    What it can't do, for lack of a right or because it is no Linux, it leaves.

    Args:
        arch: of the guest.
    """
    now = time.time_ns()
    by_date = f"date -u -s @{now // 10**9}"
    seed = f"printf '{_octal(os.urandom(16))}' >/dev/urandom"
    if arch not in _CODE:
        return f"{{ {seed}; {by_date}; }} >/dev/null 2>&1"
    path = f"${{TMPDIR:-/tmp}}/.qmp-{os.urandom(4).hex()}"
    program = f"printf '{_octal(_program(arch, now))}' >{path}"
    run = f"chmod 700 {path} && {path} </dev/urandom"
    return f"{{ {seed}; {program} && {run} || {{ {by_date}; rm -f {path}; }}; }} >/dev/null 2>&1"
