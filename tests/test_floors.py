"""Each floor of the package imports only floors below it, and only the top one knows pytest."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_qmp

PACKAGE = Path(pytest_qmp.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
LONGEST = 420

FLOORS = {
    "errors": 0,
    "text": 0,
    "asserts": 0,
    "keeper": 0,
    "qmp": 0,
    "fake": 1,
    "vm": 2,
    "artifacts": 3,
}
TOP = 4

# Below the top, what an installation without pytest would lack.
PYTESTS = {"pytest", "_pytest", "pluggy", "xdist"}


def floor(module: str) -> int:
    """The floor of a dotted name in the package."""
    parts = module.split(".")
    return 0 if parts[1:2] == ["_version"] else FLOORS.get(parts[1], TOP) if parts[1:] else 0


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the name of every module that is imported anywhere in a file."""
    package = dotted(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for one in node.names:
                yield node.lineno, one.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for one in node.names:
                # A name out of the package itself is a module, or lazily one of any floor.
                yield node.lineno, f"{base}.{one.name}" if base == "pytest_qmp" else base


def is_upward(path: Path, imported: str) -> bool:
    here = floor(dotted(path))
    if imported.split(".")[0] == "pytest_qmp":
        return floor(imported) > here
    return here < TOP and imported.split(".")[0] in PYTESTS


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_import_goes_upward(path: Path) -> None:
    upward = [f"line {line}: {name}" for line, name in imports(path) if is_upward(path, name)]
    assert not upward, f"{dotted(path)} is on floor {floor(dotted(path))}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_module_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST, "it is asking to be two"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_every_module_says_in_a_line_what_it_is(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text()))
    assert said
    assert said.split("\n")[0].endswith((".", "?", "!"))


def test_an_upward_import_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pytest_qmp"
    low = package / "qmp" / "low.py"
    low.parent.mkdir(parents=True)
    low.write_text(
        "from pytest_qmp.fake import server\n"
        "from ..vm import config\n"
        "from pytest_qmp import plugin\n"
        "from pytest_qmp import errors\n"
        "def f():\n    import pytest_qmp.vm.machine\n    import pytest\n"
    )
    monkeypatch.setattr("tests.test_floors.PACKAGE", package)
    found = [line for line, name in imports(low) if is_upward(low, name)]
    assert found == [1, 2, 3, 6, 7]
