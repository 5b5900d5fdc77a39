"""Benchmarks: one file per question, each with its peers in the same run. `python -m benchmarks` runs all; docs are the modules' own."""
