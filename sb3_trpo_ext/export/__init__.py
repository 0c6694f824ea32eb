"""A trained policy as one file for a robot: raw observations in, actions out."""

from sb3_trpo_ext.export.files import Exported, ExportError, export_policy

__all__ = ["ExportError", "Exported", "export_policy"]
