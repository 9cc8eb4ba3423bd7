"""A boot sector written by hand: 512 bytes that a PC's BIOS loads and runs.

It prints a line on the first serial port, waits for a key, and powers the machine off.
"""

from __future__ import annotations

from pathlib import Path

MESSAGE = "Hello from 512 bytes!"

# The BIOS puts the sector at address 7C00 and jumps there, in 16-bit mode.
CODE = bytes.fromhex(
    "31 C0"  #    7C00          xor  ax, ax
    "8E D8"  #    7C02          mov  ds, ax
    "FC"  #       7C04          cld
    "BE 30 7C"  # 7C05          mov  si, message
    #                   next:                         ; print what SI points to
    "AC"  #       7C08          lodsb
    "84 C0"  #    7C09          test al, al           ; a zero byte ends it
    "74 11"  #    7C0B          jz   key
    "88 C3"  #    7C0D          mov  bl, al
    "BA FD 03"  # 7C0F          mov  dx, 3FDh         ; the serial port's line status
    #                   busy:
    "EC"  #       7C12          in   al, dx
    "A8 20"  #    7C13          test al, 20h          ; ready to send?
    "74 FB"  #    7C15          jz   busy
    "88 D8"  #    7C17          mov  al, bl
    "B2 F8"  #    7C19          mov  dl, F8h          ; 3F8h: the serial port's data
    "EE"  #       7C1B          out  dx, al
    "EB EA"  #    7C1C          jmp  next
    #                   key:                          ; wait for a key
    "BA FD 03"  # 7C1E          mov  dx, 3FDh
    #                   none:
    "EC"  #       7C21          in   al, dx
    "A8 01"  #    7C22          test al, 1            ; anything received?
    "74 FB"  #    7C24          jz   none
    #                   off:
    "BA 04 06"  # 7C26          mov  dx, 604h         ; ACPI's power register, on pc and q35
    "B8 00 20"  # 7C29          mov  ax, 2000h        ; "soft off"
    "EF"  #       7C2C          out  dx, ax
    #                   end:
    "F4"  #       7C2D          hlt
    "EB FD"  #    7C2E          jmp  end
    #                   message: 7C30
)


def write_disk(path: Path) -> None:
    """Write a disk image that boots this sector."""
    program = CODE + MESSAGE.encode() + b"\r\n\0"
    with path.open("wb") as disk:
        disk.write(program.ljust(510, b"\0") + b"\x55\xaa")  # the mark of a boot sector
        disk.truncate(1024 * 1024)  # the BIOS finds nothing on a disk of less than a cylinder
