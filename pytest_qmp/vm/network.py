"""A machine's network: its cables, and captures of what goes over them."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pytest_qmp.errors import NeedsRealGuestError, QMPCommandError, QMPError, VMError
from pytest_qmp.keeper import client as keeper
from pytest_qmp.qmp.client import QMPClient
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.waiting import DEFAULT
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.forwarding import MachineForwarding
from pytest_qmp.vm.network_argv import USER_NETWORK, link_id

if TYPE_CHECKING:
    from pytest_qmp.vm.capture import Capture
    from pytest_qmp.vm.links import Link, LinkEnd

__all__ = ["LinkDown", "MachineNetwork"]


class LinkDown:
    """Cables that are pulled; they are put back at the end of its ``with`` block.

    Args:
        machine: whose.
        names: which.
    """

    def __init__(self, machine: MachineNetwork, names: list[str]) -> None:
        self._machine = machine
        self._names = names

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        try:
            for name in self._names:
                self._machine.set_link(name, up=True)
        except QMPError:
            # What went wrong in the block says more.
            if kind is None:
                raise


class MachineNetwork(MachineForwarding):
    """The network of ``VirtualMachine``.

    Args:
        config: what to start.
        backend: what runs it.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self._captures: dict[str, Capture] = {}
        self._capture_numbers = itertools.count(1)
        self._capture_folder: str | None = None

    # -- cables ----------------------------------------------------------------------------------

    def set_link(self, name: str | Link | LinkEnd, *, up: bool) -> None:
        """Pulls or plugs a card's cable (``set_link``), which the guest sees as the carrier.

        Args:
            name: the id of a card or of its network (``"network"``, ``"link0"``), or the link.
            up: False pulls it.

        Raises:
            VMError: the machine has no such card.
        """
        __tracebackhide__ = True
        names = [name] if isinstance(name, str) else self._names_on(name)
        for one in names:
            try:
                self.qmp.execute("set_link", name=one, up=up)
            except QMPCommandError as error:
                if error.error_class != "DeviceNotFound":
                    raise
                known = ", ".join(map(repr, self._network_ids())) or "none"
                raise VMError(
                    f"{self} has no network card {one!r}; its networks are: {known}"
                ) from None

    def link_down(self, name: str | Link | LinkEnd | None = None) -> LinkDown:
        """Pulls a cable, at once; in a ``with`` statement it is plugged again at the end.

        Args:
            name: as for ``set_link``; default: all of the machine.

        Raises:
            VMError: the machine has no such card, or none at all.
        """
        __tracebackhide__ = True
        names = self._networks_named(name)
        for one in names:
            self.set_link(one, up=False)
        return LinkDown(self, names)

    def link_up(self, name: str | Link | LinkEnd | None = None) -> None:
        """Plugs a cable; see ``link_down``."""
        __tracebackhide__ = True
        for one in self._networks_named(name):
            self.set_link(one, up=True)

    def _networks_named(self, name: str | Link | LinkEnd | None) -> list[str]:
        __tracebackhide__ = True
        if isinstance(name, str):
            return [name]
        if name is not None:
            return self._names_on(name)
        names = self._network_ids()
        if not names:
            raise VMError(
                f"{self} has no network card: VMConfig(network=True) or VMConfig(links=[…]) "
                "gives it one"
            )
        return names

    def _network_ids(self) -> list[str]:
        """The ids of what the machine's cards are connected to."""
        __tracebackhide__ = True
        if self._backend.kind == "fake":
            user = [USER_NETWORK] if self.config.network or self.config.ports else []
            return [*user, *map(link_id, range(len(self.config.links)))]
        return [card.netdev for card in self._network_cards(self._deadline(DEFAULT))]

    def _names_on(self, link: Link | LinkEnd) -> list[str]:
        __tracebackhide__ = True
        names = [
            link_id(index)
            for index, end in enumerate(self.config.links)
            if link is end or link is getattr(end, "link", None)
        ]
        if not names:
            raise VMError(f"{self} is not on {link}: VMConfig(links=[…]) connects it")
        return names

    # -- captures --------------------------------------------------------------------------------

    def capture(self, network: str | Link | LinkEnd | None = None) -> Capture:
        """Captures what goes over a network card, from now on, in the pcap format.

        Args:
            network: the id of the card's network (``"network"``, ``"link0"``), or the link;
                default: the machine's only one.

        Returns:
            The capture, which ends with its ``with`` block, its ``stop()``, or the machine.

        Raises:
            VMError: the machine has no such network, or several.
            NeedsRealGuestError: over the fake's network goes nothing.
        """
        __tracebackhide__ = True
        if self._backend.kind == "fake":
            raise NeedsRealGuestError(
                "a capture needs a real guest, and this test runs on the fake, over whose network "
                "nothing goes: install QEMU"
            )
        names = self._networks_named(network)
        if len(names) > 1:
            raise VMError(
                f"{self} has several networks, {', '.join(names)}: say which one to capture"
            )
        return self._start_capture(names[0], self._deadline(DEFAULT))

    @property
    def captures(self) -> Mapping[str, Capture]:
        """All captures of the machine by their names, such as ``network-1``; also ended ones."""
        return dict(self._captures)

    def _start_capture(self, netdev: str, deadline: Deadline) -> Capture:
        __tracebackhide__ = True
        from pytest_qmp.vm.capture import Capture

        if self._capture_folder is None:
            self._capture_folder = keeper.make_folder("pytest-qmp-capture-")
            self._releases.append(self._keep_captures)
        name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', netdev)}-{next(self._capture_numbers)}"
        path = Path(self._capture_folder, f"{name}.pcap")
        filter_id = f"capture-{name}"
        arguments = {"qom-type": "filter-dump", "id": filter_id, "netdev": netdev}
        try:
            self.qmp.execute("object-add", {**arguments, "file": os.fspath(path)}, timeout=deadline)
        except QMPCommandError as error:
            known = ", ".join(map(repr, self._network_ids())) or "none"
            raise VMError(
                f"can't capture {netdev!r} of {self}: QEMU says {error.desc!r}; the machine's "
                f"networks are: {known}"
            ) from None

        def stop() -> None:
            # A machine that has ended writes no more.
            with suppress(QMPError):
                self.qmp.execute("object-del", id=filter_id)

        self._captures[name] = capture = Capture(path, stop)
        return capture

    def _keep_captures(self) -> None:
        # Who keeps the logs has to be able to read these, too, for as long.
        if not self._oversight.keeps_logs:
            for capture in self._captures.values():
                capture.keep()
            self._drop_capture_folder()

    def _drop_capture_folder(self) -> None:
        if self._capture_folder is not None:
            keeper.remove_folder(self._capture_folder)

    def drop_logs(self) -> None:
        """Lets go of what the guest has written, but for its last lines, and of captures."""
        super().drop_logs()
        self._captures.clear()
        self._drop_capture_folder()

    def _begin(self, qmp: QMPClient, deadline: Deadline) -> None:
        __tracebackhide__ = True
        if self.config.capture and self._backend.kind == "qemu":
            for card in self._network_cards(deadline):
                self._start_capture(card.netdev, deadline)
        super()._begin(qmp, deadline)
