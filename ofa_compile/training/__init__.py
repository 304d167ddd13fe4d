"""Training of supernets: data, progressive shrinking, BN calibration, evaluation."""
