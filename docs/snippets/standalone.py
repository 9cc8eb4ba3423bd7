from pytest_qmp import VirtualMachine

with VirtualMachine(memory="64M", accel="tcg") as vm:
    print(vm.description)
    print(vm.status)
