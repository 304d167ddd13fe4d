"""Tuning once for all: every workload of a search space, measured and kept."""
