"""The report: its numbers against brute force, its page in a browser."""

import html
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc import DismecClassifier
from skxmc.datasets import make_xmc_classification
from skxmc.inspection import XMCReport
from skxmc.inspection import _report_numbers as numbers
from skxmc.label_space import inverse_propensity
from skxmc.metrics import evaluate_topk
from skxmc.metrics._inputs import rank
from skxmc.ops.topk import TopK

KS = (1, 3, 5)

# The labels are complete, so that propensities do not fit them.
pytestmark = pytest.mark.filterwarnings("ignore::skxmc.label_space.PropensityWarning")


@pytest.fixture(scope="module")
def problem():
    """Labels of random rows, and ranked answers that are better than chance; some rows short."""
    rng = np.random.default_rng(0)
    n_rows, n_labels = 120, 40
    frequency = np.linspace(0.4, 0.01, n_labels)
    Y = (rng.random((n_rows, n_labels)) < frequency).astype(np.uint8)
    Y[5] = 0
    scores = np.clip(0.5 * Y * rng.random(Y.shape) + 0.5 * rng.random(Y.shape) * frequency, 0, 1)
    labels = np.argsort(-scores, axis=1, kind="stable")[:, :5].astype(np.int32)
    values = np.take_along_axis(scores, labels, axis=1).astype(np.float32)
    labels[7, 3:], values[7, 3:] = -1, 0
    labels[8], values[8] = -1, 0
    for i in range(10, 14):  # rows with wrong answers only
        labels[i] = np.flatnonzero(Y[i] == 0)[:5]
    counts = rng.poisson(1000 * frequency)
    return sp.csr_array(Y), TopK(labels, values), counts


@pytest.fixture(scope="module")
def report(problem):
    Y, answers, counts = problem
    return XMCReport.from_predictions(
        *(Y, answers),
        ks=KS,
        label_counts=counts,
        n_train=2000,
        label_names=[f"label {j}" for j in range(40)],
        texts=[f"text {i}" for i in range(120)],
        n_bootstrap=200,
        title="A title",
    )


# ------------------------------------------------------------------ numbers


def test_values_are_those_of_evaluate_topk(problem, report):
    Y, answers, counts = problem
    expected = evaluate_topk(
        *(Y, answers, KS), inv_propensity=inverse_propensity(counts, 2000), calibration=True
    )
    for name, estimate in report.metrics.items():
        assert estimate.value == pytest.approx(expected[name], abs=1e-12), name
    for name, estimate in report.calibration.items():
        assert estimate.value == pytest.approx(expected[name]), name
    left_out = set(expected) - set(report.metrics) - set(report.calibration)
    assert {name.partition("@")[0] for name in left_out} == {"PSR", "ACE", "NLL"}


def test_intervals_hold_the_values(report):
    for name, (value, low, high) in report.metrics.items():
        if name.startswith("coverage"):
            assert low is None
        else:
            assert low < value < high, name


def test_weighted_metrics_are_those_of_repeated_rows(problem):
    """A weight is how often a row occurs: compare with rows that really do."""
    Y, answers, counts = problem
    times = np.random.default_rng(1).integers(1, 4, Y.shape[0])
    repeated = np.repeat(np.arange(Y.shape[0]), times)
    again = TopK(answers.labels[repeated], answers.scores[repeated])
    inverse = inverse_propensity(counts, 2000)
    expected = numbers.estimate_metrics(rank(Y[repeated], again, 5), KS, inverse, n_bootstrap=0)
    ranking = rank(Y, answers, 5)
    weights = times / times.sum()
    macro = numbers._LabelCounts(ranking, KS).macro(weights) / Y.shape[1]
    for i, metric in enumerate(("P", "R", "F1")):
        for k, value in zip(KS, macro[i], strict=True):
            assert value == pytest.approx(expected[f"macro-{metric}@{k}"].value)
    for name, (top, bottom) in numbers.row_values(ranking, KS, inverse).items():
        value = weights @ top / (1 if bottom is None else weights @ bottom)
        assert value == pytest.approx(expected[name].value)


def test_interval_covers_the_true_value_as_often_as_it_says():
    """P@1 of rows whose best answer is right with probability 0.3; 90 % intervals."""
    rng = np.random.default_rng(2)
    covered, n_trials = 0, 200
    for _ in range(n_trials):
        hits = rng.random(80) < 0.3
        Y = sp.csr_array(np.stack([hits, ~hits], axis=1).astype(np.uint8))
        answers = TopK(np.zeros((80, 1), np.int32), np.ones((80, 1), np.float32))
        estimate = numbers.estimate_metrics(
            rank(Y, answers, 1), [1], n_bootstrap=150, confidence_level=0.9, rng=rng
        )["P@1"]
        covered += estimate.low <= 0.3 <= estimate.high
    # binomial: 180 +- 4 standard deviations of 4.2
    assert 163 <= covered <= 197


def test_bins_add_up_and_agree_with_a_loop(problem, report):
    Y, answers, counts = problem
    assert sum(one.contribution for one in report.bins) == pytest.approx(
        report.metrics["P@5"].value
    )
    assert sum(one.n_labels for one in report.bins) == 40
    assert sum(one.n_true for one in report.bins) == Y.nnz
    volumes = [one.mean_count * one.n_labels for one in report.bins]
    assert sum(volumes) == pytest.approx(counts.sum())
    # no bin is further from a fifth than its largest label
    assert max(abs(v - counts.sum() / 5) for v in volumes) <= counts.max()
    means = [one.mean_count for one in report.bins]
    assert means == sorted(means, reverse=True)

    order = np.argsort(-counts, kind="stable")
    dense, start = Y.toarray().astype(int), 0
    for one in report.bins:
        mine = set(order[start : start + one.n_labels].tolist())
        start += one.n_labels
        found = possible = 0
        for i, row in enumerate(answers.labels.tolist()):
            found += sum(j in mine and dense[i, j] for j in row if j >= 0)
            possible += min(5, sum(dense[i, j] for j in mine))
        assert one.contribution == pytest.approx(found / (5 * 120))
        assert one.possible == pytest.approx(possible / (5 * 120))
        assert one.recall == pytest.approx(found / one.n_true)


def test_worst_labels_agree_with_a_loop(problem, report):
    Y, answers, _ = problem
    dense = Y.toarray().astype(int)
    f1 = {}
    for j in range(40):
        true = dense[:, j] == 1
        given = (answers.labels == j).any(axis=1)
        if true.sum() >= 5:
            f1[j] = 2 * (true & given).sum() / (true.sum() + given.sum())
    wanted = sorted(f1, key=lambda j: (f1[j], -dense[:, j].sum(), j))[:20]
    assert [one.label for one in report.worst] == wanted
    for one in report.worst:
        assert one.f1 == pytest.approx(f1[one.label])
        missed = [
            i for i in range(120) if dense[i, one.label] and one.label not in answers.labels[i]
        ]
        for other, times in one.instead:
            wrong = sum(other in answers.labels[i] and not dense[i, other] for i in missed)
            assert times == wrong


def test_examples_are_what_they_are_called(problem, report):
    dense = problem[0].toarray()
    assert report.right
    assert report.wrong
    for one in report.right:
        assert sum(right for _, _, right in one.answers) == dense[one.row].sum() > 0
        assert one.n_missed == 0
    tops = [one.answers[0][1] for one in report.wrong]
    assert tops == sorted(tops, reverse=True)
    for one in report.wrong:
        assert not any(right for _, _, right in one.answers)
        assert one.n_missed == dense[one.row].sum()


def test_report_of_an_estimator_is_that_of_its_answers():
    data = make_xmc_classification(200, 50, 12, random_state=0)
    train, test = slice(0, 150), slice(150, None)
    model = DismecClassifier().fit(data.X[train], data.Y[train])
    report = XMCReport.from_estimator(
        model, data.X[test], data.Y[test], Y_train=data.Y[train], n_bootstrap=0
    )
    expected = evaluate_topk(data.Y[test], model.predict_proba(data.X[test]), calibration=True)
    for name in ("P@5", "nDCG@3", "macro-F1@1"):
        assert report.metrics[name].value == pytest.approx(expected[name])
    assert report.calibration["Brier@5"].value == pytest.approx(expected["Brier@5"], abs=1e-6)
    assert report.metrics["P@1"].low is None
    json.dumps(report.to_dict(), allow_nan=False)


def test_same_seed_same_report(problem):
    Y, answers, _ = problem
    first, second, other = (
        XMCReport.from_predictions(Y, answers, n_bootstrap=20, random_state=seed).metrics
        for seed in (0, 0, 1)
    )
    assert first == second
    assert first != other


def test_margins_have_no_calibration(problem):
    Y, answers, _ = problem
    report = XMCReport.from_predictions(
        Y, TopK(answers.labels, 10 * answers.scores - 5), n_bootstrap=0
    )
    assert report.calibration is None
    page = report.to_html()
    assert 'id="reliability"' not in page
    assert 'id="bins"' in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"texts": ["a"]}, "texts must have one entry for each row, 120; got 1"),
        ({"label_names": ["a"]}, "label_names must have one entry for each label, 40"),
        ({"label_counts": [1, 2]}, "label_counts"),
        ({"n_bootstrap": -1}, "n_bootstrap"),
        ({"confidence_level": 1.0}, "confidence_level"),
        ({"ks": (1, 9)}, "too few for k=9"),
    ],
)
def test_wrong_arguments(problem, options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        XMCReport.from_predictions(*problem[:2], **options)


# ------------------------------------------------------------------ the page

EVIL = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "&lt;{{ 7 * 7 }}</p></main>'\" \x00\u202e <svg onload=alert(1)>"
)


@pytest.fixture(scope="module")
def evil_page(problem):
    Y, answers, counts = problem
    report = XMCReport.from_predictions(
        *(Y, answers),
        label_counts=counts,
        n_train=2000,
        label_names=[f"{EVIL} {j}" for j in range(40)],
        texts=[f"{EVIL} {'very' * 100} {i}" for i in range(120)],
        n_bootstrap=20,
        title=EVIL,
        model_name=EVIL,
    )
    return report.to_html()


def test_page_is_self_contained(report, tmp_path):
    page = report.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    assert page.count("<svg") == 3
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith("#") for link in links)
    assert "<script" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {
        f"#{found}" for found in re.findall(r'id="([^"]*)"', page)
    }
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_texts_are_escaped(evil_page):
    assert "<script" not in evil_page
    assert "<img" not in evil_page
    assert "onload=alert(1)>" not in evil_page
    assert html.escape("<script>document", quote=False) in evil_page
    assert "{{ 7 * 7 }}" in evil_page


def find_browser():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A function that opens pages side by side in a headless Chromium and measures them."""
    program = find_browser()
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no Chromium: run tools/ensure_browser.sh")
        pytest.skip("there is no Chromium")
    folder = tmp_path_factory.mktemp("browser")

    def measure(pages, width):
        frames = "".join(
            f'<iframe style="width:{width}px;height:800px;border:0" '
            f'srcdoc="{html.escape(page, quote=True)}"></iframe>'
            for page in pages
        )
        wrapper = folder / "wrapper.html"
        wrapper.write_text(
            f'<!DOCTYPE html><meta charset="utf-8"><body>{frames}<pre id="out"></pre><script>'
            + MEASURE
            + "</script>",
            encoding="utf-8",
        )
        done = subprocess.run(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu"),
                *("--disable-dev-shm-usage", "--window-size=1400,900", "--no-first-run"),
                *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000"),
                *("--enable-logging=stderr", "--dump-dom", wrapper.as_uri()),
            ],
            capture_output=True,
            timeout=240,
        )
        out = re.search(r'<pre id="out">(.*?)</pre>', done.stdout.decode("utf-8"), re.DOTALL)
        assert out, done.stderr.decode()[-2000:]
        console = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
        return json.loads(html.unescape(out.group(1))), console

    return measure


MEASURE = """
addEventListener("load", () => {
  const result = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const box = element => element.getBoundingClientRect();
    const shown = [...page.querySelectorAll("svg.plot")];
    return {
      title: page.title,
      width: root.clientWidth,
      needed: root.scrollWidth,
      height: root.scrollHeight,
      headings: [...page.querySelectorAll("h2")].map(h => h.textContent),
      plots: shown.map(svg => [box(svg).width, box(svg).height]),
      axes: shown.map(svg => [...svg.querySelectorAll("text")].map(t => t.textContent)),
      smallest: Math.min(...shown.flatMap(svg => [...svg.querySelectorAll("text")].map(
        t => box(t).height))),
      outside: shown.flatMap(svg => [...svg.querySelectorAll("text")].filter(t =>
        box(t).left < box(svg).left - 1 || box(t).right > box(svg).right + 1).map(
        t => t.textContent)),
      rows: page.querySelectorAll("#metrics tbody tr").length,
      chips: page.querySelectorAll("#examples li.hit").length,
      cut: [...page.querySelectorAll("section")].filter(s => box(s).right > root.clientWidth + 1)
        .length,
      scripts: page.querySelectorAll("script, img, iframe").length,
      ink: getComputedStyle(page.body).color,
      paper: getComputedStyle(page.body).backgroundColor,
      line: getComputedStyle(page.querySelector("svg.plot text")).fill,
    };
  });
  document.getElementById("out").textContent = JSON.stringify(result);
});
"""


@pytest.mark.parametrize("width", [375, 1200])
def test_page_in_a_browser(browser, report, evil_page, width):
    (page, evil), console = browser([report.to_html(), evil_page], width)
    assert console == []
    assert page["title"] == "A title"
    assert page["headings"] == [
        "Metrics",
        "By label frequency",
        "Reliability",
        "Precision against rare labels",
        "Worst labels",
        "Right",
        "Wrong",
    ]
    assert page["rows"] == 12
    assert page["chips"] > 0
    for one in (page, evil):
        assert one["needed"] <= one["width"]  # nothing to scroll sideways
        assert one["cut"] == 0
        assert one["scripts"] == 0
        assert len(one["plots"]) == 3
        assert all(w > 250 and h > 150 for w, h in one["plots"])
        assert one["outside"] == []
        assert one["smallest"] > 6
        assert one["line"] == one["ink"]
    labels = [" ".join(texts) for texts in page["axes"]]
    assert "share of P@5, percent" in labels[0]
    assert "Fraction right" in labels[1]
    assert "Probability of each of the 5 best answers" in labels[1]
    assert "macro F1@5, percent" in labels[2]
    assert "P@5, percent" in labels[2]
    # the title is text, and no script of the page has changed it
    assert evil["title"].startswith("<script>document.title='owned'</script>")
