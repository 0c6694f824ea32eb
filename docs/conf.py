"""Sphinx configuration: Markdown pages, SB3's theme and docstrings, nothing from a network."""

import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from sb3_trpo_ext import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "sb3_trpo_ext"
author = "sb3_trpo_ext contributors"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx_copybutton",
    "mathml",  # docs/_ext
]
exclude_patterns = ["_build"]
templates_path: list[str] = []

# Pages are read on GitHub too: `$…$` and `$$…$$` are its notation, and links go from file to file.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "sphinx_rtd_theme"
html_title = f"{project} {version}"
# The fonts that browsers and systems have for mathematics differ much: this one comes with the pages.
html_static_path = ["_static", str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Types stand in the signatures, descriptions in SB3's `:param:` fields.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

nitpick_ignore = [
    ("py:class", "sb3_trpo_ext.sb3.trpo.SelfTRPO"),  # a type variable
    ("py:class", "sb3_trpo_ext.core.layers.Layer"),  # of an actor that is a plain stack: made inside, never by hand
    ("py:class", "sb3_trpo_ext.sb3.hyperparameters.Hyperparameters"),  # read from a model, never made by hand
    ("py:class", "sb3_trpo_ext.sb3.update.report.UpdateInputs"),  # references into an update, for callbacks that look closer
]
# Names of other projects would need a network to be looked up.
nitpick_ignore_regex = [("py:.*", r"(?!sb3_trpo_ext).*")]

doctest_global_setup = "import math, torch"


def escape_bars(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """
    Keep `|g|` of a docstring an absolute value: to reStructuredText it is a substitution.

    :param app: Sphinx
    :param what: kind of the thing that is documented
    :param name: its name
    :param thing: the thing
    :param options: of its directive
    :param lines: its docstring, changed in place
    """
    lines[:] = [re.sub(r"(``.*?``)|\|", lambda found: found[1] or r"\|", line) for line in lines]


def setup(app: Sphinx) -> None:
    """
    Hook into autodoc.

    :param app: Sphinx
    """
    app.connect("autodoc-process-docstring", escape_bars)
