"""The README's test of code that speaks QMP."""

# mypy: allow-untyped-defs
# region: test
from pytest_qmp import QMPClient


def test_my_code(qmp_fake_server):
    qmp_fake_server.on("query-block").reply([])
    with QMPClient.connect(qmp_fake_server.address) as qmp:  # your own code, in its place
        assert qmp.query_block() == []
    qmp_fake_server.assert_called("query-block")


# endregion
