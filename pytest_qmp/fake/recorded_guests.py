"""What the guests of recordings do: small programs on ``boot.img``, played by a fake's guest.

A recording says what QEMU answered, not what its guest did; that is told by the case's name.
Nothing here is an answer: what comes of a guest's act is up to the fake.
"""

from __future__ import annotations

from collections.abc import Callable

from .guest import FakeGuest

__all__ = ["script_guest"]

#: Takes the guest and how often it has booted, this time included.
_Act = Callable[[FakeGuest, int], None]


def script_guest(guest: FakeGuest, name: str) -> None:
    """Has a guest do what the one of a recording did.

    Args:
        guest: of the fake.
        name: of the case, ``guest/what-and-more``; without a known act the guest idles.
    """
    what = name.partition("/")[2]
    act = next((act for kind, act in _ACTS.items() if what.startswith(kind)), None)
    if act is None:
        return
    boots = 0

    def boot() -> None:
        nonlocal boots
        boots += 1
        act(guest, boots)

    guest.on_boot(boot)
    # The BIOS finds no way back to a guest that set none up, and resets.
    guest.on_wake(guest.reset)


def _power_off(guest: FakeGuest, boots: int) -> None:
    guest.poweroff()


def _reset(guest: FakeGuest, boots: int) -> None:
    # A PC's BIOS resets once more where a guest has reset by the keyboard's controller.
    if boots <= 2:
        guest.reset()


def _suspend(guest: FakeGuest, boots: int) -> None:
    guest.suspend()


def _panic(guest: FakeGuest, boots: int) -> None:
    guest.panic()


def _crash_loaded(guest: FakeGuest, boots: int) -> None:
    guest.crash_loaded()


def _pv_shutdown(guest: FakeGuest, boots: int) -> None:
    guest.pv_shutdown()


def _watchdog(guest: FakeGuest, boots: int) -> None:
    if boots == 1:
        guest.watchdog()
    elif boots == 2:
        guest.reset()


def _set_clock(guest: FakeGuest, boots: int) -> None:
    # To one hour, then at once to another; the host's hour at the time made these of them.
    guest.rtc_change(-25200)
    guest.rtc_change(-54000)


def _read_disk(guest: FakeGuest, boots: int) -> None:
    if guest.disks:
        guest.io_error(guest.disks[0])


_ACTS: dict[str, _Act] = {
    "poweroff": _power_off,
    "shutdown": _power_off,
    "snapshot-while-shutdown": _power_off,
    "reset": _reset,
    "suspend": _suspend,
    "panic": _panic,
    "crash": _crash_loaded,
    "pvshutdown": _pv_shutdown,
    "watchdog": _watchdog,
    "rtc": _set_clock,
    "io-error": _read_disk,
}
