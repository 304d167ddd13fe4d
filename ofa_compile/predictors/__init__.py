"""Models that judge architectures: accuracy, latency, estimates and exact costs."""
