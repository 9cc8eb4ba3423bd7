"""Commands about migration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..replies import CommandFailed, NotModelled
from .registry import Context, Registry

commands = Registry()


@commands.handles("migrate")
def migrate(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.migration.migrate(
        arguments.get("uri"),
        arguments.get("channels"),
        _take(context),
        resume=arguments.get("resume", False),
    )
    return {}


@commands.handles("migrate-incoming")
def migrate_incoming(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.migration.incoming.begin(
        arguments.get("uri"),
        arguments.get("channels"),
        _take(context),
        exits=arguments.get("exit-on-error", True),
    )
    return {}


@commands.handles("migrate_cancel")
def migrate_cancel(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.migration.outgoing.cancel()
    return {}


@commands.handles("migrate-continue")
def migrate_continue(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.migration.outgoing.go_on(arguments["state"])
    return {}


@commands.handles("migrate-pause")
def migrate_pause(context: Context, arguments: Mapping[str, Any]) -> Any:
    states = "postcopy-active"
    if context.dialect.version >= (10, 0, 0):
        states += " or postcopy-recover"
    raise CommandFailed(f"migrate-pause is currently only supported during {states} state")


@commands.handles("migrate-recover")
def migrate_recover(context: Context, arguments: Mapping[str, Any]) -> Any:
    raise CommandFailed("Migrate recover can only be run when postcopy is paused.")


@commands.handles("migrate-start-postcopy")
def migrate_start_postcopy(context: Context, arguments: Mapping[str, Any]) -> Any:
    migration = context.machine.migration
    if not migration.settings.enabled("postcopy-ram"):
        raise CommandFailed(
            "Enable postcopy with migrate_set_capability before the start of migration"
        )
    if not migration.outgoing.under_way:
        raise CommandFailed("Postcopy must be started after migration has been started")
    raise NotModelled("the switch to postcopy")


@commands.handles("migrate-set-capabilities")
def migrate_set_capabilities(context: Context, arguments: Mapping[str, Any]) -> Any:
    migration = context.machine.migration
    if migration.outgoing.under_way:
        raise CommandFailed("There's a migration process in progress")
    changes = {one["capability"]: one["state"] for one in arguments["capabilities"]}
    migration.settings.set_capabilities(changes, incoming_began=migration.incoming.began)
    return {}


@commands.handles("query-migrate-capabilities")
def query_migrate_capabilities(context: Context, arguments: Mapping[str, Any]) -> Any:
    return [
        {"capability": name, "state": state}
        for name, state in context.machine.migration.settings.capabilities.items()
    ]


@commands.handles("migrate-set-parameters")
def migrate_set_parameters(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.migration.settings.set_parameters(arguments)
    return {}


@commands.handles("query-migrate-parameters")
def query_migrate_parameters(context: Context, arguments: Mapping[str, Any]) -> Any:
    return dict(context.machine.migration.settings.parameters)


@commands.handles("query-migrate")
def query_migrate(context: Context, arguments: Mapping[str, Any]) -> Any:
    return context.machine.migration.info()


@commands.handles("query-migrationthreads")
def query_migrationthreads(context: Context, arguments: Mapping[str, Any]) -> Any:
    return []


@commands.handles("calc-dirty-rate")
def calc_dirty_rate(context: Context, arguments: Mapping[str, Any]) -> Any:
    unit = 1 if arguments.get("calc-time-unit") == "millisecond" else 1000
    mode = arguments.get("mode", "page-sampling")
    if context.dialect.version < (10, 0) and mode != "page-sampling":
        raise NotModelled("a measurement on which QEMU 7.2 breaks down without KVM")
    context.machine.dirty_rate.begin(
        arguments["calc-time"] * unit, arguments.get("sample-pages"), mode
    )
    return {}


@commands.handles("query-dirty-rate")
def query_dirty_rate(context: Context, arguments: Mapping[str, Any]) -> Any:
    return context.machine.dirty_rate.info(arguments.get("calc-time-unit", "second"))


def _take(context: Context) -> Callable[[str], int | None]:
    return context.monitor.descriptors.take
