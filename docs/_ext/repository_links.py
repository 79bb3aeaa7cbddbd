"""What differs between a page as a file of the repository and as a page of the site.

The pages are read in two places: as files, where ``../../examples/demo.py`` is an example, and as
built pages, where the same example is a page of the gallery. A blank line at the end of an example
ends it for doctest, and would only be a gap here.
"""

import re
from pathlib import Path

_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_PYTHON = re.compile(r"^```python\n((?:(?!```).*\n)*)```$", re.MULTILINE)
_EXAMPLE = re.compile(r"(?<![\w/`(\[])`examples/(\w+)\.py`")


def _target(app, path):
    """Return the page, from the folder of the sources, that stands for a file of the repository."""
    if path.parent.name == "examples" and path.suffix == ".py":
        return f"gallery/{path.stem}.rst"
    pages = {
        "examples": "gallery/index.rst",
        "benchmarks/README.md": "benchmarks_method.md",
        "benchmarks/results": "benchmarks.md",
        "docs/README.md": "index.md",
        "CHANGELOG.md": "changelog.md",
    }
    root = Path(app.srcdir).parent
    return pages.get(path.relative_to(root).as_posix()) if path.is_relative_to(root) else None


def rewrite(app, docname, source):
    """Rewrite the links of one page."""
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return

    def replace(match):
        link, anchor = match[1], match[2] or ""
        if re.match(r"[a-z]+:|/", link):
            return match[0]
        target = _target(app, (page.parent / link).resolve())
        return match[0] if target is None else f"](/{target}{anchor})"

    text = _LINK.sub(replace, source[0])
    source[0] = _PYTHON.sub(lambda match: f"```python\n{match[1].rstrip()}\n```", text)
    if app.config.extensions and "sphinx_gallery.gen_gallery" in app.config.extensions:
        source[0] = _EXAMPLE.sub(r"[`examples/\1.py`](/gallery/\1.rst)", source[0])


def setup(app):
    """Rewrite links as each page is read."""
    app.connect("source-read", rewrite)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
