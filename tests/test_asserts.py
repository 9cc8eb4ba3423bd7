"""Assertions on what a command returns, and on what is refused."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_qmp import FakeQMPServer, QMPClient, QMPCommandError, QMPTimeoutError
from pytest_qmp.asserts import (
    assert_error,
    assert_qmp,
    assert_qmp_absent,
    assert_status,
    assert_value,
)
from pytest_qmp.asserts.comparing import fits

REPLY = [{"device": "d0", "inserted": {"file": "/x", "ro": True}}, {"device": "d1", "3": "three"}]


def execute(command: str, arguments: Any = None) -> Any:
    return {"query-status": {"status": "running"}, "query-block": REPLY, "query-n": 5}[command]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("0/inserted/file", "/x"),
        ("[0]/inserted/file", "/x"),
        ("[0]inserted/ro", True),
        ("1/device", "d1"),
        ("1/3", "three"),
        ("0/inserted", {"file": "/x", "ro": True}),
        ("", REPLY),
    ],
)
def test_assert_qmp(path: str, value: object) -> None:
    assert_qmp(execute, "query-block", path, value)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("0/device", "dx", "'0/device' was to be 'dx', but it is 'd0'"),
        ("0/devise", "d0", "at '0' is no member 'devise'; did you mean 'device'?"),
        ("0/devise", "d0", "(members: device, inserted)"),
        ("2/device", "d0", "at the top is a list of 2, which has no item '2'"),
        ("x", "d0", "at the top is a list of 2, which has no item 'x'"),
        ("0/device/x", "d0", "at '0/device' is 'd0', which has no members"),
        ("0/devise", "d0", '"file": "/x"'),
    ],
)
def test_assert_qmp_says_how_far_the_path_led(path: str, value: object, told: str) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_qmp(execute, "query-block", path, value)
    assert told in str(caught.value)
    assert "query-block" in str(caught.value)


def test_assert_qmp_of_the_whole() -> None:
    assert_qmp(execute, "query-n", "", 5)
    with pytest.raises(AssertionError, match="was to be 6, but it is 5"):
        assert_qmp(execute, "query-n", "", 6)


def test_assert_qmp_passes_arguments_on() -> None:
    asked = []

    def remember(command: str, arguments: Any = None) -> dict[str, int]:
        asked.append((command, arguments))
        return {"x": 1}

    assert_qmp(remember, "qom-get", "x", 1, {"path": "/"})
    assert asked == [("qom-get", {"path": "/"})]


def test_assert_status() -> None:
    assert_status(execute, "running")
    with pytest.raises(AssertionError, match="to be 'paused', but query-status says 'running'"):
        assert_status(execute, "paused")


def told(*arguments: Any, **keywords: Any) -> str:
    """What a failing ``assert_value`` says."""
    with pytest.raises(AssertionError) as caught:
        assert_value(*arguments, **keywords)
    return str(caught.value)


@pytest.mark.parametrize("target", ["client", "execute"])
def test_on_a_client_or_its_execute(target: str) -> None:
    with FakeQMPServer() as server, QMPClient.connect(server.address) as client:
        who = client if target == "client" else client.execute
        assert_status(who, "running")
        assert_qmp(who, "query-status", "running", True)
        assert_qmp(
            who, "qom-get", "", re.compile("machine$"), {"path": "/machine", "property": "type"}
        )
        assert_qmp_absent(who, "query-status", "reason")


def test_several_run_states_and_one_that_is_none() -> None:
    assert_status(execute, ["paused", "running"])
    with pytest.raises(AssertionError, match="'paused' or 'shutdown', but query-status says"):
        assert_status(execute, ["paused", "shutdown"])
    with pytest.raises(AssertionError, match="no run state 'pausd'; did you mean 'paused'"):
        assert_status(execute, "pausd")
    with pytest.raises(AssertionError, match=r"looks once; wait_for_status\(\)"):
        assert_status(execute, "paused")


@pytest.mark.parametrize("path", ["return[0]/device", "return/0/device", [0, "device"]])
def test_paths_as_others_write_them(path: Any) -> None:
    assert_value(REPLY, path, "d0")


def test_a_path_of_steps_reaches_what_has_a_slash() -> None:
    assert_value({"/machine": [1]}, ["/machine", 0], 1)
    with pytest.raises(ValueError, match="a path is a text"):
        assert_value({}, 3, 1)  # type: ignore[arg-type]


def test_a_member_called_return_is_no_prefix() -> None:
    assert_value({"return": {"a": 1}}, "return/a", 1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("0/inserted/file", re.compile("x$")),
        ("0/inserted/file", str),
        ("0/inserted/ro", bool),
        ("0/inserted/file", lambda file: file.startswith("/")),
        ("0/inserted", {"file": re.compile("x"), "ro": ANY}),
        ("1/3", pytest.approx("three")),
        ("0", {"device": str, "inserted": dict}),
    ],
)
def test_wanted_by_pattern_class_predicate_or_equality(path: str, value: object) -> None:
    assert_value(REPLY, path, value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (re.compile("y$"), "'0/inserted/file' was to be a text matching 'y$', but it is '/x'"),
        (int, "was to be something of type int"),
        (str.isdigit, "something for which isdigit holds, but it is '/x'"),
    ],
)
def test_what_was_wanted_is_told_in_words(value: object, words: str) -> None:
    assert words in told(REPLY, "0/inserted/file", value)


def test_true_is_no_number() -> None:
    assert "was to be 1, but it is True" in told(REPLY, "0/inserted/ro", 1)
    assert "was to be True, but it is 1" in told(1, "", True)
    assert told(True, "", int)


def test_exactly_or_in_part() -> None:
    found = {"status": "running", "running": True, "more": {"a": 1, "b": [1, {"c": 2}]}}
    assert_value(found, match={"running": True, "more": {"b": [1, {}]}})
    assert_value(found, "more", match={"a": lambda a: a > 0})
    text = told(found, "", {"running": True, "more": {"a": 2, "b": [1, {"c": 2}]}})
    assert text.splitlines() == [
        "the value: it is not as it was to be:",
        "  more/a: expected 2, found 1",
        "  status: expected no such member, found 'running'",
    ]
    text = told(found, "more", match={"a": 1, "x": str, "b": [1]})
    assert "  x: expected something of type str, found no such member" in text
    assert "  b: expected 1 items, found 2: [1, {'c': 2}]" in text
    with pytest.raises(ValueError, match="give one of them"):
        assert_value(found, "more", {}, match={})


def test_only_that_it_is_there() -> None:
    assert_value(REPLY, "0/inserted")
    assert "there is no '0/inserted/size'" in told(REPLY, "0/inserted/size")


def test_long_values_stand_one_below_the_other() -> None:
    lines = told({"file": "/long" * 20 + "/a"}, "file", "/long" * 20 + "/b").splitlines()
    assert lines[0] == "the value: 'file' is not as it was to be:"
    assert lines[1] == "  expected " + repr("/long" * 20 + "/b")
    assert lines[2] == "  found    " + repr("/long" * 20 + "/a")


def test_many_differences_are_cut() -> None:
    text = told(list(range(30)), "", [one + 1 for one in range(30)])
    assert "  9: expected 10, found 9\n  … and 20 more" in text


def test_where_a_missing_member_is() -> None:
    text = told(REPLY, "0/file", "/x")
    assert "at '0' is no member 'file'" in text
    assert "'file' is at '0/inserted/file'" in text
    text = told(REPLY, "inserted/file", "/x")
    assert "'file' is at '0/inserted/file'" in text
    many = [{"a": {"size": one}} for one in range(9)]
    text = told(many, "8/size", 8)
    assert "'size' is at '8/a/size', " in text
    assert "and 6 other places" in text


def test_where_a_value_is_instead() -> None:
    assert "'d1' is at '1/device'" in told(REPLY, "0/device", "d1")
    assert " is at " not in told(REPLY, "0/inserted/ro", False)


def test_of_a_long_reply_the_surroundings_are_shown() -> None:
    reply = [{"node": one, "text": "x" * 100} for one in range(100)]
    text = told(reply, "50/node", 51)
    assert "the value returned at '50' {" in text
    assert '"node": 50' in text
    assert '"node": 3,' not in text
    assert len(text) < 1000


def test_what_a_guest_wrote_is_harmless() -> None:
    assert "\x1b" not in told({"name": "\x1b[2J"}, "name", "x")


def test_absent() -> None:
    assert_qmp_absent(execute, "query-block", "1/inserted")
    assert_qmp_absent(execute, "query-block", "2")
    with pytest.raises(AssertionError, match="to be no '0/inserted', but there is"):
        assert_qmp_absent(execute, "query-block", "0/inserted")


# -- properties ------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def plainly_equal(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            plainly_equal(one[key], other[key]) for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(plainly_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


@given(JSON, JSON)
def test_fits_as_json_is_equal(one: Any, other: Any) -> None:
    assert fits(one, one)
    assert fits(one, other) == plainly_equal(one, other)
    if fits(one, other):
        assert_value(other, "", one)
    else:
        assert told(other, "", one).startswith("the value: it ")


@given(st.dictionaries(st.text(), JSON), st.dictionaries(st.text(), JSON))
def test_a_part_of_it_fits_in_part(part: dict[str, Any], rest: dict[str, Any]) -> None:
    assert fits(part, {**rest, **part}, partial=True)


@given(JSON, st.text(alphabet="a0/[]", max_size=8))
def test_any_path_into_anything_is_found_or_told(found: Any, path: str) -> None:
    with contextlib.suppress(AssertionError):
        assert_value(found, path)


def test_infinity_is_itself() -> None:
    assert_value(math.inf, "", math.inf)


# -- assert_error ----------------------------------------------------------------------------------


def refuse(error_class: str = "GenericError", desc: str = "Device 'x' not found") -> None:
    raise QMPCommandError(error_class, desc, command="device_del", arguments={"id": "x"})


@pytest.mark.parametrize(
    ("error_class", "match"),
    [
        (None, None),
        ("GenericError", None),
        (None, "not found$"),
        ("GenericError", re.compile("DEVICE", re.IGNORECASE)),
    ],
)
def test_the_error_is_given(error_class: str | None, match: Any) -> None:
    with assert_error(error_class, match) as refused:
        refuse()
    assert refused.value.desc == "Device 'x' not found"
    assert refused.value.command == "device_del"


def failure(error_class: str | None = None, match: Any = None, **how: str) -> str:
    with pytest.raises(AssertionError) as caught, assert_error(error_class, match):
        refuse(**how)
    assert isinstance(caught.value.__cause__, QMPCommandError)
    return str(caught.value)


def test_another_class() -> None:
    lines = failure("DeviceNotFound", "in use").splitlines()
    assert lines[:3] == [
        "'device_del' was to be refused with another error:",
        "  expected DeviceNotFound: (a text matching) 'in use'",
        "  found    GenericError: Device 'x' not found",
    ]
    assert "did you mean 'GenericError'?" in failure("GenericErorr")


def test_other_words() -> None:
    text = failure("GenericError", "is in use")
    assert "  expected GenericError: (a text matching) 'is in use'\n" in text
    assert "  found    GenericError: Device 'x' not found" in text
    assert "did you mean re.escape()" in failure(match="a (b)", desc="it is a (b)")


def test_no_error() -> None:
    with (
        pytest.raises(
            AssertionError, match="refused with GenericError and words matching 'x', but"
        ),
        assert_error("GenericError", "x"),
    ):
        pass


def test_other_exceptions_pass() -> None:
    with pytest.raises(QMPTimeoutError), assert_error("GenericError"):
        raise QMPTimeoutError("late")


def test_what_can_t_be_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="as a text, such as 'GenericError'"):
        assert_error(QMPCommandError)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="regular expression, and '\\(' is none"):
        assert_error(match="(")
    with pytest.raises(ValueError, match="once the with block has ended"):
        _ = assert_error().value
