"""Core: what every other package may use and that knows none of them: errors, names, clock, units, files, configuration."""
