import sys

from pytest_qmp import QMPClient

with QMPClient.connect(sys.argv[1]) as qmp:
    print(qmp.query_status()["status"])
