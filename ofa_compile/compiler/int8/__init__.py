"""Post-training quantisation: bytes between the layers, int8 weights, sums in int32.

`evaluate` runs a graph in numpy and observes the ranges of its values on calibration images;
`quantise` decides what becomes bytes and annotates the graph; `epilogue` says what follows the
integer sums; `reference` computes the annotated graph in numpy, exactly; `lower` makes the plan.
"""
