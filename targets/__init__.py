"""Hardware targets, one TOML file each."""
