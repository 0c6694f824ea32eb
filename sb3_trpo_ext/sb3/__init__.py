"""Thin glue between ``core`` and Stable-Baselines3."""
