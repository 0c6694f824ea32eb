"""TRPO's numerics: torch and the standard library only."""

NUMERICS_VERSION = 5
"""Rises whenever an accepted step can change; every measured row in ``results/`` carries it."""
