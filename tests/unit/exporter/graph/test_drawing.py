"""The picture of a graph of features: every node, no box on another, every edge downwards."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest

from tests.support.feature_forms import CASES
from tests.support.feature_parity import COLUMNS
from timberline.exporter.compiler.compile import trace_feature_graph
from timberline.exporter.graph.drawing import draw_graph
from timberline.training.features import parse_features

_SVG = "{http://www.w3.org/2000/svg}"
_FORMS = {
    "one": ("i",),
    "constant beside": ("i", "j", "i + j * 2"),
    "text": ("lower(u) = 'red'", "length(t)", "t || u LIKE 'a%'"),
    "all": tuple(form for forms in CASES.values() for form in forms[:1]),
}


def _draw(forms: tuple[str, ...]) -> tuple[ElementTree.Element, int]:
    sql = ", ".join(f"{form} AS f{index}" for index, form in enumerate(forms))
    program = parse_features(f"SELECT {sql} FROM raw", COLUMNS).narrow()
    model, shares = trace_feature_graph(program, 18)
    picture = draw_graph(model, shares, program.names, "a <b> & c")
    return ElementTree.fromstring(picture), len(model.graph.node)


@pytest.mark.parametrize("forms", _FORMS.values(), ids=list(_FORMS))
def test_picture_has_every_node_beside_each_other_and_inside(forms: tuple[str, ...]) -> None:
    """A box under another one hides what somebody looks for."""
    picture, count = _draw(forms)
    boxes = [
        tuple(float(rect.get(name, "0")) for name in ("x", "y", "width", "height"))
        for rect in picture.iter(f"{_SVG}rect")
        if rect.get("rx")
    ]
    texts = {text.text for text in picture.iter(f"{_SVG}text")}
    inputs_and_output = len(texts & {"numeric", "text", "features"})
    assert len(boxes) == count + inputs_and_output
    width, height = float(picture.get("width", "0")), float(picture.get("height", "0"))
    for x, y, w, h in boxes:
        assert 0 <= x <= width - w
        assert 0 <= y <= height - h
    for (ax, ay, aw, ah), (bx, by, bw, bh) in itertools.combinations(boxes, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay


@pytest.mark.parametrize("forms", _FORMS.values(), ids=list(_FORMS))
def test_every_edge_goes_down(forms: tuple[str, ...]) -> None:
    """What is read stands above what reads it; nothing else tells the direction."""
    picture, _ = _draw(forms)
    edges = [path.get("d", "") for path in picture.iter(f"{_SVG}path")]
    assert edges
    for edge in edges:
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", edge)]
        assert numbers[1] < numbers[-1], edge


def test_the_same_graph_is_the_same_picture_and_names_are_escaped() -> None:
    """Two pictures are compared as files are; a feature's name may hold anything."""
    first, second = (ElementTree.tostring(_draw(_FORMS["text"])[0]) for _ in range(2))
    assert first == second
    assert b"a &lt;b&gt; &amp; c" in first
