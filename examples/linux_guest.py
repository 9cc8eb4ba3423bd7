"""Build a small real Linux for the examples: Debian's kernel and a busybox initramfs.

As a command it builds into the cache and prints where; as an import, :func:`build` does the
same. Nothing is installed and no root is needed.

On its console it has a shell, or, with `login` on the kernel's command line, asks who is there:
`root` has the password `root`, `user` has none. With `network` on it, the first network card is
configured by DHCP, and a web server runs.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from debian_packages import DebianError, DebianPackages
from initramfs import CpioArchive, add_modules

DEFAULT_CACHE = Path(__file__).resolve().parent.parent / ".cache"

#: Change it whenever what is built from the same packages changes: old caches are then rebuilt.
RECIPE = 8

#: Modules put into the initramfs, with those that they depend on. The guest loads one only
#: when it sees the device, or when a file system of the kind is mounted.
MODULES = (
    "button",  # ACPI's power button, with evdev to read it
    "evdev",
    "gpio_keys",  # the power button of aarch64's virt
    "virtio_balloon",
    "virtio_blk",
    "virtio_console",
    "virtio_input",
    "virtio_mmio",
    "virtio_net",
    "virtio_pci",
    "virtio_rng",
    "virtio_scsi",
    "sd_mod",
    "sr_mod",  # CD-ROMs
    "ext4",
    "crc32c_generic",  # of ext4
    "isofs",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "nls_utf8",
    "9p",
    "9pnet_virtio",
    "virtiofs",  # folders of the host: of the two ways, the kernel for clouds has only this
)


@dataclass(frozen=True)
class Architecture:
    """What has to be known of one.

    Attributes:
        debian: Debian's name for it.
        kernel: the package that stands for Debian's newest kernel.
        console: the kernel's name for the first serial port.
        suite: the Debian to take it from; None: the one that this machine runs.
    """

    debian: str
    kernel: str
    console: str
    suite: str | None = None


ARCHITECTURES = {
    "x86_64": Architecture("amd64", "linux-image-cloud-amd64", "ttyS0"),
    # The smaller kernel for clouds can't read the power button here.
    "aarch64": Architecture("arm64", "linux-image-arm64", "ttyAMA0"),
    "riscv64": Architecture("riscv64", "linux-image-riscv64", "ttyS0", "trixie"),
}

#: What the kernel of a PC is to be told: talk on the first serial port, reboot at once after a
#: panic.
APPEND = "console=ttyS0 quiet panic=-1"

#: What the shell on the console says when it waits for a command.
PROMPT = "guest# "

INIT = f"""\
#!/bin/busybox sh
# The first process: sets the machine up, then hands over to busybox's init.
export PATH=/bin PS1='{PROMPT}'
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo /bin/modprobe > /proc/sys/kernel/modprobe
chmod 1777 /tmp
hostname guest
ip link set lo up

# Load the modules of the devices that are there, then of those that the first ones brought.
load_modules() {{
    find /sys/devices -name modalias -exec cat {{}} + | sort -u | xargs modprobe -qa 2>/dev/null
}}
load_modules
load_modules
modprobe -q evdev

for word in $(cat /proc/cmdline); do
    case $word in
    login)
        tty=$(sed 's/.* //' /sys/class/tty/console/active)
        sed -i "/cttyhack/ s/.*/$tty::respawn:getty -L 115200 $tty vt100/" /etc/inittab
        ;;
    network)
        echo '::once:udhcpc -i eth0 -b >/dev/null 2>&1' >> /etc/inittab
        echo '::respawn:httpd -f -h /srv' >> /etc/inittab
        ;;
    esac
done
exec init
"""

#: Files in /etc.
SETTINGS = {
    # The terminal is made wide so that the shell's line editor doesn't wrap long commands.
    "inittab": """\
::respawn:acpid -f -l /dev/null
::respawn:uevent /etc/hotplug
::respawn:cttyhack sh -c "stty cols 1000; exec sh"
::ctrlaltdel:reboot -f
""",
    "profile": f"""\
export PATH=/bin PS1='{PROMPT}'
[ "$USER" = root ] || PS1='guest$ '
""",
    "passwd": """\
root:x:0:0:root:/root:/bin/sh
user:x:1000:1000:user:/tmp:/bin/sh
""",
    "shadow": """\
root:$1$guest$IZx/H6r4xlUK.LCvzh6hi/:19000:0:99999:7:::
user::19000:0:99999:7:::
""",
    "group": """\
root:x:0:
user:x:1000:
""",
    "hosts": """\
127.0.0.1 localhost guest
""",
}

# Run for each device that comes: loads its module.
HOTPLUG = """\
#!/bin/sh
[ "$ACTION" != add ] || [ -z "$MODALIAS" ] || modprobe -q "$MODALIAS"
"""

POWER_BUTTON = """\
#!/bin/sh
poweroff -f
"""

DHCP = """\
#!/bin/sh
case $1 in
bound|renew)
    ip addr flush dev $interface
    ip addr add $ip/$mask dev $interface
    [ -z "$router" ] || ip route replace default via $router
    echo "nameserver $dns" > /etc/resolv.conf
    ;;
deconfig)
    ip link set $interface up
    ;;
esac
"""


class GuestBuildError(Exception):
    """The guest can't be built here; the message says what is lacking and what to do."""


@dataclass(frozen=True)
class LinuxGuest:
    """What to boot: a kernel, its initramfs, and what to tell the kernel."""

    kernel: Path
    initrd: Path
    append: str = APPEND


def build(cache: Path | None = None, arch: str = "x86_64") -> LinuxGuest:
    """Return the guest from *cache*, building it first where it isn't there yet."""
    if arch not in ARCHITECTURES:
        raise GuestBuildError(
            f"no Linux guest for {arch!r}: this script knows {', '.join(sorted(ARCHITECTURES))}"
        )
    directory = (cache or _default_cache()) / f"linux-{arch}-{RECIPE}"
    append = APPEND.replace("ttyS0", ARCHITECTURES[arch].console)
    guest = LinuxGuest(directory / "vmlinuz", directory / "initrd.gz", append)
    if _is_whole(directory):
        return guest
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{directory}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the kernel, however this ends
            if not _is_whole(directory):  # else another process has built it meanwhile
                _build_into(directory, arch)
    except DebianError as error:
        raise GuestBuildError(f"building the Linux guest: {error}") from error
    except OSError as error:
        raise GuestBuildError(
            f"building the Linux guest in {directory}: {error}; make it writable, or set "
            "PYTEST_QMP_CACHE to a directory that is"
        ) from error
    return guest


def _default_cache() -> Path:
    return Path(os.environ.get("PYTEST_QMP_CACHE") or DEFAULT_CACHE)


def _is_whole(directory: Path) -> bool:
    """Whether every file has the size that was written down when the build was complete."""
    try:
        sizes = json.loads((directory / "complete.json").read_text())
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _build_into(directory: Path, arch: str) -> None:
    # Built beside its place, then renamed: nobody ever sees half of it.
    scratch = Path(f"{directory}.partial")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a build that was killed
    scratch.mkdir()
    try:
        result = _build_in(scratch, arch)
        if directory.exists():  # torn, or it would have been used
            shutil.rmtree(directory)
        result.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build_in(scratch: Path, arch: str) -> Path:
    packages = debian_packages(scratch, arch)
    # The package of that name is empty: it depends on the newest kernel.
    newest = [
        name
        for name in packages.dependencies(ARCHITECTURES[arch].kernel)
        if name.startswith("linux-image-")
    ]
    root = packages.unpack(*newest, "busybox-static")
    result = scratch / "result"
    result.mkdir()
    (kernel,) = (root / "boot").glob("vmlinu[xz]-*")
    shutil.move(kernel, result / "vmlinuz")
    archive = gzip.compress(_initramfs(root), compresslevel=6, mtime=0)
    (result / "initrd.gz").write_bytes(archive)
    sizes = {file.name: file.stat().st_size for file in result.iterdir()}
    (result / "complete.json").write_text(json.dumps(sizes))
    return result


def debian_packages(folder: Path, arch: str) -> DebianPackages:
    """The packages that fit a guest of that architecture."""
    architecture = ARCHITECTURES[arch]
    return DebianPackages(folder, architecture.debian, architecture.suite)


def _initramfs(root: Path) -> bytes:
    archive = CpioArchive()
    for name in ("dev", "mnt", "proc", "root", "run", "sys", "tmp"):
        archive.directory(name)
    (busybox,) = [*root.glob("bin/busybox"), *root.glob("usr/bin/busybox")]
    archive.file("bin/busybox", busybox.read_bytes(), executable=True)
    archive.device("dev/console", 5, 1)  # the kernel opens it before /init runs
    archive.file("init", INIT.encode(), executable=True)
    for name, text in SETTINGS.items():
        archive.file(f"etc/{name}", text.encode())
    # Where busybox's acpid looks for what to do about the power button.
    archive.file("etc/acpi/PWRF/00000080", POWER_BUTTON.encode(), executable=True)
    archive.file("etc/hotplug", HOTPLUG.encode(), executable=True)
    archive.file("etc/udhcpc/default.script", DHCP.encode(), executable=True)
    archive.file("srv/index.html", b"Hello from the guest!\n")
    add_modules(archive, MODULES, root)
    return archive.finish()


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the Linux guest of the examples.")
    parser.add_argument("--arch", default="x86_64", choices=sorted(ARCHITECTURES))
    parser.add_argument(
        "--cache",
        type=Path,
        help="where to keep it (default: $PYTEST_QMP_CACHE, else .cache in the repository)",
    )
    options = parser.parse_args()
    try:
        guest = build(options.cache, options.arch)
    except GuestBuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(guest.kernel)
    print(guest.initrd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
