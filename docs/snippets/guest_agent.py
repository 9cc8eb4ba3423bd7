"""Asks the guest agent behind the socket that is given: python guest_agent.py PATH."""

import sys

from pytest_qmp import GuestAgentClient

with GuestAgentClient.connect(sys.argv[1], timeout=10) as agent:
    result = agent.exec(["uname", "-s"])
    print(result.status, result.output.decode().strip())
    agent.write_file("/tmp/greeting", b"hello")
    print(agent.read_file("/tmp/greeting").decode())
