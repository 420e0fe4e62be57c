"""From a table to a served prediction, and a gate that keeps every later release honest.

The parts lie in folders of their own at the top of the checkout, and here as links. `timberline.registry` is
the lowest; which part may import which is written in `tests/contract/test_walls.py`.
"""

__version__ = "0.1.0"
