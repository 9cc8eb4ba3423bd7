"""What a QMP client costs: ours, the bare socket that is the floor, and the other clients.

All of them take turns against one real QEMU in one run, so that a busy machine slows all of them
alike. ``python -m benchmarks.client --help`` says how to run it, docs/benchmarks.md what it found.
"""
