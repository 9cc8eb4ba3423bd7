"""The machine: what to run, how to start it, and the handle that a test holds."""
