"""Timing subnets on a target, and keeping what was learnt."""
