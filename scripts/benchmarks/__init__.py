"""
One update, timed against other TRPOs on the same data (``scripts/benchmark_update.py``).

``cells`` says what is measured and makes the data; ``sb3_sides`` and ``peers`` are the implementations, each seen as a
``Side``; ``measure`` times them in turn; ``products`` and ``memory`` measure what a stopwatch around an update does not show;
``bars`` and ``page`` say what came out.
"""
