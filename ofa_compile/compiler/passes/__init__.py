"""Rewrites of the network graph, one per module; `pipeline.py` lists them in order."""
