"""The folder that `compile` writes: building, verifying, publishing, loading and running it."""
