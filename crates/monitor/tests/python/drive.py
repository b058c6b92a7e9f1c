"""Drives a monitor with qemu.qmp: both its asynchronous client and the older one that many scripts use."""

import asyncio
import os
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient
from qemu.qmp.legacy import QEMUMonitorProtocol

SOCKET = sys.argv[1]


async def names(listener, count):
    return [(await asyncio.wait_for(listener.get(), 10)) for _ in range(count)]


async def refused(client, command, arguments=None):
    try:
        await client.execute(command, arguments)
    except ExecuteError as error:
        return error.error_class, str(error)
    raise AssertionError(f"{command} was not refused")


async def asynchronous():
    client = QMPClient("test")
    await client.connect(SOCKET)
    assert client.greeting.QMP.version["qemu"] == {"major": 10, "minor": 0, "micro": 2}
    assert client.greeting.QMP.capabilities == ["oob"]
    assert await client.execute("query-status") == {"status": "running", "running": True}
    pci = await client.execute("query-pci")
    assert pci[0]["devices"][0]["qdev_id"] == "net1", pci
    assert await client.execute("query-block") == []

    with client.listener() as listener:
        await client.execute("stop")
        await client.execute("cont")
        assert [event["event"] for event in await names(listener, 2)] == ["STOP", "RESUME"]
        await client.execute("migrate", {"uri": "tcp:127.0.0.1:1"})
        events = await names(listener, 7)
    assert [event["event"] for event in events] == [
        "MIGRATION", "UNPLUG_PRIMARY", "MIGRATION_PASS", "MIGRATION", "MIGRATION", "STOP", "MIGRATION",
    ], events
    assert events[1]["data"] == {"device-id": "hostdev0"}
    assert events[1]["timestamp"] == {"seconds": 1700000000, "microseconds": 250000}

    listener = EventListener(("DEVICE_DELETED",))
    client.register_listener(listener)
    await client.execute("device_add", {"driver": "e1000e", "id": "d0"})
    await client.execute("device_del", {"id": "d0"})
    deleted = await asyncio.wait_for(listener.get(), 10)
    assert deleted["data"] == {"device": "d0", "path": "/machine/peripheral/d0"}

    assert await refused(client, "device_del", {"id": "d0"}) == ("DeviceNotFound", "Device 'd0' not found")
    assert await refused(client, "nope") == ("CommandNotFound", "The command nope has not been found")
    assert await refused(client, "stop", {"x": 1}) == ("GenericError", "Parameter 'x' is unexpected")

    read, write = os.pipe()
    os.write(write, b"hello")
    os.close(write)
    client.send_fd_scm(read)
    await client.execute("getfd", {"fdname": "pipe"})
    os.close(read)
    answer = await refused(client, "netdev_add", {"type": "tap", "id": "n", "fd": "pipe"})
    assert answer == ("GenericError", "the descriptor says: hello"), answer

    # Several at once, told apart by their ids.
    results = await asyncio.gather(*[client.execute("query-name") for _ in range(20)])
    assert results == [{"name": "guest"}] * 20
    schema = await client.execute("query-qmp-schema")
    assert any(entry["name"] == "migrate" for entry in schema)
    await client.disconnect()


def older():
    client = QEMUMonitorProtocol(SOCKET)
    client.connect()
    assert client.cmd("human-monitor-command", **{"command-line": "info status"}).startswith("VM status: ")
    client.cmd("stop")
    assert client.pull_event(wait=10)["event"] == "STOP"
    assert client.cmd_obj({"execute": "nope"})["error"]["class"] == "CommandNotFound"
    client.close()


asyncio.run(asynchronous())
older()
print("all done")
