"""The state of a fake's machine, kept, and put to the same fake or to another."""

from __future__ import annotations

from typing import Any

from .console import Console
from .core import Core
from .guest import FakeGuest
from .reactor import Reactor
from .state_copy import StateCopy

__all__ = ["Copies", "MachineCopy"]


class MachineCopy:
    """What a machine's state was at a moment; opaque.

    Attributes:
        args: the arguments that the machine was made of.
    """

    def __init__(self, args: object, now: float, state: StateCopy) -> None:
        self.args = args
        self.now = now
        self.state = state


class Copies:
    """The part of a server that copies what it models."""

    _core: Core
    _console: Console
    _reactor: Reactor
    guest: FakeGuest
    faults: Any

    def copy_state(self) -> MachineCopy:
        """The state of the machine: run state, devices, disks, jobs, timers, scripts of the guest.

        What is outside it stays so: monitors, chardevs and what is connected to them, descriptors
        of this process, stubs, and the calls that came.
        """
        with self._reactor.change():
            core = self._core
            places = self._places(core.sessions)
            state = StateCopy([vars(one) for one in self._copied()], places)
            return MachineCopy(core.machine.options, core.clock.now, state)

    def put_state(self, copy: MachineCopy) -> None:
        """Goes on from a copied state; further ones can, too, from the same.

        Args:
            copy: from a server with the same arguments.
        """
        with self._reactor.change():
            core = self._core
            # Who waited for an answer then is answered by nobody now.
            gone = core.open_session(private=True)
            core.close_session(gone)
            places = self._places([gone])
            for one, members in zip(
                self._copied(), copy.state.make(places, rest=gone), strict=True
            ):
                vars(one).update(members)
            core.clock.resume(copy.now)

    def _copied(self) -> list[object]:
        core = self._core
        return [core.machine, core.clock, self._console]

    def _places(self, sessions: list[Any]) -> list[object]:
        """What a copy refers to and does not hold, in an order that is the same everywhere."""
        core = self._core
        machine = core.machine
        outside = [self, core, self._reactor, self.guest, self.faults, core.stubs, core.policy]
        return [*self._copied(), *outside, machine.descriptors, machine.chardevs, *sessions]
