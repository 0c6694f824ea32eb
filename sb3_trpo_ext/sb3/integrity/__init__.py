"""All or nothing: snapshots, finiteness, and the watch on environments and workers."""
