"""What surrounds one update: where it begins, its diagnostics, its report and what is written of it."""
