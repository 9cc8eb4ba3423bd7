"""Many commands at once: how people write them, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_qmp.qmp.session import Call, Session

__all__ = ["PipelineItem", "pipeline_calls"]

PipelineItem = str | tuple[str, Mapping[str, Any] | None] | Mapping[str, Any]

_COMMAND_MEMBERS = {"execute", "exec-oob", "arguments"}


def pipeline_calls(session: Session, items: Iterable[PipelineItem]) -> list[Call]:
    """The commands of a pipeline, ready to be sent.

    Args:
        session: that they are for.
        items: each a name, ``(name, arguments)``, or a message of QMP.

    Raises:
        TypeError, ValueError: one of them is none of these, or can't be JSON.
    """
    if isinstance(items, (str, Mapping)):
        raise TypeError(f"a pipeline takes a list of commands: pipeline([{items!r}])")
    return [_call(session, item) for item in items]


def _call(session: Session, item: PipelineItem) -> Call:
    if isinstance(item, str):
        return session.call(item)
    if isinstance(item, Mapping) and ("execute" in item) != ("exec-oob" in item):
        oob = "exec-oob" in item
        if set(item) <= _COMMAND_MEMBERS:
            # Not as it is: the session knows whether it needs an id.
            name = item["exec-oob" if oob else "execute"]
            return session.call(name, item.get("arguments"), oob=oob)
        return session.raw_call(item)
    if (
        isinstance(item, tuple)
        and len(item) == 2
        and isinstance(item[0], str)
        and (item[1] is None or isinstance(item[1], Mapping))
    ):
        return session.call(item[0], item[1])
    raise TypeError(
        f"{item!r} is no command for a pipeline: give a name, (name, arguments), or a dict as "
        "{'execute': name, 'arguments': {…}}"
    )
