"""The marker ``@pytest.mark.qmp(...)``: read, checked, and its requirements looked into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_qmp.vm.config import VMConfig

__all__ = ["check_marker", "marker_changes", "unmet_requirement"]


def check_marker(item: pytest.Item) -> None:
    """Refuses a marker that can't be right.

    Raises:
        pytest.UsageError: for a positional argument, a keyword that there is not (the text names
            the nearest), or a value that VMConfig refuses.
    """
    if item.get_closest_marker("qmp") is None:
        return
    from pytest_qmp.errors import VMConfigError
    from pytest_qmp.vm.config import VMConfig, check_names

    for mark in item.iter_markers("qmp"):
        where = f"{item.nodeid}: @pytest.mark.qmp"
        if mark.args:
            raise pytest.UsageError(
                f"{where} takes keywords only, as in machine='q35': {mark.args[0]!r} has none"
            )
        try:
            check_names(mark.kwargs, "@pytest.mark.qmp", "requires")
            VMConfig().replace(**{k: v for k, v in mark.kwargs.items() if k != "requires"})
        except VMConfigError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None
        requires = mark.kwargs.get("requires", ())
        if isinstance(requires, str) or not all(isinstance(one, str) for one in requires):
            raise pytest.UsageError(
                f"{where}: requires is a list of texts, as in requires=['kvm'], not {requires!r}"
            )
        if requires:
            from pytest_qmp.vm.requirements import parse

            try:
                for requirement in requires:
                    parse(requirement)
            except VMConfigError as error:
                raise pytest.UsageError(f"{where}: {error}") from None


def marker_changes(node: pytest.Item) -> dict[str, Any]:
    """The fields of VMConfig that the markers set; the nearest marker wins."""
    changes: dict[str, Any] = {}
    for mark in node.iter_markers("qmp"):
        for name, value in mark.kwargs.items():
            if name != "requires":
                changes.setdefault(name, value)
    return changes


def unmet_requirement(item: pytest.Item, config: VMConfig, connect: str | None) -> str:
    """Why one of the test's requirements is not met; empty if all are.

    Args:
        item: the test.
        config: which QEMU, or the fake.
        connect: address of the running QEMU that is used instead, or None.
    """
    from pytest_qmp.vm.requirements import missing

    for mark in item.iter_markers("qmp"):
        for requirement in mark.kwargs.get("requires", ()):
            reason = missing(requirement, config, connect)
            if reason:
                return f"requires {requirement!r}: {reason}"
    return ""
