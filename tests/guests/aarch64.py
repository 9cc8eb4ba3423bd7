"""Guests for Arm's 64-bit ``virt`` machine: the PL011 UART, power by PSCI calls.

A raw image given as ``-kernel`` runs wherever QEMU puts it: the code has no fixed addresses.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .code import Code

UART = 0x09000000
PSCI_SYSTEM_OFF = 0x84000008
PSCI_SYSTEM_RESET = 0x84000009
LINE_SIZE = 4096

# x0 to x4 are scratch; x19 holds the UART, x20 and x21 are the guest's own.


class Aarch64Code(Code):
    """A listing: the assembler text beside the instruction word that it stands for."""

    def op(self, _text: str, word: int) -> None:
        self.data(struct.pack("<I", word))

    def branch(self, mnemonic: str, label: str) -> None:
        opcode = {"b": 0x14000000, "bl": 0x94000000}[mnemonic]
        self.reference(
            label, 4, lambda at, to: struct.pack("<I", opcode | ((to - at) // 4 & 0x3FFFFFF))
        )

    def branch_if(self, _text: str, opcode: int, label: str) -> None:
        """A conditional branch; *opcode* holds all but the 19-bit distance."""
        self.reference(
            label, 4, lambda at, to: struct.pack("<I", opcode | ((to - at) // 4 & 0x7FFFF) << 5)
        )

    def branch_on_bit(self, _text: str, opcode: int, label: str) -> None:
        """``tbz`` or ``tbnz``; *opcode* holds all but the 14-bit distance."""
        self.reference(
            label, 4, lambda at, to: struct.pack("<I", opcode | ((to - at) // 4 & 0x3FFF) << 5)
        )

    def address(self, register: int, label: str) -> None:
        def adr(at: int, to: int) -> bytes:
            distance = to - at
            word = 0x10000000 | (distance & 3) << 29 | (distance >> 2 & 0x7FFFF) << 5 | register
            return struct.pack("<I", word)

        self.reference(label, 4, adr)

    def constant(self, register: int, value: int) -> None:
        """Load a 32-bit constant."""
        self.op(f"movz w{register}, #low", 0x52800000 | (value & 0xFFFF) << 5 | register)
        self.op(f"movk w{register}, #high, lsl 16", 0x72A00000 | (value >> 16) << 5 | register)

    def print(self, label: str) -> None:
        self.address(1, label)
        self.branch("bl", "puts")

    def string(self, label: str, text: str) -> None:
        self.label(label)
        data = text.encode("ascii") + b"\0"
        self.data(data + bytes(-len(data) % 4))  # instructions lie on multiples of four


Body = Callable[[Aarch64Code], None]


def kernel(body: Body, banner: str) -> bytes:
    code = Aarch64Code(0)
    code.constant(19, UART)
    code.print("banner")
    body(code)
    _serial_port(code)
    code.string("banner", banner + "\r\n")
    return code.link()


def _serial_port(code: Aarch64Code) -> None:
    """``puts`` (string at x1), ``putc`` and ``getc`` (character in w0); flags are polled."""
    code.label("puts")
    code.op("mov x4, x30", 0xAA1E03E4)
    code.label("puts_next")
    code.op("ldrb w0, [x1], #1", 0x38401420)
    code.branch_if("cbz w0, puts_end", 0x34000000, "puts_end")
    code.branch("bl", "putc")
    code.branch("b", "puts_next")
    code.label("puts_end")
    code.op("ret x4", 0xD65F0080)

    code.label("putc")
    code.op("ldr w2, [x19, #0x18]", 0xB9401A62)
    code.branch_on_bit("tbnz w2, #5, putc", 0x37280002, "putc")  # transmit FIFO full
    code.op("str w0, [x19]", 0xB9000260)
    code.op("ret", 0xD65F03C0)

    code.label("getc")
    code.op("ldr w2, [x19, #0x18]", 0xB9401A62)
    code.branch_on_bit("tbnz w2, #4, getc", 0x37200002, "getc")  # receive FIFO empty
    code.op("ldr w0, [x19]", 0xB9400260)
    code.op("and w0, w0, #0xff", 0x12001C00)
    code.op("ret", 0xD65F03C0)


def _psci(code: Aarch64Code, function: int) -> None:
    code.constant(0, function)
    code.op("hvc #0", 0xD4000002)


def halt(code: Aarch64Code) -> None:
    """Stay idle for ever."""
    code.label("halt")
    code.op("wfi", 0xD503207F)
    code.branch("b", "halt")


def spin(code: Aarch64Code) -> None:
    """Hang: interrupts off (as they are from the start), in an endless loop."""
    code.label("spin")
    code.branch("b", "spin")


def poweroff(code: Aarch64Code) -> None:
    _psci(code, PSCI_SYSTEM_OFF)
    halt(code)


def poweroff_on_key(code: Aarch64Code) -> None:
    code.branch("bl", "getc")
    poweroff(code)


def reset(code: Aarch64Code) -> None:
    _psci(code, PSCI_SYSTEM_RESET)
    halt(code)


def reset_on_key(code: Aarch64Code) -> None:
    code.branch("bl", "getc")
    reset(code)


def echo(code: Aarch64Code) -> None:
    """Answer each line typed with ``echo: `` and the line."""
    code.label("echo")
    code.address(20, "line")
    code.op("mov x21, x20", 0xAA1403F5)
    code.label("echo_next")
    code.branch("bl", "getc")
    code.op("cmp w0, #13", 0x7100341F)
    code.branch_if("b.eq echo_line", 0x54000000, "echo_line")
    code.op("cmp w0, #10", 0x7100281F)
    code.branch_if("b.eq echo_line", 0x54000000, "echo_line")
    code.op("sub x2, x21, x20", 0xCB1402A2)
    code.op("cmp x2, #4095", 0xF13FFC5F)
    code.branch_if("b.hs echo_next", 0x54000002, "echo_next")  # no room: drop it
    code.op("strb w0, [x21], #1", 0x380016A0)
    code.branch("b", "echo_next")

    code.label("echo_line")
    code.op("cmp x21, x20", 0xEB1402BF)
    code.branch_if("b.eq echo_next", 0x54000000, "echo_next")  # empty, as within CR LF
    code.op("strb wzr, [x21]", 0x390002BF)
    code.print("echo_prefix")
    code.print("line")
    code.print("newline")
    code.branch("b", "echo")
    code.string("echo_prefix", "echo: ")
    code.string("newline", "\r\n")
    code.label("line")
    code.data(bytes(LINE_SIZE))


def _one_more(code: Aarch64Code) -> None:
    code.op("add w20, w20, #1", 0x11000694)


def flood(code: Aarch64Code, step: Body = _one_more) -> None:
    """Print ``00000000``, ``00000001``, … on lines of their own, as fast as it goes."""
    code.constant(20, 0)
    code.label("flood")
    code.op("mov w21, #8", 0x52800115)
    code.label("flood_digit")
    code.op("ror w20, w20, #28", 0x13947294)  # eight of these bring it back as it was
    code.op("and w0, w20, #0xf", 0x12000E80)
    code.op("cmp w0, #10", 0x7100281F)
    code.op("add w0, w0, #48", 0x1100C000)
    code.branch_if("b.lo flood_put", 0x54000003, "flood_put")
    code.op("add w0, w0, #7", 0x11001C00)
    code.label("flood_put")
    code.branch("bl", "putc")
    code.op("subs w21, w21, #1", 0x710006B5)
    code.branch_if("b.ne flood_digit", 0x54000001, "flood_digit")
    code.print("flood_newline")
    step(code)
    code.branch("b", "flood")
    code.string("flood_newline", "\r\n")


def cycles(code: Aarch64Code) -> None:
    """Print the low half of the virtual counter, over and over."""
    flood(code, lambda code: code.op("mrs x20, cntvct_el0", 0xD53BE054))


BODIES: dict[str, Body] = {
    "halt": halt,
    "spin": spin,
    "poweroff": poweroff,
    "poweroff-on-key": poweroff_on_key,
    "reset": reset,
    "reset-on-key": reset_on_key,
    "echo": echo,
    "flood": flood,
    "cycles": cycles,
}
