"""The graph of the features as SVG: a row of boxes a layer, from the inputs on top to the features below.

Constants are not drawn. Every edge goes down; one over several layers bends around the boxes between. Within
a layer, boxes stand near the middle of what they read, which is the method of Sugiyama, Tagawa and Toda
(1981), and are pushed apart from left to right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from xml.sax.saxutils import escape

import onnx

_LETTER, _LINE = 6.6, 15.0  # width and height of a monospaced text of 11 px
_GAP, _LAYER_GAP, _MARGIN = 18.0, 46.0, 24.0
_BEND_WIDTH = 8.0
_SWEEPS = 12
_SHOWN_NAMES, _NAME_LENGTH = 2, 26


@dataclass(eq=False)
class _Box:
    """A node, an input, the output or, without ``lines``, a bend of an edge."""

    lines: Sequence[str] = ()
    colour: str = ""
    layer: int = 0
    above: list[_Box] = field(default_factory=list)
    below: list[_Box] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        return (
            max((len(line) for line in self.lines), default=0) * _LETTER + 20 if self.lines else _BEND_WIDTH
        )

    @property
    def height(self) -> float:
        return len(self.lines) * _LINE + 10 if self.lines else 0.0


def draw_graph(
    model: onnx.ModelProto, shares: Mapping[str, Mapping[int, float]], names: Sequence[str], title: str
) -> str:
    """An SVG of the nodes of ``model``, each with the features that it is for.

    Args:
        model: a graph of features, its nodes in the order of computation.
        shares: by node, the features (by index) that it is for.
        names: the features' names.
        title: what stands above the picture.
    """
    layers = _spread_edges(_make_boxes(model, shares, names))
    _order(layers)
    width, height = _place(layers)
    boxes = [box for layer in layers for box in layer]
    edges = [_draw_edge(box, below) for box in boxes for below in box.below]
    shapes = [_draw_box(box) for box in boxes if box.lines]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}" font-family="monospace" font-size="11">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
            f'<text x="{_MARGIN}" y="{_MARGIN}" font-size="13">{escape(title)}</text>',
            f'<g fill="none" stroke="#8a94a0">{"".join(edges)}</g>',
            *shapes,
            "</svg>\n",
        ]
    )


def _make_boxes(
    model: onnx.ModelProto, shares: Mapping[str, Mapping[int, float]], names: Sequence[str]
) -> list[_Box]:
    makers: dict[str, _Box] = {}
    boxes = []
    for entry in model.graph.input:
        width = entry.type.tensor_type.shape.dim[1].dim_value
        makers[entry.name] = _Box([entry.name, f"{width:,} column{'s' * (width != 1)}"], "#dcebdc")
        boxes.append(makers[entry.name])
    for node in model.graph.node:
        owners = [names[index] for index in shares.get(node.name, {})]
        box = _Box([node.op_type, *_list_names(owners)], "#e3ebf5")
        for above in dict.fromkeys(makers[name] for name in node.input if name in makers):
            _connect(above, box)
        makers.update(dict.fromkeys(node.output, box))
        boxes.append(box)
    for entry in model.graph.output:
        count = entry.type.tensor_type.shape.dim[1].dim_value
        box = _Box([entry.name, f"{count:,} column{'s' * (count != 1)}"], "#f5e6cf")
        _connect(makers[entry.name], box)
        boxes.append(box)
    for box in boxes:
        box.layer = max((above.layer + 1 for above in box.above), default=0)
    return boxes


def _list_names(names: Sequence[str]) -> list[str]:
    if len(names) > _SHOWN_NAMES + 1:
        return [*(_cut(name) for name in names[:_SHOWN_NAMES]), f"and {len(names) - _SHOWN_NAMES:,} others"]
    return [_cut(name) for name in names]


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _connect(above: _Box, below: _Box) -> None:
    above.below.append(below)
    below.above.append(above)


def _spread_edges(boxes: Sequence[_Box]) -> list[list[_Box]]:
    """The boxes by layer, with a bend in every layer that an edge passes."""
    layers: list[list[_Box]] = [[] for _ in range(max(box.layer for box in boxes) + 1)]
    for box in boxes:
        layers[box.layer].append(box)
    for box in boxes:
        for below in list(box.below):
            if below.layer > box.layer + 1:
                _bend(box, below, layers)
    return layers


def _bend(box: _Box, below: _Box, layers: Sequence[list[_Box]]) -> None:
    box.below.remove(below)
    below.above.remove(box)
    last = box
    for layer in range(box.layer + 1, below.layer):
        bend = _Box(layer=layer)
        _connect(last, bend)
        layers[layer].append(bend)
        last = bend
    _connect(last, below)


def _order(layers: Sequence[list[_Box]]) -> None:
    """Few crossings: again and again each box at the mean place of those above it, then of those below."""
    for sweep in range(_SWEEPS):
        is_down = sweep % 2 == 0
        for layer in layers if is_down else reversed(layers):
            _number(layer)
            for box in layer:
                beside = box.above if is_down else box.below
                box.x = fmean(other.x for other in beside) if beside else box.x
            layer.sort(key=lambda box: box.x)
            _number(layer)


def _number(layer: Sequence[_Box]) -> None:
    for place, box in enumerate(layer):
        box.x = (place + 0.5) / len(layer)


def _place(layers: Sequence[list[_Box]]) -> tuple[float, float]:
    """Give each box its middle; returns width and height of the picture."""
    y = _MARGIN * 2
    for layer in layers:
        height = max(box.height for box in layer)
        x = 0.0
        for box in layer:
            box.x, box.y = x + box.width / 2, y + height / 2
            x += box.width + _GAP
        y += height + _LAYER_GAP
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = [_mean_place(box) for box in layer]
            _push_apart(layer, wanted)
    left = min(box.x - box.width / 2 for layer in layers for box in layer)
    for layer in layers:
        for box in layer:
            box.x += _MARGIN - left
    right = max(box.x + box.width / 2 for layer in layers for box in layer)
    return right + _MARGIN, y - _LAYER_GAP + _MARGIN


def _mean_place(box: _Box) -> float:
    beside = box.above + box.below
    return fmean(other.x for other in beside) if beside else box.x


def _push_apart(layer: Sequence[_Box], wanted: Sequence[float]) -> None:
    """Boxes in their order near where they want to be: between what pushing right and pushing left gives."""
    rightward, leftward = list(wanted), list(wanted)
    for index in range(1, len(layer)):
        room = (layer[index - 1].width + layer[index].width) / 2 + _GAP
        rightward[index] = max(rightward[index], rightward[index - 1] + room)
    for index in range(len(layer) - 2, -1, -1):
        room = (layer[index].width + layer[index + 1].width) / 2 + _GAP
        leftward[index] = min(leftward[index], leftward[index + 1] - room)
    for box, right, left in zip(layer, rightward, leftward, strict=True):
        box.x = (right + left) / 2


def _draw_edge(box: _Box, below: _Box) -> str:
    start, end = box.y + box.height / 2, below.y - below.height / 2
    middle = (start + end) / 2
    return (
        f'<path d="M{box.x:.1f} {start:.1f}C{box.x:.1f} {middle:.1f} {below.x:.1f} {middle:.1f} '
        f'{below.x:.1f} {end:.1f}"/>'
    )


def _draw_box(box: _Box) -> str:
    left, top = box.x - box.width / 2, box.y - box.height / 2
    styles = ['font-weight="bold"'] + ['fill="#555566"'] * (len(box.lines) - 1)
    texts = "".join(
        f'<text x="{box.x:.1f}" y="{top + 16 + index * _LINE:.1f}" text-anchor="middle" {style}>'
        f"{escape(line)}</text>"
        for index, (line, style) in enumerate(zip(box.lines, styles, strict=True))
    )
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="4" '
        f'fill="{box.colour}" stroke="#8a94a0"/>{texts}'
    )
