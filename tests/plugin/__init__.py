"""Tests of the plugin, each in a pytest of its own."""
