"""How Sphinx builds these pages: ``make docs``, without a network, and a warning is an error."""

import os
import sys
import warnings
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS / "_ext"), str(ROOT)]

import skxmc  # noqa: E402  (found by the line above)

project = "skxmc"
author = "The skxmc developers"
copyright = author
version = release = skxmc.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    # of this folder
    "api_pages",
    "benchmark_tables",
    "mathml",
    "repository_links",
]
exclude_patterns = ["README.md", "_build", "_ext"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
default_role = "py:obj"  # single backticks in docstrings: a link if there is such a name
nitpicky = False  # ... and plain code if there is not

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"
pygments_style = "default"

autosummary_generate = False  # api_pages writes the pages
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # api_pages lists them
numpydoc_xref_param_type = False
numpydoc_validation_checks = set()  # tools/check_docstrings.py does it

# ---- the gallery
sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "gallery_order.ByLesson",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "plot_gallery": os.environ.get("SKXMC_GALLERY", "1") == "1",
    "image_scrapers": ("matplotlib",),
    "capture_repr": (),
    "reference_url": {"skxmc": None},
    "write_computation_times": False,
    "default_thumb_file": str(DOCS / "_static" / "printed.svg"),  # of examples without a picture
    "min_reported_time": 10**9,  # never: the times say more of the machine than of the example
    "nested_sections": False,
}
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
os.environ.setdefault("TQDM_DISABLE", "1")  # a page cannot show a bar that moves

# ---- the look
html_theme = "pydata_sphinx_theme"
html_title = "skxmc"
html_static_path = ["_static"]
html_css_files = ["skxmc.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "collapse_navigation": True,
    "show_nav_level": 1,
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "secondary_sidebar_items": {"**": ["page-toc"], "benchmarks": []},  # tables need the width
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "friendly",
    "pygments_dark_style": "github-dark",
}
html_sidebars = {"index": [], "getting_started": [], "choose": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# ---- make linkcheck
linkcheck_anchors = False
linkcheck_timeout = 20
linkcheck_ignore = [r"http://localhost.*", r"http://127\.0\.0\.1.*"]
