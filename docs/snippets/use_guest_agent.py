from pytest_qmp import VirtualMachine


def look_into(vm: VirtualMachine) -> None:
    guest = vm.guest
    assert guest.exec(["uname", "-s"]).output == b"Linux\n"
    guest.write_file("/tmp/greeting", "hello")
    assert guest.read_file("/tmp/greeting") == b"hello"
    assert "lo" in [interface["name"] for interface in guest.network_interfaces()]

    with guest.fsfreeze() as frozen:
        print(f"{frozen.count} file systems are frozen: now is the time for a backup")
