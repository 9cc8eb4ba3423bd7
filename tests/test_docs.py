"""The documentation: its snippets are files that run, its links lead somewhere, nothing lacks.

``python tests/test_docs.py`` writes the snippets into the Markdown anew.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import pytest_qmp
from pytest_qmp import options, plugin
from pytest_qmp.fake import commands as fake_commands
from pytest_qmp.fake.faults import Faults
from pytest_qmp.fake.guest import FakeGuest
from pytest_qmp.fake.monitor import Call
from pytest_qmp.fake.stubs import Stub
from pytest_qmp.qmp.events import EventLog

ROOT = Path(__file__).resolve().parent.parent
SNIPPETS = ROOT / "docs" / "snippets"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(
    r"(?:<!-- snippet: (?P<source>\S+) -->\n)?"
    r"^(?P<open>```(?P<language>\w*)\n)(?P<body>.*?)(?P<close>^```$)",
    re.MULTILINE | re.DOTALL,
)
REGION = re.compile(r"^# region: (\w+)\n(.*?)^# endregion$", re.MULTILINE | re.DOTALL)

#: Names in the documentation that look like ours and are none of our fixtures and ini options.
OTHER_NAMES = {"qmp_capabilities"}

#: Members that are public to other modules of ours, and of no use in a test.
INNER = {
    pytest_qmp.FakeQMPServer: {
        *("attach_console", "attach_monitor", "attach_nothing", "copy_state", "put_state"),
        *("ended_abruptly", "finish_writing", "make_devices", "settle", "take_warnings"),
    },
    pytest_qmp.QMPClient: {"fileno", "want", "wait_for_event_since", "wait_for_news"},
    pytest_qmp.AsyncQMPClient: {"fileno", "wait_for_event_since"},
    pytest_qmp.VirtualMachine: {
        "freshen_ahead",
        *("explain_end", "go_on", "held", "label", "lends_memory", "run_by", "save", "started"),
    },
    EventLog: {"append", "extend", "take", "find", "put_back", "rewind", "forget"},
    Stub: {"answer", "has_answer", "matches", "specificity"},
    Faults: {"allowed", "is_deaf", "resets", "turns_away"},
}


def page_ids(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


every_page = pytest.mark.parametrize("page", PAGES, ids=page_ids(PAGES))


# -- snippets --------------------------------------------------------------------------------------


def snippet(source: str) -> str:
    """What ``docs/snippets/FILE`` or ``examples/FILE`` holds, or one ``#region`` of it."""
    name, _, region = source.partition("#")
    path = ROOT / name
    assert path.parent in (SNIPPETS, ROOT / "examples"), f"{source}: not a file that the tests run"
    text = path.read_text()
    if not region:
        return text
    regions: dict[str, str] = dict(REGION.findall(text))
    assert region in regions, f"{source}: {name} has the regions {', '.join(regions) or 'none'}"
    return regions[region].strip("\n") + "\n"


def with_snippets(markdown: str) -> str:
    """The Markdown as it has to be: each marked block with the text of its file."""

    def renew(match: re.Match[str]) -> str:
        if match["source"] is None:
            return match[0]
        return match[0].replace(
            match["open"] + match["body"], match["open"] + snippet(match["source"])
        )

    return FENCE.sub(renew, markdown)


def blocks(language: str) -> Iterator[tuple[Path, re.Match[str]]]:
    for page in PAGES:
        for match in FENCE.finditer(page.read_text()):
            if match["language"] == language:
                yield page, match


@every_page
def test_snippets_in_the_markdown_are_what_the_files_hold(page: Path) -> None:
    text = page.read_text()
    assert text == with_snippets(text), "run: python tests/test_docs.py"


def test_all_python_in_the_markdown_comes_from_a_file() -> None:
    loose = [
        f"{page.relative_to(ROOT)}:{page.read_text()[: match.start()].count(chr(10)) + 1}"
        for page, match in blocks("python")
        if match["source"] is None
    ]
    assert not loose, "put it into docs/snippets and name it: <!-- snippet: docs/snippets/FILE -->"


def test_no_block_hides_from_these_checks() -> None:
    fences = sum(page.read_text().count("```") for page in PAGES)
    assert fences == 2 * sum(len(FENCE.findall(page.read_text())) for page in PAGES)


def test_every_snippet_is_shown_somewhere() -> None:
    markdown = "".join(page.read_text() for page in PAGES)
    unused = [
        source
        for path in sorted(SNIPPETS.glob("*.py"))
        for source in (
            [f"docs/snippets/{path.name}#{name}" for name, _ in REGION.findall(path.read_text())]
            or [f"docs/snippets/{path.name}"]
        )
        if f"<!-- snippet: {source} -->" not in markdown
    ]
    assert not unused


@pytest.fixture
def workspace(pytester: pytest.Pytester) -> Path:
    """A folder as a user has it: the snippets, and what they use."""
    for path in [*SNIPPETS.glob("*.py"), *SNIPPETS.glob("*.jsonl")]:
        shutil.copy(path, pytester.path)
    shutil.copy(ROOT / "examples" / "boot_sector.py", pytester.path)
    return pytester.path


def test_snippets_pass_on_the_fake(workspace: Path, pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess(
        "-p", "no:asyncio", "-W", "error", "--qmp-backend=fake", "-ra"
    )
    counts = result.parseoutcomes()
    assert set(counts) == {"passed", "skipped"}
    assert counts["passed"] > counts["skipped"]


@pytest.mark.needs_qemu
def test_snippets_pass_on_qemu(workspace: Path, pytester: pytest.Pytester) -> None:
    arguments = ["-p", "no:asyncio", "-W", "error", "--qmp-accel=tcg", "--qmp-require"]
    built = subprocess.run(
        [sys.executable, ROOT / "examples" / "linux_guest.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode == 0:
        kernel, initrd = map(Path, built.stdout.split())
        (workspace / "build").mkdir()
        (workspace / "build" / "vmlinuz").symlink_to(kernel)
        (workspace / "build" / "initrd.gz").symlink_to(initrd)
    else:
        linux = ("test_console.py", "test_linux_guest.py", "test_network.py")
        arguments += [f"--ignore={name}" for name in linux]
    result = pytester.runpytest_subprocess(*arguments)
    assert set(result.parseoutcomes()) == {"passed"}


def test_client_script_asks_a_server(pytester: pytest.Pytester) -> None:
    with pytest_qmp.FakeQMPServer() as server:
        result = pytester.run(sys.executable, SNIPPETS / "client.py", server.address)
    assert result.outlines == ["running"]
    assert result.ret == 0


@pytest.mark.needs_qemu
def test_standalone_script_starts_a_machine(pytester: pytest.Pytester) -> None:
    result = pytester.run(sys.executable, SNIPPETS / "standalone.py")
    assert result.ret == 0
    assert result.outlines[0].startswith("QEMU ")
    assert result.outlines[1:] == ["running"]


@pytest.mark.parametrize(("language", "file"), [("ini", "pytest.ini"), ("toml", "pyproject.toml")])
def test_settings_in_the_markdown_are_accepted(
    language: str, file: str, pytester: pytest.Pytester
) -> None:
    found = [match["body"] for _, match in blocks(language)]
    assert found
    for body in found:
        (pytester.path / file).write_text(body)
        result = pytester.runpytest_subprocess(
            "--strict-config", "-p", "no:cacheprovider", "-p", "no:asyncio"
        )
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


# -- links and names -------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown renderer gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in headings
    }


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(link)
    assert not dead


@every_page
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(
        r"(?<![\w./-])((?:scripts|examples|docs|tests|pytest_qmp)/[\w./-]*[\w/])", text
    )
    assert not [name for name in named if not (ROOT / name).exists()]


@every_page
def test_options_and_fixtures_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    names = {name for name, _, _ in options.OPTIONS}
    fixtures = {name for name in dir(plugin) if name.startswith("qmp_")}
    known = fixtures | {f"qmp_{name}" for name in names} | OTHER_NAMES
    assert not set(re.findall(r"--qmp-[a-z-]*[a-z]", text)) - {options.flag(name) for name in names}
    assert not set(re.findall(r"\b(qmp_[a-z_]+)\b", text)) - known


def test_every_page_is_linked_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]
    assert not [page for page in pages if page.name != "index.md" and f"({page})" not in index]


# -- what the reference has to hold ----------------------------------------------------------------


def reference(page: str) -> str:
    return (ROOT / "docs" / "reference" / f"{page}.md").read_text()


def lacking(names: set[str], text: str) -> list[str]:
    """The names that nowhere stand at the beginning of an inline code span."""
    return sorted(name for name in names if not re.search(rf"`\.?{re.escape(name)}\b", text))


def members(cls: type) -> set[str]:
    """Public members of a class of ours, without those that it has from a class of others."""
    owners = [one for one in cls.__mro__ if one.__module__.startswith("pytest_qmp")]
    found = {name for one in owners for name in (*vars(one), *inspect.get_annotations(one))}
    return {name for name in found if not name.startswith("_")} - INNER.get(cls, set())


def test_reference_names_every_option() -> None:
    text = reference("options")
    assert not lacking({options.flag(name) for name, _, _ in options.OPTIONS}, text)
    assert not lacking({f"qmp_{name}" for name, _, _ in options.OPTIONS}, text)


def test_reference_names_every_fixture(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest_subprocess("--fixtures", "-p", "no:asyncio").stdout.str()
    fixtures = set(re.findall(r"^(qmp_\w+)", shown, re.MULTILINE))
    assert "qmp_vm" in fixtures
    assert not lacking(fixtures, reference("fixtures"))


def test_reference_names_every_field() -> None:
    text = reference("vmconfig")
    assert not lacking({one.name for one in fields(pytest_qmp.VMConfig)}, text)
    assert not lacking({one.name for one in fields(pytest_qmp.Drive)}, text)


@pytest.mark.parametrize(
    ("page", "cls"),
    [
        ("virtual-machine", pytest_qmp.VirtualMachine),
        ("client", pytest_qmp.QMPClient),
        ("async-client", pytest_qmp.AsyncQMPClient),
        ("client", EventLog),
        ("client", pytest_qmp.QMPEvent),
        ("guest-agent", pytest_qmp.GuestAgentClient),
        ("guest-agent", pytest_qmp.GuestExecResult),
        ("fake", pytest_qmp.FakeQMPServer),
        ("fake", Stub),
        ("fake", FakeGuest),
        ("fake", Faults),
        ("fake", Call),
    ],
)
def test_reference_names_every_member(page: str, cls: type) -> None:
    assert not lacking(members(cls), reference(page))


def test_reference_names_every_public_name() -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert not lacking(set(pytest_qmp.__all__) - {"__version__"}, text)


def test_reference_names_every_command_that_the_fake_models() -> None:
    assert not lacking(set(fake_commands.HANDLERS), reference("fake"))


# -- the checks themselves -------------------------------------------------------------------------


def test_a_changed_snippet_is_noticed() -> None:
    markdown = textwrap.dedent(
        """\
        <!-- snippet: docs/snippets/client.py -->
        ```python
        something_else()
        ```
        """
    )
    assert "QMPClient" in with_snippets(markdown)
    assert with_snippets(with_snippets(markdown)) == with_snippets(markdown)


def test_a_missing_region_is_noticed() -> None:
    with pytest.raises(AssertionError, match="has the regions test"):
        snippet("docs/snippets/test_pause.py#tset")


if __name__ == "__main__":
    for markdown_page in PAGES:
        markdown_page.write_text(with_snippets(markdown_page.read_text()))
