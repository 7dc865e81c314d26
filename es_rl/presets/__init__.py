"""Tuned settings, one YAML file for each algorithm, keyed by environment."""
