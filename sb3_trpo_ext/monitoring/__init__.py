"""Observers of ``UpdateReport``: they read it, and never change the maths."""
