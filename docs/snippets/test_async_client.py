"""The asynchronous client, on the fake."""

# region: start
import asyncio

from pytest_qmp import AsyncQMPClient, FakeQMPServer


async def restart(address: str) -> list[str]:
    async with await AsyncQMPClient.connect(address, timeout=5) as client:
        events = client.stream_events()
        async with client.expect_event("RESUME", timeout=5):
            await client.pipeline(["stop", "cont"])
        await client.quit()
        return [event.name async for event in events]


def test_restart(qmp_fake_server: FakeQMPServer) -> None:
    names = asyncio.run(restart(qmp_fake_server.address))
    assert names == ["STOP", "RESUME", "SHUTDOWN"]


# endregion
