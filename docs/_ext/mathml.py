"""Formulas as MathML, which browsers draw themselves: no network, no LaTeX, no script. The translator is docutils' own."""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)


def draw(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """
    Write one formula. LaTeX that docutils does not know is a warning, and so ends a build with ``-W``.

    :param translator: writes the page
    :param node: the formula
    :raises nodes.SkipNode: always: its text is written
    """
    block = isinstance(node, nodes.math_block)
    try:
        drawn = latex2mathml.tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        LOGGER.warning("formula: %s", error, location=node)
        raise nodes.SkipNode from error
    translator.body.append(f'<div class="math">{drawn}</div>' if block else drawn)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """
    Offer the renderer.

    :param app: Sphinx
    :return: what Sphinx asks for
    """
    app.add_html_math_renderer("mathml", inline_renderers=(draw, None), block_renderers=(draw, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
