"""GPUs: scheduled TIR -> text of a kernel, and the tables of a network for our own launchers."""
