"""Configuration values; a package, so that Hydra finds them in an installed wheel."""
