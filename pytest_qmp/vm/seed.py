"""The seed of cloud-init: a small image from which a guest learns who it is and what to do."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_qmp.errors import VMConfigError, VMError

__all__ = ["SeedText", "check_seed", "create_seed_image"]

#: A text, a mapping, bytes that are taken as they are, or the path of a file.
SeedText = str | bytes | Mapping[str, Any] | os.PathLike[str]

LABEL = "CIDATA"
_HEADER = "#cloud-config\n"
# What cloud-init tells a kind of user data by; what has none of them it does not heed.
_BEGINNINGS = ("#", "Content-Type:", "MIME-Version:", "From ")
_CHOICES = "a text, a mapping, bytes, or a pathlib.Path of a file"


def check_seed(field: str, value: object) -> None:
    """Refuses what is no user data, meta data or network configuration.

    Args:
        field: whose value it is, such as ``user_data``.
        value: None is none.

    Raises:
        VMConfigError: it is none.
    """
    __tracebackhide__ = True
    if value is None:
        return
    if not isinstance(value, (str, bytes, Mapping, os.PathLike)):
        raise VMConfigError(f"{field} is {_CHOICES}: not {value!r}")
    if isinstance(value, Mapping):
        _as_yaml(field, value)
    told = not isinstance(value, str) or not value.strip() or value.startswith(_BEGINNINGS)
    if field.endswith("user_data") and not told:
        raise VMConfigError(
            f"{field} begins with {str(value).splitlines()[0][:60]!r}, and cloud-init does not "
            "heed what does not begin with '#cloud-config', '#!' or the like. Put that on its "
            "first line, or give a mapping; for a file give a pathlib.Path, and bytes are taken "
            "as they are"
        )


def create_seed_image(
    path: str | os.PathLike[str],
    user_data: SeedText | None = None,
    meta_data: SeedText | None = None,
    network_config: SeedText | None = None,
) -> Path:
    """Makes a seed for cloud-init's data source NoCloud: an ISO 9660 image labelled CIDATA.

    ``VMConfig(user_data=…)`` does it by itself at each start, and attaches the image.

    Args:
        path: of the image; one that is there is replaced.
        user_data: what the guest is to do: a text (``#cloud-config …``, ``#!/bin/sh …``); a
            mapping, which is a ``#cloud-config``; bytes, taken as they are; or a
            ``pathlib.Path`` of a file.
        meta_data: the same for ``meta-data``; None gives an ``instance-id`` that changes with
            what else is in the seed.
        network_config: the same for ``network-config``; None leaves it out.

    Returns:
        The path, absolute.

    Raises:
        VMConfigError: what was given is not of these kinds, or a file can't be read.
        VMError: the package pycdlib is not installed, or the image can't be written.
    """
    __tracebackhide__ = True
    for field, value in (
        ("user_data", user_data),
        ("meta_data", meta_data),
        ("network_config", network_config),
    ):
        check_seed(field, value)
    files = {"user-data": _bytes("user_data", user_data if user_data is not None else "")}
    if network_config is not None:
        files["network-config"] = _bytes("network_config", network_config)
    if meta_data is None:
        digest = hashlib.sha256(b"\0".join(files.values())).hexdigest()
        meta_data = {"instance-id": f"pytest-qmp-{digest[:16]}"}
    files["meta-data"] = _bytes("meta_data", meta_data)
    return _write_iso(Path(os.path.abspath(path)), files)


def _bytes(field: str, value: SeedText) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Mapping):
        return ((_HEADER if field == "user_data" else "") + _as_yaml(field, value)).encode()
    try:
        return Path(value).read_bytes()
    except OSError as error:
        raise VMConfigError(
            f"can't read the {field} {os.fspath(value)!r}: {error.strerror}. Check the path; a "
            f"relative one is looked up from {os.getcwd()}"
        ) from None


def _as_yaml(field: str, value: Mapping[str, Any]) -> str:
    try:
        # Whatever is JSON is YAML, too.
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise VMConfigError(
            f"{field} is a mapping of texts, numbers, lists and mappings: {error}"
        ) from None


def _write_iso(path: Path, files: Mapping[str, bytes]) -> Path:
    try:
        import pycdlib
    except ImportError:
        raise VMError(
            "the seed for cloud-init (user_data, meta_data, network_config) is made by the package "
            "pycdlib, which is not installed: pip install 'pytest-qmp[cloud-init]'"
        ) from None
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    try:
        for name, data in files.items():
            plain = name.replace("-", "").upper()
            image.add_fp(
                io.BytesIO(data), len(data), f"/{plain}.;1", rr_name=name, joliet_path=f"/{name}"
            )
        image.write(str(path))
    except OSError as error:
        raise VMError(f"can't write the seed for cloud-init {path}: {error.strerror}") from error
    finally:
        image.close()
    return path
