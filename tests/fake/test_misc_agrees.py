"""Descriptors' kin, chardevs, screens, dumps, texts: the same on a QEMU and on its fake."""

from __future__ import annotations

from typing import Any

import pytest

from .test_agrees_with_qemu import (  # noqa: F401 - fixtures
    Talk,
    commands,
    on_fake,
    on_qemu,
    pytestmark,
    version,
    with_arguments,
)

PC = ["-S", "-M", "pc", "-m", "16"]


def human(*lines: str) -> list[bytes]:
    return [with_arguments("human-monitor-command", {"command-line": line}) for line in lines]


def chardev(label: str, kind: str, **data: Any) -> bytes:
    return with_arguments("chardev-add", {"id": label, "backend": {"type": kind, "data": data}})


def unix(path: str) -> dict[str, Any]:
    return {"type": "unix", "data": {"path": path}}


CASES = {
    "chardevs": (
        PC,
        [
            *(chardev("n", "null"), chardev("n", "null"), chardev("", "null")),
            *(chardev("f", "file", out="/nosuch/f"), chardev("r", "ringbuf", size=8)),
            *(chardev("s", "ringbuf", size=3), chardev("x", "mux", chardev="r")),
            *(chardev("o", "mux", chardev="r"), chardev("p", "mux", chardev="zz")),
            chardev("u", "socket", addr=unix("/nosuch/u"), server=False),
            chardev("u", "socket", addr=unix("/nosuch/u"), server=True, wait=False),
            chardev("u", "socket", addr=unix("/nosuch/u"), server=False, wait=True),
            chardev("d", "udp", remote=unix("/nosuch/u")),
            *(chardev("e", "stdio"), chardev("g", "stdio"), chardev("h", "serial", device="/x")),
            with_arguments("chardev-change", {"id": "x", "backend": {"type": "null", "data": {}}}),
            with_arguments("chardev-change", {"id": "r", "backend": {"type": "null", "data": {}}}),
            with_arguments("chardev-change", {"id": "n", "backend": {"type": "vc", "data": {}}}),
            with_arguments("chardev-remove", {"id": "r"}),
            with_arguments("chardev-remove", {"id": "n"}),
            with_arguments("chardev-remove", {"id": "n"}),
            with_arguments("chardev-send-break", {"id": "n"}),
            *commands("query-chardev-backends"),
        ],
    ),
    "ring-buffers": (
        [*PC, "-chardev", "ringbuf,id=r,size=8"],
        [
            with_arguments("ringbuf-write", {"device": "r", "data": "0123456789"}),
            with_arguments("ringbuf-read", {"device": "r", "size": 3}),
            with_arguments("ringbuf-read", {"device": "r", "size": 0}),
            with_arguments("ringbuf-read", {"device": "r", "size": 30, "format": "base64"}),
            with_arguments("ringbuf-write", {"device": "r", "data": "aG/w", "format": "base64"}),
            with_arguments("ringbuf-write", {"device": "r", "data": "***", "format": "base64"}),
            with_arguments("ringbuf-read", {"device": "r", "size": 30}),
            with_arguments("ringbuf-read", {"device": "x", "size": 30}),
        ],
    ),
    "screens": (
        [*PC, "-device", "VGA,id=v", "-device", "e1000,id=n"],
        [
            with_arguments("screendump", {"filename": "/nosuch/x"}),
            with_arguments("screendump", {"filename": "x", "head": 0}),
            with_arguments("screendump", {"filename": "x", "device": "v", "head": 1}),
            with_arguments("screendump", {"filename": "x", "device": "n"}),
            with_arguments("screendump", {"filename": "x", "device": "zz"}),
            with_arguments("input-send-event", {"events": [], "device": "zz"}),
            with_arguments("input-send-event", {"events": []}),
            *commands("query-mice", "query-vnc", "query-vnc-servers", "query-spice"),
            with_arguments("set_password", {"protocol": "vnc", "password": "x"}),
            with_arguments("expire_password", {"protocol": "vnc", "time": "never"}),
            with_arguments("display-reload", {"type": "vnc", "tls-certs": True}),
        ],
    ),
    "input": (
        ["-M", "pc", "-m", "16"],
        [
            with_arguments(
                "input-send-event", {"events": [{"type": kind, "data": {"axis": "x", "value": 1}}]}
            )
            for kind in ("rel", "abs")
        ],
    ),
    "vnc": (
        [*PC, "-vnc", "none,password=on"],
        [
            *commands("query-vnc", "query-vnc-servers"),
            with_arguments("change-vnc-password", {"password": "x"}),
            with_arguments("set_password", {"protocol": "vnc", "password": "x", "display": "zz"}),
            *human("info vnc", "set_password vnc x", "expire_password vnc now"),
        ],
    ),
    "dumps": (
        PC,
        [
            with_arguments("dump-guest-memory", {"paging": False, "protocol": protocol, **more})
            for protocol, more in (
                ("x", {}),
                ("fd:x", {}),
                ("file:/nosuch/x", {}),
                ("file:/dev/null", {"begin": 1}),
                ("file:/dev/null", {"length": 1}),
                ("fd:x", {"format": "kdump-lzo"}),
                ("fd:x", {"format": "kdump-zlib", "begin": 0, "length": 1}),
            )
        ]
        + commands("query-dump", "query-dump-guest-memory-capability"),
    ),
    "build": (
        PC,
        [
            with_arguments("trace-event-get-state", {"name": "qmp_enter_query_*"}),
            with_arguments("trace-event-set-state", {"name": "kvm_ioctl", "enable": True}),
            with_arguments("trace-event-get-state", {"name": "kvm_*ioctl"}),
            with_arguments("trace-event-set-state", {"name": "qxl_io_w*", "enable": True}),
            *commands("query-command-line-options", "query-stats-schemas"),
            with_arguments("query-command-line-options", {"option": "x"}),
            *human("help", "info", "help quit", "help nosuch", "help info status"),
        ],
    ),
    "human-monitor": (
        PC,
        human(
            *("", "nosuch", "info nosuch", "info status", "info status x", "info version"),
            *("info name", "info uuid", "info block", "info kvm", "info mice", "info vnc"),
            *("device_del", "device_del x", "device_del x y", 'device_del "x', "device_add x"),
            *("sendkey", "sendkey a-nosuch", "sendkey ret 10", "sendkey a x", "sendkey a 1 2"),
            *("print 1+2*(3-1)", "p 0x10|1", "p 1/0", "p (1", "p x", "p", "cpu 0", "cpu 9"),
            *("set_link x on", "set_link x maybe", "balloon 1", "balloon x", "balloon 1 2"),
            *("savevm", "savevm x", "delvm x", "info snapshots", "getfd a", "closefd a"),
            *("chardev-add null,id=c", "chardev-remove c", "chardev-remove c"),
            *("trace-event kvm_ioctl on", "info trace-events kvm_ioctl", "trace-event zz on"),
            *("stop", "cont", "info status", "loadvm x", "info status", "quit x", "quit"),
        ),
    ),
    "human-monitor-objects": (
        [*PC, "-drive", "if=none,id=cd,media=cdrom"],
        human(
            *(
                "info network",
                "object_add memory-backend-ram,id=a,size=1M",
                "object_add nosuch,id=a",
            ),
            *("object_add memory-backend-ram,id=a,size=1M,share=maybe", "object_add iothread"),
            *("object_add memory-backend-ram,id=a,size=2M", "info memdev", "object_del a"),
            *("object_del a", "netdev_add user,id=u", "netdev_add user", "netdev_add bogus,id=b"),
            *("qom-list", "qom-list /objects", "qom-get /machine nosuch", "qom-get /machine type"),
            *("commit zz", "drive_del zz", "change zz /x", "replay_break 1", "log none"),
            *("  quit  x", "info registers", "info sgx", "info rocker x"),
            *("migrate_set_capability nosuch on", "migrate_set_capability xbzrle on"),
            *("netdev_del u", "netdev_del u", "info block", "info block cd", "info block zz"),
        ),
    ),
    "absent-features": (
        PC,
        commands(
            *("query-tpm", "query-tpm-models", "query-sev", "query-sev-capabilities"),
            *("query-sgx", "query-replay", "replay-delete-break", "query-colo-status"),
            *("query-xen-replication-status", "xen-colo-do-checkpoint", "query-vcpu-dirty-limit"),
            *("x-query-numa", "x-query-usb", "query-acpi-ospm-status", "rtc-reset-reinjection"),
            *("query-balloon", "inject-nmi", "query-gic-capabilities", "query-audiodevs"),
            *("query-cpus", "query-events", "change", "cpu-add"),
        ),
    ),
    "edges": (
        PC,
        [
            with_arguments("expire_password", {"protocol": "vnc", "time": "-5"}),
            with_arguments("expire_password", {"protocol": "vnc", "time": ""}),
            with_arguments("expire_password", {"protocol": "spice", "time": "zz"}),
            with_arguments("query-stats", {"target": "vm", "providers": [{"provider": "kvm"}]}),
            with_arguments("query-stats-schemas", {"provider": "kvm"}),
            with_arguments("remove-fd", {"fdset-id": 0, "fd": -1}),
            with_arguments("closefd", {"fdname": ""}),
            with_arguments("getfd", {"fdname": "1"}),
            with_arguments("yank", {"instances": [{"type": "migration"}]}),
            with_arguments("add_client", {"protocol": "vnc", "fdname": "x"}),
            with_arguments("client_migrate_info", {"protocol": "x", "hostname": "x"}),
            with_arguments("x-query-virtio-status", {"path": "/machine"}),
            with_arguments("x-query-virtio-status", {"path": "/x"}),
            with_arguments("x-query-virtio-queue-status", {"path": "/x", "queue": 0}),
            with_arguments("x-query-virtio-queue-element", {"path": "/x", "queue": 0}),
            with_arguments("trace-event-get-state", {"name": "**vnc_auth_*"}),
            with_arguments("memsave", {"val": 0, "size": 1, "filename": "", "cpu-index": 0}),
            with_arguments("memsave", {"val": 0, "size": 1, "filename": "", "cpu-index": 1}),
            with_arguments("query-rocker", {"name": ""}),
            with_arguments("xen-load-devices-state", {"filename": "/nosuch"}),
        ],
    ),
    "balloon": (
        [*PC, "-device", "virtio-balloon"],
        [
            *commands("query-balloon"),
            with_arguments("balloon", {"value": 8 << 20}),
            with_arguments("balloon", {"value": 0}),
            *human("info balloon", "balloon 0"),
        ],
    ),
    "policy-rejects": (
        [*PC, "-compat", "deprecated-input=reject,unstable-input=reject"],
        [
            *commands("x-query-numa", "query-status", "nosuch"),
            with_arguments("drive-backup", {"device": "x", "target": "y", "sync": "full"}),
            with_arguments("drive-backup", {"device": 1}),
        ],
    ),
    "policy-crashes": (
        [*PC, "-compat", "unstable-input=crash"],
        commands("query-status", "x-query-numa"),
    ),
    "policy-hides": ([*PC, "-compat", "deprecated-output=hide"], commands("query-qmp-schema")),
}


@pytest.mark.parametrize("case", CASES)
def test_agrees(on_qemu: Talk, on_fake: Talk, case: str) -> None:  # noqa: F811 - fixtures
    args, messages = CASES[case]
    assert on_fake(args, messages) == on_qemu(args, messages)
