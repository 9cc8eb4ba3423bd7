"""Guests for x86 PCs: 16-bit real-mode code, talking on COM1.

Each runs either as a boot sector, started by SeaBIOS from a drive, or as the machine's
firmware itself (``-bios``), which skips SeaBIOS and so says its first byte much sooner.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .code import Code

SECTOR = 512
FIRMWARE = 0x10000  # QEMU takes a BIOS in multiples of 64 KiB
BOOT_SECTOR_ORIGIN = 0x7C00  # where a BIOS loads a boot sector
FIRMWARE_ORIGIN = 0x0000  # an offset into segment F000, where the image is mapped
RESET_VECTOR = 0xFFF0  # the first instruction that an x86 CPU runs, in the same segment

PM1A_CNT = 0x604  # the ACPI power register, where SeaBIOS puts it on both pc and q35

_JUMPS = {"jmp": 0xEB, "jz": 0x74, "jnz": 0x75, "jae": 0x73, "jb": 0x72, "loop": 0xE2}


class X86Code(Code):
    """A listing: the assembler text beside the bytes that it stands for."""

    def op(self, _text: str, hexadecimal: str) -> None:
        self.data(bytes.fromhex(hexadecimal))

    def jump(self, mnemonic: str, label: str) -> None:
        opcode = _JUMPS[mnemonic]
        self.reference(label, 2, lambda at, to: struct.pack("<Bb", opcode, to - (at + 2)))

    def call(self, label: str) -> None:
        self.reference(label, 3, lambda at, to: struct.pack("<Bh", 0xE8, to - (at + 3)))

    def address(self, _text: str, opcode: int, label: str) -> None:
        """Load a 16-bit register with the address of *label*."""
        self.reference(label, 3, lambda at, to: struct.pack("<BH", opcode, to))

    def print(self, label: str) -> None:
        self.address(f"mov si, {label}", 0xBE, label)
        self.call("puts")

    def string(self, label: str, text: str) -> None:
        self.label(label)
        self.data(text.encode("ascii") + b"\0")


Body = Callable[[X86Code], None]


def boot_sector(body: Body, banner: str) -> bytes:
    code = _assemble(X86Code(BOOT_SECTOR_ORIGIN), body, banner, set_up_power=False)
    code.pad(BOOT_SECTOR_ORIGIN + SECTOR - 2)
    code.data(b"\x55\xaa")  # the mark by which a BIOS knows a bootable sector
    return code.link()


def firmware(body: Body, banner: str) -> bytes:
    code = _assemble(X86Code(FIRMWARE_ORIGIN), body, banner, set_up_power=True)
    code.pad(RESET_VECTOR)
    # A near jump: it stays in the reset segment, at the top of the address space.
    code.reference("start", 3, lambda at, to: struct.pack("<BH", 0xE9, (to - at - 3) & 0xFFFF))
    code.pad(FIRMWARE)
    return code.link()


def _assemble(code: X86Code, body: Body, banner: str, *, set_up_power: bool) -> X86Code:
    code.label("start")
    code.op("cli", "FA")
    code.op("cld", "FC")
    code.op("mov ax, cs", "8C C8")
    code.op("mov ds, ax", "8E D8")  # strings lie beside the code
    code.op("xor ax, ax", "31 C0")
    code.op("mov es, ax", "8E C0")
    code.op("mov ss, ax", "8E D0")
    code.op("mov sp, 7C00h", "BC 00 7C")
    if set_up_power:
        _power_registers(code)
    code.print("banner")
    body(code)
    _serial_port(code)
    code.string("banner", banner + "\r\n")
    if set_up_power:
        _power_register_table(code)
    return code


def _serial_port(code: X86Code) -> None:
    """``puts``, ``putc`` and ``getc`` on COM1; the line status is polled."""
    code.label("puts")  # print the string at SI
    code.op("lodsb", "AC")
    code.op("test al, al", "84 C0")
    code.jump("jz", "puts_end")
    code.call("putc")
    code.jump("jmp", "puts")
    code.label("puts_end")
    code.op("ret", "C3")

    code.label("putc")  # print the character in AL
    code.op("push ax", "50")
    code.op("mov dx, 3FDh", "BA FD 03")
    code.label("putc_wait")
    code.op("in al, dx", "EC")
    code.op("test al, 20h", "A8 20")  # transmitter empty
    code.jump("jz", "putc_wait")
    code.op("pop ax", "58")
    code.op("mov dx, 3F8h", "BA F8 03")
    code.op("out dx, al", "EE")
    code.op("ret", "C3")

    code.label("getc")  # wait for a character, into AL
    code.op("mov dx, 3FDh", "BA FD 03")
    code.label("getc_wait")
    code.op("in al, dx", "EC")
    code.op("test al, 1", "A8 01")  # data ready
    code.jump("jz", "getc_wait")
    code.op("mov dx, 3F8h", "BA F8 03")
    code.op("in al, dx", "EC")
    code.op("ret", "C3")


def _power_registers(code: X86Code) -> None:
    """Do what SeaBIOS would have done: give the ACPI power registers their address."""
    code.address("mov si, pm_table", 0xBE, "pm_table")
    code.op("mov cx, 4", "B9 04 00")
    code.label("pm_next")
    code.op("lodsd", "66 AD")
    code.op("mov dx, CF8h", "BA F8 0C")
    code.op("out dx, eax", "66 EF")
    code.op("lodsd", "66 AD")
    code.op("mov dx, CFCh", "BA FC 0C")
    code.op("out dx, eax", "66 EF")
    code.jump("loop", "pm_next")


def _power_register_table(code: X86Code) -> None:
    pm_base = (PM1A_CNT - 4) | 1
    ich9, piix4 = 0x8000F800, 0x80000B00  # PCI addresses of the bridge on q35, of ACPI on pc
    code.label("pm_table")
    code.data(struct.pack("<4I", ich9 | 0x40, pm_base, ich9 | 0x44, 0x80))
    code.data(struct.pack("<4I", piix4 | 0x40, pm_base, piix4 | 0x80, 0x01))


def halt(code: X86Code) -> None:
    """Stay idle for ever, with interrupts off and the CPU halted."""
    code.label("halt")
    code.op("hlt", "F4")
    code.jump("jmp", "halt")


def spin(code: X86Code) -> None:
    """Hang: interrupts off, in an endless loop."""
    code.op("cli", "FA")
    code.label("spin")
    code.jump("jmp", "spin")


def poweroff(code: X86Code) -> None:
    code.op("mov dx, PM1A_CNT", f"BA {struct.pack('<H', PM1A_CNT).hex()}")
    code.op("mov ax, 2000h", "B8 00 20")  # SLP_EN, sleep type 0: S5, soft off
    code.op("out dx, ax", "EF")
    halt(code)


def poweroff_on_key(code: X86Code) -> None:
    code.call("getc")
    poweroff(code)


def reset(code: X86Code) -> None:
    code.op("mov dx, CF9h", "BA F9 0C")
    code.op("mov al, 6", "B0 06")  # system reset, now
    code.op("out dx, al", "EE")
    halt(code)


def reset_on_key(code: X86Code) -> None:
    code.call("getc")
    reset(code)


def panic(code: X86Code) -> None:
    """Tell the host that the guest has panicked, through a pvpanic device."""
    code.op("mov dx, 505h", "BA 05 05")
    code.op("mov al, 1", "B0 01")
    code.op("out dx, al", "EE")
    halt(code)


def _nothing(code: X86Code) -> None:
    pass


def echo(code: X86Code, show: Body = _nothing) -> None:
    """Answer each line typed with ``echo: `` and the line."""
    code.label("echo")
    code.op("mov di, 8000h", "BF 00 80")  # the line is kept at 0000:8000
    code.label("echo_next")
    code.call("getc")
    code.op("cmp al, 13", "3C 0D")
    code.jump("jz", "echo_line")
    code.op("cmp al, 10", "3C 0A")
    code.jump("jz", "echo_line")
    code.op("cmp di, F000h", "81 FF 00 F0")
    code.jump("jae", "echo_next")  # no room: drop it
    code.op("stosb", "AA")
    show(code)
    code.jump("jmp", "echo_next")

    code.label("echo_line")
    code.op("cmp di, 8000h", "81 FF 00 80")
    code.jump("jz", "echo_next")  # empty, as between the two halves of CR LF
    code.print("echo_prefix")
    code.op("mov si, 8000h", "BE 00 80")
    code.label("echo_char")
    code.op("es lodsb", "26 AC")
    code.call("putc")
    code.op("cmp si, di", "39 FE")
    code.jump("jb", "echo_char")
    code.print("newline")
    code.jump("jmp", "echo")
    code.string("echo_prefix", "echo: ")
    code.string("newline", "\r\n")


def typed(code: X86Code) -> None:
    """The same, and show each character as it is typed."""
    echo(code, lambda code: code.call("putc"))


def _one_more(code: X86Code) -> None:
    code.op("inc ebp", "66 45")


def flood(code: X86Code, step: Body = _one_more) -> None:
    """Print ``00000000``, ``00000001``, … on lines of their own, as fast as it goes."""
    code.op("xor ebp, ebp", "66 31 ED")
    code.label("flood")
    code.op("mov bx, 8", "BB 08 00")
    code.label("flood_digit")
    code.op("rol ebp, 4", "66 C1 C5 04")  # eight of these bring it back as it was
    code.op("mov ax, bp", "89 E8")
    code.op("and al, 0Fh", "24 0F")
    # The classic four bytes from a nibble to its hexadecimal digit.
    code.op("cmp al, 10; sbb al, 69h; das", "3C 0A 1C 69 2F")
    code.call("putc")
    code.op("dec bx", "4B")
    code.jump("jnz", "flood_digit")
    code.print("flood_newline")
    step(code)
    code.jump("jmp", "flood")
    code.string("flood_newline", "\r\n")


def cycles(code: X86Code) -> None:
    """Print the low half of the time stamp counter, over and over."""
    flood(code, _time_stamp)


def _time_stamp(code: X86Code) -> None:
    code.op("rdtsc", "0F 31")
    code.op("mov ebp, eax", "66 89 C5")


BODIES: dict[str, Body] = {
    "halt": halt,
    "spin": spin,
    "poweroff": poweroff,
    "poweroff-on-key": poweroff_on_key,
    "reset": reset,
    "reset-on-key": reset_on_key,
    "panic": panic,
    "echo": echo,
    "typed": typed,
    "flood": flood,
    "cycles": cycles,
}
