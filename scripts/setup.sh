# shellcheck shell=bash
# What scripts/run-examples and scripts/run-tests share: finding a Python, making a virtual
# environment, installing Debian packages. Sourced, not run.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo" || exit

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf '%s: %s\n' "$0" "$*" >&2
    exit 1
}

# Sets $python, and $environment: the virtual environment for it.
choose_python() {
    python=${PYTHON:-python3}
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
        die "'$python' doesn't run: install Python 3.10 or newer (apt-get install python3)," \
            "or name one: PYTHON=python3.12 $0"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "'$python' is Python $version, but pytest-qmp needs 3.10 or newer;" \
            "name one: PYTHON=python3.12 $0"
    environment=$repo/.venv-$version
}

# Changes whenever an environment made earlier no longer fits.
fingerprint() {
    "$python" -c 'import sys; print(sys.version, sys.base_prefix)'
    printf '%s\n' "$repo"
    cat pyproject.toml pytest_qmp/_version.py
}

# environment_has LEVEL: whether $environment is whole and fits, at that level or above:
# "base" is the package alone, "dev" all that working on it takes.
environment_has() {
    local level wanted
    wanted=$(fingerprint | sha256sum)
    for level in "$1" dev; do
        if [[ $(cat "$environment/.complete-$level" 2>/dev/null) == "$wanted" ]]; then
            "$environment/bin/python" -c 'import pytest_qmp, pytest' 2>/dev/null
            return
        fi
    done
    return 1
}

# prepare_environment LEVEL: make $environment, unless it is there already.
prepare_environment() {
    if environment_has "$1"; then
        return
    fi
    ensure_venv_module
    mkdir -p .cache
    # One at a time: several runs in one clone would otherwise tread on each other.
    exec 9>".cache/${environment##*/}.lock"
    flock 9
    if ! environment_has "$1"; then
        install_environment "$1"
    fi
    exec 9>&-
}

install_environment() {
    local level=$1 package=.
    if [[ $level == dev ]]; then
        package='.[dev]'
    fi
    if ! environment_has base; then
        say "Making $environment"
        rm -rf "$environment"
        "$python" -m venv "$environment" || die "can't make a virtual environment: see above"
    fi
    say "Installing pytest-qmp in $environment"
    # Marked complete only at the end: an interrupted one is never mistaken for whole.
    rm -f "$environment"/.complete-*
    "$environment/bin/python" -m pip --disable-pip-version-check --no-input -qq \
        install --editable "$package" ||
        die "pip could not install pytest-qmp and what it needs; its reason is above. It needs a" \
            "Python package index: connect to the network, or tell pip of an index within reach" \
            "(PIP_INDEX_URL), then run this again"
    fingerprint | sha256sum >"$environment/.complete-$level"
}

ensure_venv_module() {
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        return
    fi
    # Debian keeps these two modules in a package of their own.
    local package
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    install_packages "$package" ||
        die "'$python' has no venv module: apt-get install $package"
}

# install_packages NAME…: install Debian packages, if that can be done without asking.
install_packages() {
    local as_root=() apt
    if ! command -v apt-get >/dev/null; then
        say "Can't install $*: there is no apt-get here"
        return 1
    fi
    if ((EUID != 0)); then
        if ! sudo -n true 2>/dev/null; then
            say "Can't install $*: this is not root, and there is no sudo without a password"
            return 1
        fi
        as_root=(sudo -n)
    fi
    say "Installing $* from Debian's packages"
    apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get -qq -o DPkg::Lock::Timeout=120 -o APT::Update::Error-Mode=any)
    if ! "${apt[@]}" update </dev/null >&2; then
        say "apt-get could not fetch Debian's package lists (is there a network?): see above"
        return 1
    fi
    if ! "${apt[@]}" install -y --no-install-recommends "$@" </dev/null >&2; then
        say "apt-get could not install $*: see above"
        return 1
    fi
}
