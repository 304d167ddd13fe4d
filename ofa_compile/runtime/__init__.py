"""What runs on the device, as C sources, and how to talk to it."""
