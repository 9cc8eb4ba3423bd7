"""The fixtures, as a user's test suite sees them."""

from __future__ import annotations

import pytest

from .conftest import Run

FAKE = "--qmp-backend=fake"

BOOT = """
def test_boot(qmp_vm):
    qmp_vm.assert_status("running")
    qmp_vm.stop()
    qmp_vm.wait_for_event("STOP")
    qmp_vm.wait_for_status("paused")
    qmp_vm.assert_qmp("query-status", "running", False)
    assert qmp_vm.quit() == 0
"""


def test_qmp_vm_on_the_fake(run: Run) -> None:
    result = run(BOOT, FAKE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["qmp: the fake QEMU 11.1 (--qmp-backend=fake)"])
    result.stdout.fnmatch_lines(["qmp: 1 test on the fake QEMU 11.1"])


@pytest.mark.needs_qemu
def test_qmp_vm_on_qemu(run: Run) -> None:
    result = run(BOOT)
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines(
        [
            r"qmp: QEMU \d+\.\d+\.\d+ \(.*qemu-system-x86_64\), accelerator tcg",
            r"qmp: 1 test on QEMU \d+\.\d+\.\d+ \(.*, tcg\)",
        ]
    )


@pytest.mark.usefixtures("without_qemu")
def test_auto_takes_the_fake_where_there_is_no_qemu(run: Run) -> None:
    result = run(BOOT)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["qmp: the fake QEMU 11.1 (there is no qemu-system-x86_64 on the PATH)"]
    )


def test_qmp_client(run: Run) -> None:
    run(
        """
        def test_it(qmp_client, qmp_vm):
            assert qmp_client is qmp_vm.qmp
            assert qmp_client.query_status()["status"] == "running"
            assert qmp_client.version >= (7, 2)
        """,
        FAKE,
    ).assert_outcomes(passed=1)


def test_qmp_vm_factory_starts_several_and_ends_each(run: Run) -> None:
    result = run(
        """
        import pytest
        from pytest_qmp import VMConfig

        started = []

        def test_several(qmp_vm_factory):
            first = qmp_vm_factory()
            second = qmp_vm_factory(paused=True, name="second")
            third = qmp_vm_factory(VMConfig(paused=True))
            started.extend([first, second, third])
            first.assert_status("running")
            second.assert_status("prelaunch")
            third.assert_status("prelaunch")
            second.assert_qmp("query-name", "name", "second")

        def test_they_have_ended():
            assert [vm.exit_status for vm in started] == [0, 0, 0]

        def test_wrong_keyword(qmp_vm_factory):
            qmp_vm_factory(pausd=True)
        """,
        FAKE,
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["E*qmp_vm_factory has no keyword 'pausd'; did you mean 'paused'?"])


def test_qmp_vm_config_can_be_built_on_and_replaced(run: Run) -> None:
    run(
        """
        import pytest
        from pytest_qmp import VMConfig

        class TestBuiltOn:
            @pytest.fixture
            def qmp_vm_config(self, qmp_vm_config):
                assert qmp_vm_config.timeout == 7
                return qmp_vm_config.replace(name="built on")

            @pytest.mark.qmp(memory="64M")
            def test_it(self, qmp_vm):
                qmp_vm.assert_qmp("query-name", "name", "built on")
                assert qmp_vm.config.memory == "64M"
                assert qmp_vm.config.timeout == 7

        class TestReplaced:
            @pytest.fixture
            def qmp_vm_config(self):
                return VMConfig(name="own")

            @pytest.mark.qmp(paused=True)
            def test_it(self, qmp_vm):
                qmp_vm.assert_qmp("query-name", "name", "own")
                qmp_vm.assert_status("prelaunch")
                assert qmp_vm.config.timeout == 7
        """,
        FAKE,
        "--qmp-timeout=7",
    ).assert_outcomes(passed=2)


def test_a_config_that_is_none(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture
        def qmp_vm_config():
            return {"memory": "1G"}

        def test_it(qmp_vm):
            pass
        """,
        FAKE,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*qmp_vm_config returns a VMConfig, not {'memory': '1G'}*"])


def test_qmp_fake_server(run: Run) -> None:
    result = run(
        """
        from pytest_qmp import QMPClient

        def test_stub(qmp_fake_server):
            qmp_fake_server.on("query-block").reply([])
            with QMPClient.connect(qmp_fake_server.address) as client:
                assert client.query_block() == []
                qmp_fake_server.emit("STOP")
                client.wait_for_event("STOP")
            qmp_fake_server.assert_called("query-block")

        def test_unmodelled(qmp_fake_server):
            with QMPClient.connect(qmp_fake_server.address) as client:
                client.execute_raw({"execute": "x-query-jit"})
        """
    )
    # The second passes, and fails at its end: what it swallowed is told.
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_unmodelled*", '*server.on("x-query-jit").reply(*)']
    )


def test_what_the_fake_has_to_say_is_told_once(run: Run) -> None:
    result = run(
        """
        def test_it(qmp_vm):
            qmp_vm.execute("x-query-jit")
        """,
        FAKE,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*vm0: what the fake has to say*"])


def test_a_config_given_to_the_factory_wins_over_the_marker(run: Run) -> None:
    run(
        """
        import pytest
        from pytest_qmp import VMConfig

        @pytest.mark.qmp(machine="q35", emulate="7.2")
        def test_it(qmp_vm_factory):
            assert qmp_vm_factory(VMConfig(machine="pc")).config.machine == "pc"
            assert qmp_vm_factory(machine="none").config.machine == "none"
            vm = qmp_vm_factory()
            assert vm.config.machine == "q35"
            assert vm.qmp.version < (8,)
        """,
        FAKE,
    ).assert_outcomes(passed=1)


def test_qmp_settings(run: Run) -> None:
    run(
        """
        def test_it(qmp_settings):
            assert qmp_settings.backend == "fake"
            assert qmp_settings.timeout == 3.5
        """,
        FAKE,
        "--qmp-timeout=3.5",
    ).assert_outcomes(passed=1)


def test_the_machine_is_ended_after_a_failure_an_error_and_an_exit(run: Run) -> None:
    result = run(
        """
        import pytest

        started = []

        def test_fails(qmp_vm):
            started.append(qmp_vm)
            assert False

        @pytest.fixture
        def broken(qmp_vm):
            started.append(qmp_vm)
            raise RuntimeError("broken")

        def test_errors(broken):
            pass

        def test_they_have_ended():
            assert [vm.exit_status for vm in started] == [0, 0]
        """,
        FAKE,
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)


def test_console_of_the_fake_skips_with_its_reason(run: Run) -> None:
    source = """
        def test_it(qmp_vm):
            qmp_vm.console.expect("login:")
        """
    result = run(source, FAKE)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED *: the console needs a real guest*"])
    result = run(source, FAKE, "--qmp-require")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the console needs a real guest*--qmp-require is given)"])


def test_fixtures_are_documented(run: Run) -> None:
    result = run("", "--fixtures", accel="")
    for name in ("qmp_vm", "qmp_vm_factory", "qmp_vm_config", "qmp_client", "qmp_fake_server"):
        result.stdout.re_match_lines([rf"{name}( \[.*\])? -- .*"])
    result.stdout.no_fnmatch_line("*no docstring available*qmp*")
