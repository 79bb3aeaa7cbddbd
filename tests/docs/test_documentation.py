"""The pages: their code runs as shown, their links lead somewhere, the index is complete."""

import doctest
import re
from pathlib import Path

import pytest

from skxmc import DismecClassifier, ParabelTree

ROOT = Path(__file__).resolve().parents[2]
MADE = ("_build", "gallery", "generated")  # folders that Sphinx and its extensions write
DOCS = sorted(
    file for file in (ROOT / "docs").rglob("*.md") if not {*MADE} & {*file.relative_to(ROOT).parts}
)
# Pages that the site has beside those that are read as files.
OF_THE_SITE = {
    *("index.md", "project.md", "changelog.md", "benchmarks_method.md"),
    *("api/index.md", "how_to/index.md", "user_guide/index.md"),
}
PAGES = [
    *(ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"),
    *(ROOT / "skxmc" / "datasets" / "data" / "README.md", *DOCS),
]

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page):
    return page.relative_to(ROOT).as_posix()


def local_links(page):
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def anchors(page):
    """Anchors of the headings, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [p for p in PAGES if ">>>" in p.read_text("utf-8")], ids=name)
def test_examples_run_as_shown(page):
    failed, attempted = doctest.testfile(
        str(page),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        encoding="utf-8",
    )
    assert attempted > 0
    assert failed == 0  # doctest has printed what differs


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page):
    for link in local_links(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.is_relative_to(ROOT), f"{link} leaves the repository"
        assert path.exists(), f"{link}: {path} does not exist"
        assert not anchor or anchor in anchors(path), f"{link}: no such heading"


def test_each_page_is_reached_from_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in local_links(index)}
    linked |= {index, *(index.parent / page for page in OF_THE_SITE)}
    assert [name(page) for page in DOCS if page not in linked] == []


def test_each_page_is_in_a_table_of_contents_of_the_site():
    listed = set()
    for page in DOCS:
        for entries in re.findall(
            r"^```\{toctree\}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S
        ):
            for entry in entries.splitlines():
                if entry and not entry.startswith(":"):
                    listed |= set(page.parent.glob(f"{entry}.md"))
    outside = {index for index in DOCS if name(index) in ("docs/README.md", "docs/index.md")}
    assert [name(page) for page in DOCS if page not in listed | outside] == []


def test_readme_leads_to_the_index():
    assert "docs/README.md" in local_links(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_that_pages_name_exist(page):
    scripts = re.findall(r"\b(?:examples|benchmarks|tools)/\w+\.py", page.read_text("utf-8"))
    assert [script for script in scripts if not (ROOT / script).exists()] == []


@pytest.mark.parametrize(
    ("page", "estimator"), [("linear.md", DismecClassifier), ("trees.md", ParabelTree)]
)
def test_the_page_of_an_estimator_explains_each_parameter(page, estimator):
    text = (ROOT / "docs" / "user_guide" / page).read_text("utf-8")
    explained = {
        word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", code)
    }
    assert set(estimator().get_params()) - explained == set()
