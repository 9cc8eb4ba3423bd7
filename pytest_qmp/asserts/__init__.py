"""Assertions on anything that speaks QMP: a client, its ``execute``, or what came of it."""

from pytest_qmp.asserts.refusals import ErrorExpectation, assert_error
from pytest_qmp.asserts.sequences import EventsExpectation, assert_events, expect_events
from pytest_qmp.asserts.values import assert_qmp, assert_qmp_absent, assert_status, assert_value

__all__ = [
    "ErrorExpectation",
    "EventsExpectation",
    "assert_error",
    "assert_events",
    "assert_qmp",
    "assert_qmp_absent",
    "assert_status",
    "assert_value",
    "expect_events",
]
