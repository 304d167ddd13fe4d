"""C sources of what runs on the device (data only)."""
