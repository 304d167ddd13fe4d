"""Descriptions of hardware targets, and the tools found on this machine for them."""
