"""The production incidents of TRPO as small scenarios: a room each, over one shared runner."""
