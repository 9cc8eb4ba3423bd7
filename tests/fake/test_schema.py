"""The model of a query-qmp-schema reply."""

from __future__ import annotations

import pytest

from pytest_qmp.fake.versions import load_schema
from pytest_qmp.qmp.schema import ArrayType, EnumType, Member, ObjectType, Schema


@pytest.fixture(scope="module")
def schema() -> Schema:
    return load_schema("11.1")


def test_commands_and_events(schema: Schema) -> None:
    assert len(schema.commands) == 242
    assert len(schema.events) == 57
    assert schema.has_command("query-status")
    assert not schema.has_command("STOP")
    assert schema.has_event("STOP")
    assert schema.command("migrate-pause").allow_oob
    assert "json-cli" in schema.command("device_add").features
    assert schema.event("STOP").name == "STOP"


def test_types(schema: Schema) -> None:
    arguments = schema.object(schema.command("set_link").arg_type)
    assert arguments.members == (Member("name", "str"), Member("up", "bool"))
    blocks = schema.type(schema.command("query-block").ret_type)
    assert isinstance(blocks, ArrayType)
    assert isinstance(schema.type(blocks.element_type), ObjectType)
    status = schema.object(schema.command("query-status").ret_type)
    named = {member.name: member for member in status.members}
    states = schema.type(named["status"].type)
    assert isinstance(states, EnumType)
    assert "prelaunch" in states.values


@pytest.mark.parametrize(
    ("name", "path", "answer"),
    [
        ("blockdev-add", "", True),
        ("blockdev-add", "file.filename", True),
        ("blockdev-add", "file.file.file.filename", True),
        ("blockdev-add", "driver.qcow2", True),
        ("blockdev-add", "driver.nosuch", False),
        ("blockdev-add", "file.nosuch", False),
        ("blockdev-add", "driver.qcow2.x", False),
        ("SHUTDOWN", "reason.guest-panic", True),
        ("nosuch", "", False),
    ],
)
def test_supports(schema: Schema, name: str, path: str, answer: bool) -> None:
    assert schema.supports(name, path) is answer


def test_versions_differ() -> None:
    assert not load_schema("7.2").supports("block-job-change")
    assert load_schema("10.0").supports("block-job-change")


def test_suggestions(schema: Schema) -> None:
    assert "query-status" in schema.suggest_command("query-statsu")
    assert schema.suggest_event("shutdwn")[0] == "SHUTDOWN"
    assert schema.suggest_argument("set_link", "nam") == ["name"]


def test_what_is_not_there(schema: Schema) -> None:
    for lookup in (schema.command, schema.event, schema.type, schema.object):
        with pytest.raises(LookupError, match="nosuch"):
            lookup("nosuch")
    with pytest.raises(LookupError, match="not an object"):
        schema.object("str")
