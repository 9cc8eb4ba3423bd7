"""A QMP server that behaves like the QEMU that it is told to be."""
