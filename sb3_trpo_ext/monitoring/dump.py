"""The files of the flight recorder, under the name by which people read them."""

from sb3_trpo_ext.records.dump import Dump, DumpError, read_dump, write_dump

__all__ = ["Dump", "DumpError", "read_dump", "write_dump"]
