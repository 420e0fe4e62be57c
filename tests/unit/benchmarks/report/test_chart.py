"""Where values and marks come to lie."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from scipy.stats import norm

from timberline.benchmarks.report.chart import Chart, Scale, across

CHART_HEIGHT = 200


@pytest.fixture
def chart() -> Chart:
    """0 to 10 across, -1 to 1 upwards, 200 pixels high."""
    return Chart(across(0, 10), -1, 1, CHART_HEIGHT)


def find(chart: Chart, element: str, class_: str) -> Iterator[dict[str, str]]:
    """Attributes of the drawn elements of a class; parsing also proves that the drawing is well-formed."""
    for found in ElementTree.fromstring(chart.render("a chart")).iter(element):
        if class_ in found.get("class", "").split():
            yield dict(found.attrib)


def test_a_dot_lies_at_its_values_and_has_a_tooltip(chart: Chart) -> None:
    """Percent across, so that it fits a phone; pixels down; larger values higher up."""
    chart.dot(2.5, 0.5, "candidate", "restart 1: +50 %")
    (dot,) = find(chart, "circle", "candidate")
    assert (dot["cx"], dot["cy"]) == ("25%", "50")
    assert "<title>restart 1: +50 %</title>" in chart.render("a chart")


def test_a_curve_is_drawn_in_the_stretched_inner_picture(chart: Chart) -> None:
    """A path knows no percent: its numbers are those of a picture 100 wide that is stretched."""
    chart.line([(0, -1), (5, 0), (10, 1)], "candidate")
    (path,) = find(chart, "path", "line")
    assert path["d"] == "M0 200L50 100L100 0"
    assert 'viewBox="0 0 100 200"' in chart.render("a chart")
    assert 'preserveAspectRatio="none"' in chart.render("a chart")


@pytest.mark.parametrize(
    ("low", "high", "strokes"),
    [
        (2, 8, [("20%", 0, 0), ("80%", 0, 0)]),
        (2, 12, [("20%", 0, 0), ("100%", 0, -4), ("100%", 0, -4)]),
        (-3, 8, [("0%", 0, 4), ("0%", 0, 4), ("80%", 0, 0)]),
        (11, 12, [("100%", 0, -4)] * 4),
    ],
)
def test_an_interval_that_leaves_the_picture_has_an_arrow(
    chart: Chart, low: float, high: float, strokes: list[tuple[str, float, float]]
) -> None:
    """An end stroke at the edge would say that the interval ended there."""
    chart.whisker_x(low, high, 0, "block")
    drawn = re.findall(
        r'<svg [^>]*x="([^"]+)"[^>]*><line x1="([^"]+)" y1="[^"]+" x2="([^"]+)"', str(chart.render(""))
    )
    assert [(at, float(x1), float(x2)) for at, x1, x2 in drawn] == strokes


def test_an_upright_interval_spans_its_values(chart: Chart) -> None:
    """The interval is what the verdict rests on."""
    chart.whisker_y(5, -0.5, 1, "mean")
    span = next(find(chart, "line", "mean"))
    assert (span["x1"], span["y1"], span["x2"], span["y2"]) == ("50%", "150", "50%", "0")


def test_rules_cross_the_whole_area_and_names_stay_inside(chart: Chart) -> None:
    """A name at the right edge is set on the left of its line, or a phone would cut it."""
    chart.rule_x(9, "limit", "limit")
    chart.rule_y(0, "zero")
    upright, level = (next(find(chart, "line", name)) for name in ("limit", "zero"))
    assert (upright["x1"], upright["y1"], upright["y2"]) == ("90%", "0", "200")
    assert (level["x1"], level["x2"], level["y1"]) == ("0", "100%", "100")
    assert "end" in next(find(chart, "text", "limit"))["class"]


def test_ticks_are_labelled_below_and_at_the_left(chart: Chart) -> None:
    """Labels lie outside of the area, where no mark can hide them."""
    chart.axis_x(str, "restart", count=5)
    chart.axis_y(str, count=4)
    labels = list(find(chart, "text", "tick"))
    below = [label for label in labels if label["x"].endswith("%")]
    left = [label for label in labels if label["x"] == "-8"]
    assert all(float(label["y"]) > CHART_HEIGHT for label in below)
    assert [label["x"] for label in below] == ["0%", "20%", "40%", "60%", "80%", "100%"]
    assert len(left) == 5


def test_a_label_reaches_a_reader_who_cannot_see_the_chart(chart: Chart) -> None:
    """A picture without words is nothing to a screen reader."""
    assert 'role="img"' in chart.render('p50 < 1 "ms"')
    assert 'aria-label="p50 &lt; 1 &#34;ms&#34;"' in chart.render('p50 < 1 "ms"')


@pytest.mark.parametrize(
    ("scale", "values", "places"),
    [
        (Scale(-1, 3, 0, 100), (-1, 0, 3), (0, 25, 100)),
        (Scale(0, 10, 200, 0), (0, 5, 10), (200, 100, 0)),
        (Scale(0.1, 10, 0, 100, "log"), (0.1, 1, 10), (0, 50, 100)),
        (Scale(0.01, 0.99, 0, 100, "normal"), (0.01, 0.5, 0.99), (0, 50, 100)),
    ],
)
def test_values_go_to_their_places(
    scale: Scale, values: tuple[float, ...], places: tuple[float, ...]
) -> None:
    """A picture that is off is worse than none."""
    assert [scale(value) for value in values] == pytest.approx(places)


@pytest.mark.parametrize(
    "scale", [Scale(0, 1, 0, 100), Scale(0.1, 1, 0, 100, "log"), Scale(0.01, 0.9, 0, 100, "normal")]
)
def test_what_lies_outside_is_drawn_at_the_edge(scale: Scale) -> None:
    """One frozen second must not draw over the rest of the page."""
    assert (scale(-5), scale(5)) == (0, 100)


@pytest.mark.parametrize("scale", [Scale(2, 2, 0, 100), Scale(2, 2, 0, 100, "log")])
def test_a_scale_without_length_puts_all_into_the_middle(scale: Scale) -> None:
    """Twice the same version: every difference may be 0."""
    assert scale(2) == 50


def test_normal_places_are_those_of_scipy() -> None:
    """The percentile axis is the normal quantile function."""
    scale = Scale(0.01, 0.99, norm.ppf(0.01), norm.ppf(0.99), "normal")
    assert [scale(share) for share in (0.05, 0.3, 0.97)] == pytest.approx(norm.ppf([0.05, 0.3, 0.97]))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (-0.013, 0.022, [-0.01, -0.005, 0, 0.005, 0.01, 0.015, 0.02]),
        (0.99, 1.21, [1.0, 1.05, 1.1, 1.15, 1.2]),
        (5, 5, [5]),
    ],
)
def test_linear_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    """Nobody reads an axis of 0.0137."""
    assert Scale(low, high, 0, 1).ticks(5) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.3, 12, [0.5, 1, 2, 5, 10]),
        (0.2, 1000, [0.3, 1, 3, 10, 30, 100, 300, 1000]),
        (1e-3, 1e5, [1e-3, 1e-2, 1e-1, 1, 10, 100, 1e3, 1e4, 1e5]),
    ],
)
def test_log_ticks_thin_out_with_the_range(low: float, high: float, ticks: list[float]) -> None:
    """Latencies span two decades on a good day and five on a bad one."""
    assert Scale(low, high, 0, 1, "log").ticks(7) == pytest.approx(ticks)


def test_normal_ticks_are_named_percentiles() -> None:
    """p50 and p99 are what is judged."""
    scale = Scale(0.01, 0.99, 0, 100, "normal")
    assert {0.01, 0.5, 0.99} <= set(scale.ticks(7))


def test_no_number_is_lost_to_a_log_scale() -> None:
    """A time of 0 has no logarithm, but it may be measured."""
    assert math.isfinite(Scale(0.1, 1, 0, 100, "log")(0.0))


@pytest.mark.parametrize(
    ("value", "text"), [(1 / 3, "0.33"), (-0.001, "0"), (12.5, "12.5"), (100, "100"), (1e6, "1000000")]
)
def test_numbers_have_two_decimals_at_most(chart: Chart, value: float, text: str) -> None:
    """A page has thousands of them; an exponent or a "-0" is not valid everywhere in SVG."""
    chart.dot(0, 0, "candidate", "", radius=value)
    assert next(find(chart, "circle", "candidate"))["r"] == text


def test_text_in_a_chart_is_escaped(chart: Chart) -> None:
    """Names of classes come from data."""
    chart.dot(0, 0, "candidate", "</title><script>")
    chart.ticks_x([(0, "<b>")])
    assert "<script" not in chart.render('"><script>')
    assert "<b>" not in chart.render("")
