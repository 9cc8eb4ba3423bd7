"""The subcommands of ``pytest-qmp``, a module each; see ``pytest_qmp.cli``.

A module has ``run(args)``, which takes what follows the subcommand and returns the exit status.
"""
