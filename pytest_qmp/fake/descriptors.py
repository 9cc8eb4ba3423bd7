"""File descriptors that clients pass over their monitor: names and sets of them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .command_line import Argument, parse_keys
from .replies import CommandFailed

__all__ = [
    "Borrowed",
    "Descriptors",
    "FdSet",
    "MonitorDescriptors",
    "Numbers",
    "Passed",
    "SetMember",
]

_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_SET_PATH = "/dev/fdset/"


class Numbers:
    """What the emulated QEMU calls its descriptors: always the lowest number that is free.

    Args:
        first: the lowest that it has not open.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._taken: set[int] = set()

    def take(self) -> int:
        """The lowest number, taken from now on."""
        number = self._first
        while number in self._taken:
            number += 1
        self._taken.add(number)
        return number

    def give_back(self, number: int) -> None:
        """It is free again."""
        self._taken.discard(number)


class Passed:
    """A descriptor that a client has passed.

    Attributes:
        number: as QEMU calls it.
        descriptor: as this process does.
    """

    def __init__(self, descriptor: int, numbers: Numbers) -> None:
        self._numbers = numbers
        self.number = numbers.take()
        self.descriptor = descriptor

    def release(self) -> int:
        """The descriptor, now the caller's."""
        self._numbers.give_back(self.number)
        return self.descriptor

    def close(self) -> None:
        """Closes it."""
        os.close(self.release())


class MonitorDescriptors:
    """Those of one monitor: what has come and is not claimed yet, and what ``getfd`` named.

    Args:
        numbers: of the machine.
    """

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._unclaimed: list[Passed] = []
        self._named: dict[str, Passed] = {}

    def arrive(self, descriptors: Iterable[int]) -> None:
        """Some came with the bytes being read; what nobody has claimed before is closed."""
        arrived = [Passed(descriptor, self._numbers) for descriptor in descriptors]
        self.close_unclaimed()
        self._unclaimed = arrived

    def claim(self) -> Passed:
        """The first that came, now the caller's; the others are closed.

        Raises:
            CommandFailed: none came.
        """
        if not self._unclaimed:
            raise CommandFailed("No file descriptor supplied via SCM_RIGHTS")
        claimed = self._unclaimed.pop(0)
        self.close_unclaimed()
        return claimed

    def name(self, name: str, passed: Passed) -> None:
        """Keeps a descriptor under a name; the one that had it is closed."""
        previous = self._named.pop(name, None)
        self._named[name] = passed
        if previous is not None:
            previous.close()

    def take(self, name: str) -> int | None:
        """The descriptor of that name, now the caller's; None if there is none."""
        passed = self._named.pop(name, None)
        return None if passed is None else passed.release()

    def close_unclaimed(self) -> None:
        """The client has left, or sends others."""
        unclaimed, self._unclaimed = self._unclaimed, []
        for passed in unclaimed:
            passed.close()

    def close(self) -> None:
        """The monitor ends."""
        self.close_unclaimed()
        named, self._named = self._named, {}
        for passed in named.values():
            passed.close()


@dataclass
class SetMember:
    """A descriptor in a set.

    Attributes:
        passed: the descriptor.
        opaque: what the client said about it.
        removed: it goes once the guest runs.
    """

    passed: Passed
    opaque: str | None = None
    removed: bool = False


@dataclass
class FdSet:
    """A set, as ``add-fd`` makes them."""

    id: int
    members: list[SetMember] = field(default_factory=list)
    #: How many block nodes have a copy of one of its descriptors.
    users: int = 0


class Borrowed:
    """A copy of a descriptor of a set, which a block node has open.

    Attributes:
        descriptor: the copy.
    """

    def __init__(self, descriptor: int, give_back: Callable[[Borrowed], None]) -> None:
        self.descriptor = descriptor
        self._give_back = give_back

    @property
    def path(self) -> str:
        """Where the file can be opened anew."""
        return f"/dev/fd/{self.descriptor}"

    def close(self) -> None:
        """Closes the copy."""
        self._give_back(self)


class Descriptors:
    """The sets of a machine.

    Args:
        first_number: the lowest descriptor that the emulated QEMU has not open.
        removes_late: what is removed stays until the guest runs.
        names_flags: where a set has no fitting descriptor, QEMU says which flags it wanted.
    """

    def __init__(self, first_number: int, *, removes_late: bool, names_flags: bool) -> None:
        self.sets: dict[int, FdSet] = {}
        self._borrowed: dict[Borrowed, FdSet] = {}
        self._names_flags = names_flags
        self.numbers = Numbers(first_number)
        self._removes_late = removes_late

    def add(self, passed: Passed, set_id: int | None, opaque: str | None) -> tuple[int, int]:
        """Puts a descriptor in a set, a new one for None; returns the set's id and the number.

        Raises:
            CommandFailed: the id is negative; the descriptor is closed then.
        """
        if set_id is not None and set_id < 0:
            passed.close()
            raise CommandFailed("Parameter 'fdset-id' expects a non-negative value")
        if set_id is None:
            set_id = next(number for number in range(len(self.sets) + 1) if number not in self.sets)
        found = self.sets.setdefault(set_id, FdSet(set_id))
        found.members.append(SetMember(passed, opaque))
        return set_id, passed.number

    def add_given(self, argument: Argument) -> None:
        """Does what an ``-add-fd`` says.

        Raises:
            StartFailed: there is no such descriptor, or no number of a set.
        """
        keys = parse_keys(argument.value)
        if not keys.get("set", "").isdecimal():
            raise argument.failed("set option is required and must be non-negative")
        try:
            copy = os.dup(int(keys.get("fd", "")))
        except (OSError, ValueError) as error:
            raise argument.failed("fd is not valid or already in use") from error
        self.add(Passed(copy, self.numbers), int(keys["set"]), keys.get("opaque"))

    def remove(self, set_id: int, number: int | None, *, running: bool) -> None:
        """Takes one descriptor out of a set, or all for None.

        Raises:
            CommandFailed: there is no such set, or no such descriptor in it.
        """
        found = self.sets.get(set_id)
        members = [] if found is None else found.members
        chosen = [member for member in members if number in (None, member.passed.number)]
        if found is None or (number is not None and not chosen):
            what = f"fdset-id:{set_id}" + ("" if number is None else f", fd:{number}")
            raise CommandFailed(f"File descriptor named '{what}' not found")
        for member in chosen:
            member.removed = True
        if running or not self._removes_late:
            self._sweep(found)

    def open(self, path: str, flags: int) -> int | None:
        """A copy of a descriptor of the set that a path names; None if the path names none.

        Raises:
            OSError: there is no such set, nothing in it that is open in that way, or no number.
        """
        if not path.startswith(_SET_PATH):
            return None
        tail = path[len(_SET_PATH) :]
        if not tail.isdecimal():
            raise OSError(22, os.strerror(22), path)
        found = self.sets.get(int(tail))
        if found is None:
            raise FileNotFoundError(2, os.strerror(2), path)
        for member in found.members:
            access = fcntl.fcntl(member.passed.descriptor, fcntl.F_GETFL) & _ACCESS
            if access == flags & _ACCESS:
                copy = os.dup(member.passed.descriptor)
                if flags & os.O_TRUNC:
                    try:
                        os.ftruncate(copy, 0)
                    except OSError:
                        os.close(copy)
                        raise
                return copy
        raise PermissionError(13, os.strerror(13), path)

    def borrow(self, path: str, flags: int) -> Borrowed | None:
        """As :meth:`open`, for a block node; the set stays until the copy is closed.

        Raises:
            CommandFailed: there is no such set, or nothing in it that is open in that way.
        """
        if not path.startswith(_SET_PATH):
            return None
        if not path[len(_SET_PATH) :].isdecimal():
            raise CommandFailed(f"Could not parse fdset {path}")
        try:
            copy = self.open(path, flags)
        except OSError as error:
            if not self._names_flags:
                desc = f"Could not dup FD for {path} flags {flags:x}: {error.strerror}"
            elif isinstance(error, FileNotFoundError):
                desc = f"Failed to find fdset {path}"
            else:
                desc = f"Failed to find file descriptor with matching flags=0x{flags:x}"
            raise CommandFailed(desc) from None
        if copy is None:
            return None
        found = self.sets[int(path[len(_SET_PATH) :])]
        found.users += 1
        borrowed = Borrowed(copy, self._give_back)
        self._borrowed[borrowed] = found
        return borrowed

    def copy(self, path: str, flags: int) -> int | None:
        """As :meth:`open`, with the errors of :meth:`borrow`."""
        borrowed = self.borrow(path, flags)
        if borrowed is None:
            return None
        copy = os.dup(borrowed.descriptor)
        borrowed.close()
        return copy

    def _give_back(self, borrowed: Borrowed) -> None:
        found = self._borrowed.pop(borrowed, None)
        if found is None:
            return
        os.close(borrowed.descriptor)
        found.users -= 1
        self._forget(found)

    def close(self) -> None:
        """The machine ends."""
        for borrowed in list(self._borrowed):
            borrowed.close()
        for found in self.sets.values():
            for member in found.members:
                member.passed.close()
        self.sets.clear()

    def _sweep(self, found: FdSet) -> None:
        for member in found.members:
            if member.removed:
                member.passed.close()
        found.members = [member for member in found.members if not member.removed]
        self._forget(found)

    def _forget(self, found: FdSet) -> None:
        if not found.members and not found.users:
            del self.sets[found.id]
