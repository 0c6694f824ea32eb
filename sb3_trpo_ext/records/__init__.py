"""What a run leaves on disk: written by ``sb3`` and ``monitoring``, read by ``doctor`` and ``replay``."""
