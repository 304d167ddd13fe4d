"""ofa-compile."""
