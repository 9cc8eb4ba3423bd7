"""The options and their ini twins. What they come to is read when a test first needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from pytest_qmp.settings import QMPSettings

__all__ = [
    "DEFAULT_TIMEOUT",
    "OPTIONS",
    "add_options",
    "artifacts_folder",
    "flag",
    "given_values",
    "settings_of",
]

DEFAULT_TIMEOUT = 30.0
_ARTIFACTS = ".pytest_qmp"

_settings = pytest.StashKey["QMPSettings"]()

# Name, what argparse is told, help. Each has an ini twin: --qmp-max-memory and qmp_max_memory.
OPTIONS: tuple[tuple[str, dict[str, Any], str], ...] = (
    (
        "backend",
        {"metavar": "auto|qemu|fake"},
        "what runs machines: qemu, fake, or auto: QEMU where it is installed, else the fake",
    ),
    ("connect", {"metavar": "ADDRESS"}, "use the running QEMU whose QMP monitor is at ADDRESS"),
    (
        "qemu",
        {"metavar": "PATH", "action": "append"},
        "the QEMU binary; given several times, every test runs on each",
    ),
    ("arch", {"metavar": "ARCH"}, "the architecture: qemu-system-ARCH is used (default: x86_64)"),
    ("machine", {"metavar": "TYPE"}, "the machine type (default: q35 on x86_64, else virt)"),
    ("memory", {"metavar": "SIZE"}, "the guest's memory, such as 256M (default: QEMU's own)"),
    (
        "max_memory",
        {"metavar": "SIZE"},
        "how much memory the machines of this run have at most, all workers together, such as 4G "
        "(default: what the host has available)",
    ),
    (
        "accel",
        {"metavar": "NAME"},
        "the accelerator; auto (the default) takes KVM if it runs guest code, else TCG",
    ),
    (
        "timeout",
        {"metavar": "SECONDS"},
        f"how long a wait takes at most, unless it says otherwise (default: {DEFAULT_TIMEOUT:g})",
    ),
    (
        "timeout_scale",
        {"metavar": "FACTOR"},
        "what every wait's timeout is multiplied by, for a slow host (default: 1)",
    ),
    (
        "artifacts",
        {"metavar": "DIR"},
        "the folder for what is left of tests (default: .pytest_qmp in the rootdir)",
    ),
    (
        "keep",
        {"metavar": "failed|always|never"},
        "which tests leave something in that folder (default: failed)",
    ),
    (
        "update_screens",
        {"action": "store_true"},
        "write the reference pictures of assert_screen() and wait_for_screen() that are missing or "
        "differ, instead of failing",
    ),
    (
        "restore",
        {"metavar": "auto|clone|state|snapshot|boot"},
        "how the machines that qmp_boot has booted are had anew for each test; auto (the default) "
        "takes the quickest way that works",
    ),
    (
        "template_cache",
        {"metavar": "DIR", "nargs": "?", "const": ""},
        "keep booted machines for later runs, in pytest's cache or in DIR",
    ),
    (
        "prefetch",
        {"metavar": "N"},
        "how many booted machines are made ready while a test runs (default: 1 where there is a "
        "core for it, else 0)",
    ),
    (
        "require",
        {"action": "store_true"},
        "fail, instead of skip, where something that a test needs is missing",
    ),
)


#: By what argparse does with an option; a value that is stored is a text.
_INI_KINDS: dict[str, Literal["linelist", "bool", "string"]] = {
    "append": "linelist",
    "store_true": "bool",
    "store": "string",
}


def flag(name: str) -> str:
    """An option as it is written on the command line.

    >>> flag("max_memory")
    '--qmp-max-memory'
    """
    return f"--qmp-{name.replace('_', '-')}"


def add_options(parser: pytest.Parser) -> None:
    """Registers the options and their ini twins."""
    group = parser.getgroup("qmp", "virtual machines and QMP (pytest-qmp)")
    for name, how, text in OPTIONS:
        group.addoption(flag(name), dest=f"qmp_{name}", default=None, help=text, **how)
        kind = _INI_KINDS[how.get("action", "store")]
        parser.addini(f"qmp_{name}", f"see {flag(name)}", type=kind, default=None)


def given_values(config: pytest.Config) -> dict[str, tuple[str, Any]]:
    """What somebody has set: by name, where (``--qmp-timeout``, ``qmp_timeout (ini)``) and to what.

    An option wins over the ini file.
    """
    given: dict[str, tuple[str, Any]] = {}
    for name, _, _ in OPTIONS:
        value, origin = config.getoption(f"qmp_{name}"), flag(name)
        if value is None:
            value, origin = config.getini(f"qmp_{name}"), f"qmp_{name} (ini)"
        if value is not None and value != []:
            given[name] = origin, value
    return given


def artifacts_folder(config: pytest.Config) -> Path:
    """The folder for what is left of tests."""
    _, given = given_values(config).get("artifacts", ("", _ARTIFACTS))
    return config.rootpath / str(given)


def settings_of(config: pytest.Config) -> QMPSettings:
    """What the options and the ini file came to.

    Raises:
        pytest.UsageError: for a value that can't be.
    """
    if _settings not in config.stash:
        from pytest_qmp.settings import QMPSettings

        config.stash[_settings] = QMPSettings.from_config(config)
    return config.stash[_settings]
