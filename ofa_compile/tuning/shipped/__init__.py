"""Tuned configurations that ship with the package, one file per instruction set."""
