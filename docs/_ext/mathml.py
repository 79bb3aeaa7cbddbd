"""Formulas as MathML, which browsers draw themselves: no script, no fonts, no network."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError

# ``\frac12`` is one half in TeX; docutils reads the number 12.
_SHORT_FRACTION = re.compile(r"(\\[td]?frac)\s*(\d)\s*(\d)")


def _mathml(node, as_block):
    try:
        return tex2mathml(complete_tex(node.astext()), as_block=as_block)
    except Exception as error:  # docutils raises several kinds for TeX that it does not know
        where = f"{node.source}:{node.line}"
        raise ExtensionError(f"{where}: formula {node.astext()!r}: {error}") from error


def complete_tex(tex):
    """Write out what docutils reads otherwise than TeX does."""
    return _SHORT_FRACTION.sub(r"\1{\2}{\3}", tex)


def visit_inline(translator, node):
    """Write a formula inside a line of text."""
    translator.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_block(translator, node):
    """Write a formula on lines of its own."""
    translator.body.append(f'<div class="math-block">{_mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Register the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
