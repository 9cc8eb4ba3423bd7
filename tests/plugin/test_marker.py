"""The marker: what it sets, what it requires, and what it refuses."""

from __future__ import annotations

import pytest

from pytest_qmp import FakeQMPServer

from .conftest import Run

FAKE = "--qmp-backend=fake"


def marked(mark: str, body: str = "pass") -> str:
    """A test with a marker."""
    return f"import pytest\n\n@pytest.mark.qmp({mark})\ndef test_it(qmp_vm):\n    {body}\n"


def test_the_marker_configures(run: Run) -> None:
    run(
        marked(
            "machine='pc', memory='64M', paused=True, args=['-no-shutdown']",
            "assert '-no-shutdown' in qmp_vm.argv and 'pc' in qmp_vm.argv and '64' in qmp_vm.argv; "
            "qmp_vm.assert_status('prelaunch')",
        ),
        FAKE,
    ).assert_outcomes(passed=1)


def test_the_nearest_marker_wins(run: Run) -> None:
    run(
        """
        import pytest

        pytestmark = pytest.mark.qmp(machine="pc", memory="64M")

        @pytest.mark.qmp(memory="128M")
        class TestIt:
            @pytest.mark.qmp(paused=True)
            def test_it(self, qmp_vm):
                config = qmp_vm.config
                assert (config.machine, config.memory, config.paused) == ("pc", "128M", True)
        """,
        FAKE,
    ).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ("memroy='1G'", "*@pytest.mark.qmp has no keyword 'memroy'; did you mean 'memory'?"),
        ("require=['kvm']", "*has no keyword 'require'; did you mean 'requires'?"),
        ("'q35'", "*@pytest.mark.qmp takes keywords only, as in machine='q35': 'q35' has none"),
        ("memory='lots'", "*a memory size is written like '256M' or '2G', not 'lots'"),
        ("args='-S'", "*VMConfig.args is a list*"),
        ("backend='kvm'", "*VMConfig.backend is 'qemu' or 'fake', not 'kvm'"),
        ("requires='kvm'", "*requires is a list of texts*"),
        ("requires=['gadget:x']", "*requires='gadget:x' is not known: write one of *"),
        ("requires=['device:']", "*requires='device:' is not known: write one of *"),
    ],
)
def test_a_wrong_marker_is_a_usage_error(run: Run, mark: str, words: str) -> None:
    result = run(marked(mark), FAKE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {words}"])
    assert "test_it" in result.stderr.str()


def test_a_wrong_marker_under_xdist_fails_the_test(run: Run) -> None:
    result = run(marked("memroy='1G'"), FAKE, "-n1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no keyword 'memroy'; did you mean 'memory'?"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        ("['qemu>=99']", "requires 'qemu>=99': QEMU >=99 is needed, and this is 11.1"),
        ("['sh', 'no-such-thing']", "requires 'no-such-thing': *no such program on the PATH"),
        ("['kvm']", "requires 'kvm': the fake has no kvm"),
    ],
)
def test_an_unmet_requirement_skips_and_under_require_fails(
    run: Run, requires: str, reason: str
) -> None:
    result = run(marked(f"requires={requires}"), FAKE)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED *test_an_unmet*: {reason}"])
    result = run(marked(f"requires={requires}"), FAKE, "--qmp-require")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"{reason} (and --qmp-require is given)"])


def test_a_met_requirement_runs(run: Run) -> None:
    run(marked("requires=['qemu>=7', 'command:stop', 'sh']"), FAKE).assert_outcomes(passed=1)


def test_requirements_see_the_config_of_the_test(run: Run) -> None:
    run(
        """
        import pytest

        @pytest.fixture
        def qmp_vm_config(qmp_vm_config):
            return qmp_vm_config.replace(emulate="7.2")

        @pytest.mark.qmp(requires=["qemu<8"])
        def test_it(qmp_vm):
            assert qmp_vm.qmp.version < (8,)
        """,
        FAKE,
    ).assert_outcomes(passed=1)


def test_requirements_are_asked_of_the_running_qemu(run: Run) -> None:
    with FakeQMPServer("7.2") as server:
        server.on("query-machines").reply([])
        server.on("qom-list-types").reply([])
        server.on("query-kvm").reply({"enabled": False, "present": False})
        result = run(
            """
            import pytest

            @pytest.mark.qmp(requires=["qemu<8", "command:stop", "tcg"])
            def test_met(qmp_vm): pass

            @pytest.mark.qmp(requires=["kvm"])
            def test_unmet(qmp_vm): pass
            """,
            f"--qmp-connect={server.address}",
        )
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED *requires 'kvm': the QEMU at * does not run on kvm"])


def test_a_lack_is_told_before_other_fixtures_are_set_up(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture
        def image():
            raise RuntimeError("built for nothing")

        @pytest.mark.qmp(backend="qemu")
        def test_it(image, qmp_vm):
            pass
        """,
        FAKE,
    )
    result.assert_outcomes(skipped=1)


def test_the_fake_has_the_commands_that_it_models(run: Run) -> None:
    result = run(marked("requires=['command:x-query-jit']"), FAKE)
    result.stdout.fnmatch_lines(["SKIPPED *the fake QEMU 11.1 has no command 'x-query-jit'"])


def test_the_marker_chooses_what_the_fake_server_plays(run: Run) -> None:
    run(
        """
        import pytest
        from pytest_qmp import QMPClient

        @pytest.mark.qmp(emulate="7.2")
        def test_it(qmp_fake_server):
            with QMPClient.connect(qmp_fake_server.address) as client:
                assert client.version[:2] == (7, 2)
        """,
        accel="",
    ).assert_outcomes(passed=1)


def test_a_requirement_without_a_machine(run: Run) -> None:
    source = "import pytest\n@pytest.mark.qmp(requires=['no-such-thing'])\ndef test_it(): pass\n"
    run(source, FAKE).assert_outcomes(skipped=1)


@pytest.mark.needs_qemu
def test_requirements_are_asked_of_qemu(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.qmp(requires=["machine:microvm", "device:e1000", "command:stop", "tcg"])
        def test_met(qmp_vm): pass

        @pytest.mark.qmp(requires=["device:no-such"])
        def test_unmet(qmp_vm): pass
        """
    )
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED *qemu-system-x86_64 has no device 'no-such'"])


def test_a_test_for_qemu_is_skipped_on_the_fake(run: Run) -> None:
    result = run(marked("backend='qemu'"), FAKE)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED *this test needs a real QEMU, and --qmp-backend=fake*"])


@pytest.mark.usefixtures("without_qemu")
def test_a_test_for_qemu_is_skipped_where_there_is_none(run: Run) -> None:
    result = run(marked("backend='qemu'"))
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED *there is no qemu-system-x86_64: looked on the PATH*"])


@pytest.mark.needs_qemu
def test_a_test_for_the_fake_runs_on_it_beside_others_on_qemu(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.qmp(backend="fake", emulate="7.2")
        def test_fake(qmp_vm):
            assert qmp_vm.qmp.version[:2] == (7, 2)

        def test_real(qmp_vm):
            assert qmp_vm.pid
        """
    )
    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines([r"qmp: 1 test on QEMU .*, 1 test on the fake QEMU 7\.2"])


def test_the_marker_is_registered(run: Run) -> None:
    run(marked("paused=True"), FAKE, "--strict-markers").assert_outcomes(passed=1)
    run("", "--markers", accel="").stdout.fnmatch_lines(["@pytest.mark.qmp(machine=*"])
