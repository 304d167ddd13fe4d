"""Shipped weights, calibration images and predictors (data only)."""
