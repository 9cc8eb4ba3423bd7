"""Guests for 64-bit RISC-V's ``virt`` machine: a 16550 UART, power by the SiFive test device.

A raw image given as ``-kernel`` beside ``-bios none`` is run from the start of memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .code import Code

ORIGIN = 0x80000000
UART = 0x10000000
TEST_DEVICE = 0x00100000
TEST_POWEROFF = 0x5555
TEST_RESET = 0x7777
LINE_SIZE = 2048

ZERO, RA, T0, T1, S0, S1, A0, A1, A2, S2 = 0, 1, 5, 6, 8, 9, 10, 11, 12, 18

_BRANCHES = {"beq": 0, "bne": 1, "blt": 4, "bge": 5}


class Riscv64Code(Code):
    """Just the instructions that these guests are made of."""

    def word(self, value: int) -> None:
        self.data(struct.pack("<I", value))

    def _i_type(self, opcode: int, funct3: int, rd: int, rs1: int, immediate: int) -> None:
        self.word((immediate & 0xFFF) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode)

    def _s_type(self, funct3: int, rs2: int, offset: int, rs1: int) -> None:
        low, high = offset & 0x1F, offset >> 5 & 0x7F
        self.word(high << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | low << 7 | 0x23)

    def lui(self, rd: int, value: int) -> None:
        """Load the upper 20 bits of *value*."""
        self.word((value & 0xFFFFF000) | rd << 7 | 0x37)

    def addi(self, rd: int, rs: int, immediate: int) -> None:
        self._i_type(0x13, 0, rd, rs, immediate)

    def andi(self, rd: int, rs: int, immediate: int) -> None:
        self._i_type(0x13, 7, rd, rs, immediate)

    def slli(self, rd: int, rs: int, bits: int) -> None:
        self._i_type(0x13, 1, rd, rs, bits)

    def srliw(self, rd: int, rs: int, bits: int) -> None:
        self._i_type(0x1B, 5, rd, rs, bits)

    def lbu(self, rd: int, offset: int, base: int) -> None:
        self._i_type(0x03, 4, rd, base, offset)

    def sb(self, rs: int, offset: int, base: int) -> None:
        self._s_type(0, rs, offset, base)

    def sw(self, rs: int, offset: int, base: int) -> None:
        self._s_type(2, rs, offset, base)

    def sub(self, rd: int, rs1: int, rs2: int) -> None:
        self.word(0x20 << 25 | rs2 << 20 | rs1 << 15 | rd << 7 | 0x33)

    def wfi(self) -> None:
        self.word(0x10500073)

    def ret(self) -> None:
        self._i_type(0x67, 0, ZERO, RA, 0)

    def jump(self, rd: int, label: str) -> None:
        def jal(at: int, to: int) -> bytes:
            distance = to - at
            bits = (distance >> 20 & 1) << 31 | (distance >> 1 & 0x3FF) << 21
            bits |= (distance >> 11 & 1) << 20 | (distance >> 12 & 0xFF) << 12
            return struct.pack("<I", bits | rd << 7 | 0x6F)

        self.reference(label, 4, jal)

    def branch(self, mnemonic: str, rs1: int, rs2: int, label: str) -> None:
        funct3 = _BRANCHES[mnemonic]

        def encode(at: int, to: int) -> bytes:
            distance = to - at
            bits = (distance >> 12 & 1) << 31 | (distance >> 5 & 0x3F) << 25
            bits |= (distance >> 1 & 0xF) << 8 | (distance >> 11 & 1) << 7
            return struct.pack("<I", bits | rs2 << 20 | rs1 << 15 | funct3 << 12 | 0x63)

        self.reference(label, 4, encode)

    def address(self, rd: int, label: str) -> None:
        """``auipc`` and ``addi``."""

        def encode(at: int, to: int) -> bytes:
            distance = to - at
            upper = (distance + 0x800) & 0xFFFFF000  # the low half is signed
            low = (distance - upper) & 0xFFF
            return struct.pack("<II", upper | rd << 7 | 0x17, low << 20 | rd << 15 | rd << 7 | 0x13)

        self.reference(label, 8, encode)

    def call(self, label: str) -> None:
        self.jump(RA, label)

    def goto(self, label: str) -> None:
        self.jump(ZERO, label)

    def print(self, label: str) -> None:
        self.address(A1, label)
        self.call("puts")

    def string(self, label: str, text: str) -> None:
        self.label(label)
        data = text.encode("ascii") + b"\0"
        self.data(data + bytes(-len(data) % 4))  # instructions lie on multiples of four


Body = Callable[[Riscv64Code], None]


def kernel(body: Body, banner: str) -> bytes:
    code = Riscv64Code(ORIGIN)
    code.lui(S0, UART)
    code.print("banner")
    body(code)
    _serial_port(code)
    code.string("banner", banner + "\r\n")
    return code.link()


def _serial_port(code: Riscv64Code) -> None:
    """``puts`` (string at a1), ``putc`` and ``getc`` (character in a0); the status is polled."""
    code.label("puts")
    code.addi(T1, RA, 0)
    code.label("puts_next")
    code.lbu(A0, 0, A1)
    code.branch("beq", A0, ZERO, "puts_end")
    code.call("putc")
    code.addi(A1, A1, 1)
    code.goto("puts_next")
    code.label("puts_end")
    code.addi(RA, T1, 0)
    code.ret()

    code.label("putc")
    code.lbu(T0, 5, S0)
    code.andi(T0, T0, 0x20)  # transmitter empty
    code.branch("beq", T0, ZERO, "putc")
    code.sb(A0, 0, S0)
    code.ret()

    code.label("getc")
    code.lbu(T0, 5, S0)
    code.andi(T0, T0, 1)  # data ready
    code.branch("beq", T0, ZERO, "getc")
    code.lbu(A0, 0, S0)
    code.ret()


def _test_device(code: Riscv64Code, request: int) -> None:
    code.lui(T0, TEST_DEVICE)
    code.lui(A0, request + 0x800)  # the low half, added next, is signed
    code.addi(A0, A0, request)
    code.sw(A0, 0, T0)


def halt(code: Riscv64Code) -> None:
    """Stay idle for ever."""
    code.label("halt")
    code.wfi()
    code.goto("halt")


def spin(code: Riscv64Code) -> None:
    """Hang: interrupts off (as they are from the start), in an endless loop."""
    code.label("spin")
    code.goto("spin")


def poweroff(code: Riscv64Code) -> None:
    _test_device(code, TEST_POWEROFF)
    halt(code)


def poweroff_on_key(code: Riscv64Code) -> None:
    code.call("getc")
    poweroff(code)


def reset(code: Riscv64Code) -> None:
    _test_device(code, TEST_RESET)
    halt(code)


def reset_on_key(code: Riscv64Code) -> None:
    code.call("getc")
    reset(code)


def echo(code: Riscv64Code) -> None:
    """Answer each line typed with ``echo: `` and the line."""
    code.label("echo")
    code.address(S1, "line")
    code.addi(S2, S1, 0)
    code.label("echo_next")
    code.call("getc")
    code.addi(T0, A0, -13)
    code.branch("beq", T0, ZERO, "echo_line")
    code.addi(T0, A0, -10)
    code.branch("beq", T0, ZERO, "echo_line")
    code.sub(T0, S2, S1)
    code.addi(T0, T0, -(LINE_SIZE - 1))
    code.branch("bge", T0, ZERO, "echo_next")  # no room: drop it
    code.sb(A0, 0, S2)
    code.addi(S2, S2, 1)
    code.goto("echo_next")

    code.label("echo_line")
    code.branch("beq", S2, S1, "echo_next")  # empty, as within CR LF
    code.sb(ZERO, 0, S2)
    code.print("echo_prefix")
    code.print("line")
    code.print("newline")
    code.goto("echo")
    code.string("echo_prefix", "echo: ")
    code.string("newline", "\r\n")
    code.label("line")
    code.data(bytes(LINE_SIZE))


def _one_more(code: Riscv64Code) -> None:
    code.addi(S1, S1, 1)


def flood(code: Riscv64Code, step: Body = _one_more) -> None:
    """Print ``00000000``, ``00000001``, … on lines of their own, as fast as it goes."""
    code.addi(S1, ZERO, 0)
    code.label("flood")
    code.addi(S2, ZERO, 8)
    code.addi(A2, S1, 0)
    code.label("flood_digit")
    code.srliw(A0, A2, 28)
    code.slli(A2, A2, 4)
    code.addi(A0, A0, ord("0"))
    code.addi(T0, A0, -ord("9") - 1)
    code.branch("blt", T0, ZERO, "flood_put")
    code.addi(A0, A0, 7)  # from the character after 9 to A
    code.label("flood_put")
    code.call("putc")
    code.addi(S2, S2, -1)
    code.branch("bne", S2, ZERO, "flood_digit")
    code.print("flood_newline")
    step(code)
    code.goto("flood")
    code.string("flood_newline", "\r\n")


def cycles(code: Riscv64Code) -> None:
    """Print the low half of the cycle counter, over and over."""
    flood(code, lambda code: code.word(0xB0002073 | S1 << 7))  # csrr s1, mcycle


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
