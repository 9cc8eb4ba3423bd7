"""Tests of the machine: configuration, command line, launching, console."""
