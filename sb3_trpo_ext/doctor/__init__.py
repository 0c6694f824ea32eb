"""Reads what a run has left behind, of ours or of sb3-contrib's TRPO: what is wrong with it, and what to try."""

SUMMARY = "say what is wrong with a run, and what to try"
