"""What is left of a test after a failure."""
