"""Boards behind TVM RPC: find one, hold it, run programs on it."""
