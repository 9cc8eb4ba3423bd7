"""Build a small real Linux for the examples: Debian's cloud kernel and a busybox initramfs.

As a command it builds into the cache and prints where; as an import, :func:`build` does the
same. Nothing is installed and no root is needed: Debian's packages are downloaded with
``apt-get download`` and unpacked aside.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

DEFAULT_CACHE = Path(__file__).resolve().parent.parent / ".cache"

#: Debian's names for what each architecture needs: its own name for it, and the kernel.
PACKAGES = {"x86_64": ("amd64", "linux-image-cloud-amd64")}

#: Change it whenever what is built from the same packages changes: old caches are then rebuilt.
RECIPE = 2

#: Modules put into the initramfs, with those that they depend on. The guest loads one only
#: when it sees the device.
MODULES = (
    "button",  # ACPI's power button, with evdev to read it
    "evdev",
    "virtio_balloon",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_pci",
    "virtio_rng",
    "virtio_scsi",
    "sd_mod",
    "sr_mod",  # CD-ROMs, and what is on them
    "isofs",
    "ext4",
    "virtiofs",  # folders of the host: of the two ways, a cloud kernel has the first
    "9pnet_virtio",
    "9p",
)

#: What the kernel is to be told: talk on the first serial port, reboot at once after a panic.
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

# Load the modules of the devices that are there, then of those that the first ones brought.
load_modules() {{
    find /sys/devices -name modalias -exec cat {{}} + | sort -u | xargs modprobe -qa 2>/dev/null
}}
load_modules
load_modules
modprobe -q evdev
exec init
"""

# The terminal is made wide so that the shell's line editor doesn't wrap long commands.
INITTAB = """\
::respawn:acpid -f -l /dev/null
::respawn:cttyhack sh -c "stty cols 1000; exec sh"
::ctrlaltdel:reboot -f
"""

POWER_BUTTON = """\
#!/bin/sh
poweroff -f
"""


class GuestBuildError(Exception):
    """The guest can't be built here; the message says what is lacking and what to do."""


@dataclass(frozen=True)
class LinuxGuest:
    kernel: Path
    initrd: Path


def build(cache: Path | None = None, arch: str = "x86_64") -> LinuxGuest:
    """Return the guest from *cache*, building it first where it isn't there yet."""
    if arch not in PACKAGES:
        raise GuestBuildError(
            f"no Linux guest for {arch!r}: this script knows {', '.join(sorted(PACKAGES))}"
        )
    directory = (cache or _default_cache()) / f"linux-{arch}-{RECIPE}"
    guest = LinuxGuest(directory / "vmlinuz", directory / "initrd.gz")
    if _is_whole(directory):
        return guest
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{directory}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the kernel, however this ends
            if not _is_whole(directory):  # else another process has built it meanwhile
                _build_into(directory, arch)
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
        result = _build_in(scratch, *PACKAGES[arch])
        if directory.exists():  # torn, or it would have been used
            shutil.rmtree(directory)
        result.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build_in(scratch: Path, debian_arch: str, kernel_package: str) -> Path:
    kernel_archive, busybox_archive = _download(kernel_package, debian_arch, scratch)
    kernel_files = _unpack(kernel_archive, scratch / "kernel")
    busybox = _unpack(busybox_archive, scratch / "busybox") / "bin" / "busybox"
    result = scratch / "result"
    result.mkdir()
    (kernel,) = (kernel_files / "boot").glob("vmlinuz-*")
    shutil.move(kernel, result / "vmlinuz")
    archive = _initramfs(busybox.read_bytes(), kernel_files)
    (result / "initrd.gz").write_bytes(gzip.compress(archive, compresslevel=6, mtime=0))
    sizes = {file.name: file.stat().st_size for file in result.iterdir()}
    (result / "complete.json").write_text(json.dumps(sizes))
    return result


def _download(kernel_package: str, debian_arch: str, scratch: Path) -> tuple[Path, Path]:
    """Download the kernel's and busybox's packages, by apt's own lists or else by fresh ones."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise GuestBuildError(
                f"building the Linux guest: no {tool} on the PATH. It takes its kernel and "
                "busybox from Debian's packages: run it on Debian, or give your own kernel and "
                "initrd to the machine."
            )
    # As root, apt would hand the download to a user who may not write here.
    options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    try:
        return _apt_download(kernel_package, debian_arch, scratch, options)
    except GuestBuildError:
        # The machine's lists are missing or stale; only root may renew those, so fetch our own.
        for kind in ("lists", "cache"):
            (scratch / kind / "partial").mkdir(parents=True)
        options += ["-o", f"Dir::State::Lists={scratch / 'lists'}"]
        options += ["-o", f"Dir::Cache={scratch / 'cache'}"]
        options += ["-o", "APT::Update::Error-Mode=any"]  # else a failed fetch is but a warning
        _run(["apt-get", *options, "-q", "update"], scratch)
        return _apt_download(kernel_package, debian_arch, scratch, options)


def _apt_download(
    kernel_package: str, debian_arch: str, scratch: Path, options: list[str]
) -> tuple[Path, Path]:
    package = f"{kernel_package}:{debian_arch}"
    depends = _run(["apt-cache", *options, "depends", "--important", package], scratch)
    # The package by this name is empty: it stands for the newest kernel.
    newest = re.search(r"Depends: (linux-image-[\w.+-]+)", depends)
    if newest is None:
        raise GuestBuildError(
            f"building the Linux guest: apt knows no kernel behind {package}; it says\n"
            f"{depends.strip() or '(nothing)'}\nTake Debian's `main` into apt's sources."
        )
    archives = []
    for name in (newest[1], "busybox-static"):
        _run(["apt-get", *options, "-q", "download", f"{name}:{debian_arch}"], scratch)
        (archive,) = scratch.glob(f"{name}_*.deb")
        archives.append(archive)
    return archives[0], archives[1]


def _run(command: list[str], directory: Path) -> str:
    process = subprocess.run(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if process.returncode:
        words = process.stderr.strip() or process.stdout.strip() or "(it said nothing)"
        raise GuestBuildError(
            f"building the Linux guest: `{' '.join(command)}` failed with status "
            f"{process.returncode}:\n{words}\n"
            "It needs Debian's package archive, by the network or a mirror that apt knows: try "
            "`apt-get update`."
        )
    return process.stdout


def _unpack(archive: Path, into: Path) -> Path:
    _run(["dpkg-deb", "-x", str(archive), str(into)], archive.parent)
    return into


def _initramfs(busybox: bytes, kernel_files: Path) -> bytes:
    archive = CpioArchive()
    for name in ("dev", "proc", "root", "sys", "tmp"):
        archive.directory(name)
    archive.file("bin/busybox", busybox, executable=True)
    archive.device("dev/console", 5, 1)  # the kernel opens it before /init runs
    archive.file("init", INIT.encode(), executable=True)
    archive.file("etc/inittab", INITTAB.encode())
    # Where busybox's acpid looks for what to do about the power button.
    archive.file("etc/acpi/PWRF/00000080", POWER_BUTTON.encode(), executable=True)
    _add_modules(archive, kernel_files)
    return archive.finish()


def _add_modules(archive: CpioArchive, kernel_files: Path) -> None:
    """Put in :data:`MODULES`, what they depend on, and the two indices that modprobe reads."""
    (root,) = (kernel_files / "lib" / "modules").iterdir()
    paths = {path.stem.replace("-", "_"): path for path in root.rglob("*.ko")}
    information: dict[str, ModuleInformation] = {}
    pending = [name for name in MODULES if name in paths]  # the others are built in
    while pending:
        name = pending.pop()
        if name not in information:
            information[name] = _module_information(paths[name].read_bytes())
            pending += information[name].depends

    target = f"lib/modules/{root.name}"
    dependencies = aliases = ""
    for name, module in sorted(information.items()):
        archive.file(f"{target}/{name}.ko", paths[name].read_bytes())
        needed = " ".join(f"{other}.ko" for other in _all_dependencies(name, information))
        dependencies += f"{name}.ko: {needed}\n"
        aliases += "".join(f"alias {alias} {name}\n" for alias in module.aliases)
    archive.file(f"{target}/modules.dep", dependencies.encode())
    archive.file(f"{target}/modules.alias", aliases.encode())


@dataclass(frozen=True)
class ModuleInformation:
    depends: list[str]
    aliases: list[str]  # patterns of the devices that the module drives


def _module_information(module: bytes) -> ModuleInformation:
    """What a module says about itself: NUL-separated ``key=value`` strings within it."""

    def values(key: bytes) -> list[str]:
        return [value.decode() for value in re.findall(rb"\0" + key + rb"=([^\0]+)", module)]

    depends = [name for value in values(b"depends") for name in value.split(",")]
    return ModuleInformation(depends, values(b"alias"))


def _all_dependencies(name: str, information: dict[str, ModuleInformation]) -> list[str]:
    """Everything that *name* needs loaded, each after what needs it: modprobe goes backwards."""
    ordered: list[str] = []
    for direct in information[name].depends:
        for needed in (direct, *_all_dependencies(direct, information)):
            if needed in ordered:
                ordered.remove(needed)
            ordered.append(needed)
    return ordered


class CpioArchive:
    """A cpio archive in the ``newc`` format, as the kernel unpacks it into its first root.

    Written here because an unprivileged user can't make the device node that it must hold.
    """

    def __init__(self) -> None:
        self._data = io.BytesIO()
        self._inode = 0
        self._directories = {"."}

    def directory(self, name: str) -> None:
        if name not in self._directories:
            self.directory(str(PurePosixPath(name).parent))
            self._directories.add(name)
            self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        self.directory(str(PurePosixPath(name).parent))
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, major=major, minor=minor)

    def finish(self) -> bytes:
        self._entry("TRAILER!!!", 0)
        return self._data.getvalue()

    def _entry(
        self, name: str, mode: int, data: bytes = b"", *, major: int = 0, minor: int = 0
    ) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device (2), node (2), name size, checksum
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(encoded), 0)
        self._write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        self._write(data)

    def _write(self, data: bytes) -> None:
        """Append *data*, filled up to a multiple of four."""
        self._data.write(data + bytes(-len(data) % 4))


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the Linux guest of the examples.")
    parser.add_argument("--arch", default="x86_64", choices=sorted(PACKAGES))
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
