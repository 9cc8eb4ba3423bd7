"""Take files out of Debian's packages, of any architecture, without installing anything.

apt does the work, with settings and lists of its own in a temporary folder: no root is needed, and
what this machine has installed or knows of plays no part. Only the address of the mirror comes
from the machine's own apt.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["DebianError", "DebianPackages"]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

SETTINGS = """\
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{folder}";
Dir::State::Lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::Archives "{folder}/archives";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
# As root, apt would hand the download to a user who may not write here.
APT::Sandbox::User "root";
# Else what can't be fetched is but a warning.
APT::Update::Error-Mode "any";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


class DebianError(Exception):
    """A package can't be had here; the message says what is lacking and what to do."""


class DebianPackages:
    """The packages of one suite for one architecture.

    Args:
        folder: an empty one to work in; to be removed when all is done.
        architecture: Debian's name for it: ``amd64``, ``arm64``, ``riscv64``, ….
        suite: such as ``trixie``; None: that of this machine.

    Raises:
        DebianError: there is no apt here, or it can't fetch the suite's lists.
    """

    def __init__(self, folder: Path, architecture: str, suite: str | None = None) -> None:
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise DebianError(
                    f"no {tool} on the PATH. What is asked for comes out of Debian's packages: "
                    "run it on Debian."
                )
        self._folder = folder
        self._settings = folder / "apt.conf"
        codename = _codename()
        mirror = _find_mirror(codename)
        for name in ("lists", "archives"):
            (folder / name / "partial").mkdir(parents=True)
        (folder / "status").touch()
        trust = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        source = f"deb {trust}{mirror} {suite or codename} main\n"
        (folder / "sources.list").write_text(source)
        self._settings.write_text(SETTINGS.format(folder=folder, architecture=architecture))
        self._apt("apt-get", "update")

    def dependencies(self, *packages: str) -> list[str]:
        """The names of the packages that those packages can't do without."""
        said = self._apt("apt-cache", "depends", "--important", *packages)
        return re.findall(r"^ *(?:Pre)?Depends: ([\w.+-]+)", said, re.MULTILINE)

    def unpack(self, *packages: str) -> Path:
        """Download those packages, and put their files in a folder as if it were a root."""
        archives = self._folder / "archives"
        self._apt("apt-get", "download", *packages, folder=archives)
        root = self._folder / "root"
        for archive in sorted(archives.glob("*.deb")):
            _run("dpkg-deb", "--extract", str(archive), str(root))
            archive.unlink()
        return root

    def _apt(self, program: str, *words: str, folder: Path | None = None) -> str:
        return _run(program, "--config-file", str(self._settings), "-q", *words, folder=folder)


def _codename() -> str:
    """That of the Debian on which this runs."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    if release.get("ID") != "debian":
        raise DebianError(
            "this is not Debian, and only Debian's apt knows a mirror of its packages: run it "
            "there, or in a container of it."
        )
    return release.get("VERSION_CODENAME", "sid")


def _find_mirror(codename: str) -> str:
    """The address of the mirror that the machine's own apt uses for that Debian."""
    said = _run(
        *("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(CODENAME)"),
        "Created-By: Packages",
    )
    for line in said.splitlines():
        address, *names = line.split()
        if codename in names:
            return address
    raise DebianError(
        f"apt's configuration names no mirror of Debian {codename}: it belongs in "
        "/etc/apt/sources.list or a file in /etc/apt/sources.list.d."
    )


def _run(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        words = done.stderr.strip() or done.stdout.strip() or "(it said nothing)"
        raise DebianError(
            f"`{' '.join(command)}` failed with status {done.returncode}:\n{words}\n"
            "It needs Debian's package archive, by the network or a mirror that apt knows: try "
            "`apt-get update`."
        )
    return done.stdout
