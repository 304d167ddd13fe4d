"""Training recipes: one TOML file each."""
