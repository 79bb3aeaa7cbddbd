"""The page of a report: drawings as inline SVG, and the template around them."""

import io
import re
from importlib.resources import files

import numpy as np

from skxmc.inspection._report import percent

# Replaced by the colour of the text, so that drawings follow the light or dark page.
_INK = "#010203"
_BLUE, _ORANGE, _GREY = "#3b82c4", "#d97a29", "#8a8f98"
_STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.facecolor": "none",
    "legend.edgecolor": "none",
    "legend.framealpha": 0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GREY,
    "grid.alpha": 0.25,
    "font.size": 11,
    "axes.titlesize": 11,
    "svg.fonttype": "none",
}
_WHAT = {
    "P": "precision: answers that are right",
    "nDCG": "precision, the first answers weigh more",
    "R": "recall: labels that are found",
    "hit-rate": "rows with a right answer",
    "PSP": "precision, rare labels weigh more",
    "PSnDCG": "nDCG, rare labels weigh more",
    "macro-P": "precision, mean over labels",
    "macro-R": "recall, mean over labels",
    "macro-F1": "F1, mean over labels",
    "coverage": "labels found at least once",
    "ECE": "calibration error; smaller is better",
    "Brier": "squared error of the probabilities; smaller is better",
}


def render(report):
    """Return the page of a report as a string."""
    try:
        import jinja2
        import matplotlib as mpl
    except ImportError as error:
        raise ImportError(
            "A report needs jinja2 and matplotlib: pip install 'skxmc[cli]'."
        ) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    source = files("skxmc.inspection").joinpath("report.html.j2").read_text(encoding="utf-8")
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        drawings = {
            "bins": _svg(_draw_bins(report), "bins", "Contribution to P@k by label frequency"),
            "reliability": _svg(_draw_reliability(report), "reliability", "Reliability diagram"),
            "tradeoff": _svg(_draw_tradeoff(report), "tradeoff", "Precision and macro F1"),
        }
    return environment.from_string(source).render(
        report=report,
        table=_table(report),
        drawings={name: jinja2.utils.markupsafe.Markup(svg) for name, svg in drawings.items()},
        name=report._name,
        level=f"{100 * report.confidence_level:g}",
    )


def _table(report):
    """Lines of the table of metrics: name, what it is, and an Estimate for each k."""
    values = {**report.metrics, **(report.calibration or {})}
    names = list(dict.fromkeys(entry.partition("@")[0] for entry in values))
    return [(name, _WHAT[name], [values.get(f"{name}@{k}") for k in report.ks]) for name in names]


def _figure(width=5.2, height=3.6, **options):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", **options)


def _draw_bins(report):
    figure = _figure()
    ax = figure.subplots()
    at = np.arange(len(report.bins))
    found = np.array([100 * one.contribution for one in report.bins])
    possible = np.array([100 * one.possible for one in report.bins])
    ax.bar(at, possible, width=0.7, color=_GREY, alpha=0.35, label="all of the bin's labels")
    ax.bar(at, found, width=0.7, color=_BLUE, label="found")
    for x, value in zip(at, found, strict=True):
        ax.annotate(f"{value:.1f}", (x, value), (0, 2), textcoords="offset points", ha="center")
    ax.set_xticks(
        at,
        [
            f"{i}\n{one.n_labels:,}\n{_short(one.mean_count)}"
            for i, one in enumerate(report.bins, 1)
        ],
    )
    ax.grid(False, axis="x")
    rows = "training rows" if report.has_counts else "rows"
    ax.set_xlabel(f"bin (1: frequent) / labels in it / {rows} of a label")
    ax.set_ylabel(f"share of P@{report.k}, percent")
    ax.margins(y=0.12)
    ax.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def _short(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _draw_reliability(report):
    from skxmc.inspection._reliability import ReliabilityDisplay

    if report.calibration is None:
        return None
    figure = _figure(height=4.4)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    ReliabilityDisplay.from_predictions(
        *(report._ranking.y_true, report._answers, report.k),
        n_bootstrap=min(200, report.n_bootstrap),
        confidence_level=report.confidence_level,
        random_state=report._seed,
        ax=tuple(axes),
        color=_BLUE,
    )
    return figure


def _draw_tradeoff(report):
    display = report._tradeoff()
    if display is None:
        return None
    figure = _figure(height=4.4)
    ax = figure.subplots()
    for name, color, marker, label in (
        ("mixture", _BLUE, "o", "decisions for a mixture"),
        ("power", _ORANGE, "s", "probabilities / frequency^α"),
    ):
        precision, value = display.curves[name]
        ax.plot(100 * value, 100 * precision, color=color, marker=marker, ms=4, label=label)
    precision, value = display.curves["mixture"]
    for i in (0, len(display.alphas) // 2, len(display.alphas) - 1):
        ax.annotate(
            *(f"{display.alphas[i]:g}", (100 * value[i], 100 * precision[i])),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=9,
        )
    ax.set_xlabel(f"macro F1@{report.k}, percent")
    ax.set_ylabel(f"P@{report.k}, percent")
    ax.legend(fontsize="small")
    return figure


def _svg(figure, name, title):
    """A drawing as an element of the page; an empty string for None."""
    if figure is None:
        return ""
    stream = io.StringIO()
    keep = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(stream, format="svg", metadata=keep)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # Its style would hold for the whole page, and its ids must differ from those of the others.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', _open_tag(title), text, count=1)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    text = re.sub(r"(font: [\d.]+px )[^;\"]*", r"\1sans-serif", text)
    return text.replace(_INK, "currentColor")


def _open_tag(title):
    return (
        r'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        rf'viewBox="\1" role="img" aria-label="{title}" class="plot">'
    )
