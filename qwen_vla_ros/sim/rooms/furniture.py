"""
What stands in the rooms: pieces of furniture as lists of boxes, cylinders and balls.

A piece stands in its own frame: x to the right, y backwards (its back is at +y, against a wall
where it has one), z up from the floor; metres. Colour 'main' is the one that its name says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

COLOURS: Mapping[str, tuple[float, float, float]] = {
    'red': (0.80, 0.10, 0.10),
    'green': (0.12, 0.52, 0.18),
    'blue': (0.12, 0.28, 0.78),
    'yellow': (0.93, 0.77, 0.10),
    'purple': (0.47, 0.16, 0.62),
    'orange': (0.94, 0.43, 0.06),
    'white': (0.91, 0.91, 0.89),
    'black': (0.10, 0.10, 0.11),
    'brown': (0.42, 0.25, 0.12),
}
_FIXED = {
    'wood': (0.58, 0.40, 0.23),
    'dark': (0.20, 0.19, 0.19),
    'metal': (0.70, 0.71, 0.73),
    'cloth': (0.93, 0.92, 0.88),
    'leaf': (0.16, 0.45, 0.17),
    'glow': (1.00, 0.95, 0.76),
    'screen': (0.07, 0.09, 0.13),
    'water': (0.72, 0.85, 0.92),
}
BRIGHT = ('red', 'green', 'blue', 'yellow', 'purple', 'orange')

# shape, size (half extents of a box; radius and half height of a cylinder; radius of a ball;
# half axes of an egg), place of the centre, colour
Part = tuple[str, tuple[float, ...], tuple[float, float, float], str]


@dataclass(frozen=True)
class Kind:
    """
    A kind of furniture.

    width, depth, height  m, its box; width is along x
    at_wall               stands with its back to a wall; else anywhere
    colours               in which it comes
    """

    width: float
    depth: float
    height: float
    at_wall: bool
    colours: tuple[str, ...]
    parts: tuple[Part, ...]

    def scaled(self, across: float, up: float) -> 'Kind':
        """Return the kind with its footprint and its height times a factor."""
        if across == up == 1.0:
            return self
        parts = []
        for shape, size, (x, y, z), colour in self.parts:
            upright = shape != 'ball'
            last = size[-1] * (up if upright else across)
            grown = (*(across * value for value in size[:-1]), last)
            parts.append((shape, grown, (across * x, across * y, up * z), colour))
        box = across * self.width, across * self.depth, up * self.height
        return replace(self, width=box[0], depth=box[1], height=box[2], parts=tuple(parts))


def colour_of(part_colour: str, main: str) -> tuple[float, float, float]:
    """Return the RGB 0..1 of a part of a piece whose name says the colour main."""
    return COLOURS[main] if part_colour == 'main' else _FIXED[part_colour]


def _legs(
    width: float, depth: float, height: float, thick: float, colour: str
) -> tuple[Part, ...]:
    x, y = width / 2 - thick, depth / 2 - thick
    return tuple(
        ('box', (thick / 2, thick / 2, height / 2), (sx * x, sy * y, height / 2), colour)
        for sx in (-1, 1)
        for sy in (-1, 1)
    )


KINDS: Mapping[str, Kind] = {
    'chair': Kind(
        0.46, 0.48, 0.92, False, BRIGHT,
        (
            *_legs(0.44, 0.44, 0.44, 0.045, 'wood'),
            ('box', (0.22, 0.22, 0.03), (0, -0.01, 0.46), 'main'),
            ('box', (0.22, 0.025, 0.21), (0, 0.21, 0.71), 'main'),
        ),
    ),
    'armchair': Kind(
        0.86, 0.82, 0.85, True, BRIGHT,
        (
            ('box', (0.41, 0.38, 0.13), (0, 0, 0.19), 'main'),
            ('box', (0.29, 0.31, 0.06), (0, -0.05, 0.38), 'cloth'),
            ('box', (0.41, 0.09, 0.40), (0, 0.31, 0.45), 'main'),
            ('box', (0.075, 0.38, 0.28), (-0.35, 0, 0.34), 'main'),
            ('box', (0.075, 0.38, 0.28), (0.35, 0, 0.34), 'main'),
        ),
    ),
    'sofa': Kind(
        1.80, 0.84, 0.82, True, BRIGHT,
        (
            ('box', (0.88, 0.39, 0.13), (0, 0, 0.19), 'main'),
            ('box', (0.36, 0.31, 0.06), (-0.38, -0.06, 0.38), 'main'),
            ('box', (0.36, 0.31, 0.06), (0.38, -0.06, 0.38), 'main'),
            ('box', (0.88, 0.09, 0.38), (0, 0.32, 0.44), 'main'),
            ('box', (0.07, 0.39, 0.26), (-0.82, 0, 0.34), 'main'),
            ('box', (0.07, 0.39, 0.26), (0.82, 0, 0.34), 'main'),
            ('box', (0.17, 0.06, 0.14), (-0.55, 0.16, 0.55), 'cloth'),
        ),
    ),
    'table': Kind(
        1.20, 0.80, 0.74, False, (*BRIGHT, 'white', 'brown'),
        (
            *_legs(1.10, 0.70, 0.70, 0.06, 'dark'),
            ('box', (0.60, 0.40, 0.02), (0, 0, 0.72), 'main'),
        ),
    ),
    'desk': Kind(
        1.20, 0.62, 1.15, True, ('white', 'brown', 'black', 'blue', 'green'),
        (
            ('box', (0.60, 0.30, 0.02), (0, 0, 0.72), 'main'),
            ('box', (0.02, 0.29, 0.35), (-0.58, 0, 0.35), 'main'),
            ('box', (0.18, 0.29, 0.35), (0.42, 0, 0.35), 'main'),
            ('box', (0.27, 0.015, 0.17), (-0.08, 0.10, 0.97), 'screen'),
            ('box', (0.05, 0.04, 0.05), (-0.08, 0.11, 0.78), 'metal'),
            ('box', (0.22, 0.07, 0.008), (-0.08, -0.12, 0.748), 'metal'),
        ),
    ),
    'bed': Kind(
        1.50, 2.02, 0.95, True, BRIGHT,
        (
            ('box', (0.74, 1.00, 0.13), (0, 0, 0.16), 'wood'),
            ('box', (0.73, 0.98, 0.09), (0, -0.01, 0.37), 'cloth'),
            ('box', (0.745, 0.66, 0.10), (0, -0.34, 0.375), 'main'),
            ('box', (0.75, 0.03, 0.47), (0, 0.98, 0.47), 'wood'),
            ('box', (0.28, 0.18, 0.06), (-0.36, 0.70, 0.51), 'cloth'),
            ('box', (0.28, 0.18, 0.06), (0.36, 0.70, 0.51), 'cloth'),
        ),
    ),
    'wardrobe': Kind(
        1.20, 0.60, 1.90, True, ('white', 'brown', 'blue', 'green', 'red'),
        (
            ('box', (0.60, 0.28, 0.95), (0, 0.02, 0.95), 'main'),
            ('box', (0.004, 0.01, 0.88), (0, -0.265, 0.95), 'dark'),
            ('box', (0.012, 0.02, 0.12), (-0.07, -0.275, 1.0), 'metal'),
            ('box', (0.012, 0.02, 0.12), (0.07, -0.275, 1.0), 'metal'),
        ),
    ),
    'bookshelf': Kind(
        0.90, 0.32, 1.80, True, ('white', 'brown', 'black', 'red', 'yellow'),
        (
            ('box', (0.45, 0.015, 0.90), (0, 0.145, 0.90), 'main'),
            ('box', (0.015, 0.16, 0.90), (-0.435, 0, 0.90), 'main'),
            ('box', (0.015, 0.16, 0.90), (0.435, 0, 0.90), 'main'),
            *(
                ('box', (0.45, 0.16, 0.015), (0, 0, z), 'main')
                for z in (0.04, 0.48, 0.92, 1.36, 1.78)
            ),
            ('box', (0.16, 0.10, 0.14), (-0.22, 0.02, 0.64), 'water'),
            ('box', (0.13, 0.10, 0.16), (0.20, 0.02, 0.66), 'dark'),
            ('box', (0.20, 0.10, 0.15), (0.14, 0.02, 1.09), 'wood'),
            ('box', (0.12, 0.10, 0.13), (-0.26, 0.02, 1.07), 'cloth'),
            ('box', (0.22, 0.10, 0.15), (-0.12, 0.02, 0.21), 'leaf'),
        ),
    ),
    'counter': Kind(
        1.80, 0.62, 1.16, True, ('white', 'brown', 'blue', 'green', 'yellow'),
        (
            ('box', (0.89, 0.28, 0.43), (0, 0.02, 0.45), 'main'),
            ('box', (0.90, 0.31, 0.02), (0, 0, 0.90), 'dark'),
            ('box', (0.24, 0.18, 0.005), (-0.40, -0.02, 0.922), 'metal'),
            ('cylinder', (0.015, 0.12), (-0.40, 0.20, 1.03), 'metal'),
            ('cylinder', (0.09, 0.004), (0.32, -0.08, 0.924), 'screen'),
            ('cylinder', (0.09, 0.004), (0.60, -0.08, 0.924), 'screen'),
            *(('box', (0.10, 0.01, 0.008), (x, -0.27, 0.76), 'metal') for x in (-0.6, 0.0, 0.6)),
        ),
    ),
    'fridge': Kind(
        0.64, 0.66, 1.75, True, ('white', 'red', 'blue', 'black', 'green'),
        (
            ('box', (0.32, 0.31, 0.87), (0, 0.02, 0.88), 'main'),
            ('box', (0.31, 0.005, 0.006), (0, -0.293, 1.15), 'dark'),
            ('box', (0.014, 0.025, 0.16), (-0.25, -0.305, 1.38), 'metal'),
            ('box', (0.014, 0.025, 0.22), (-0.25, -0.305, 0.84), 'metal'),
        ),
    ),
    'television': Kind(
        1.30, 0.42, 1.20, True, ('black', 'white', 'brown'),
        (
            ('box', (0.65, 0.20, 0.21), (0, 0, 0.22), 'main'),
            ('box', (0.52, 0.02, 0.31), (0, 0.06, 0.84), 'screen'),
            ('box', (0.12, 0.09, 0.05), (0, 0.06, 0.48), 'dark'),
            ('box', (0.006, 0.205, 0.17), (0, -0.002, 0.22), 'dark'),
        ),
    ),
    'plant': Kind(
        0.46, 0.46, 1.15, False, ('white', 'red', 'blue', 'yellow', 'orange', 'purple'),
        (
            ('cylinder', (0.16, 0.16), (0, 0, 0.16), 'main'),
            ('cylinder', (0.02, 0.22), (0, 0, 0.50), 'wood'),
            ('egg', (0.20, 0.20, 0.26), (0, 0, 0.84), 'leaf'),
            ('egg', (0.13, 0.13, 0.17), (0.09, 0.06, 0.62), 'leaf'),
            ('egg', (0.12, 0.13, 0.16), (-0.09, -0.05, 0.66), 'leaf'),
        ),
    ),
    'lamp': Kind(
        0.40, 0.40, 1.55, False, (*BRIGHT, 'white'),
        (
            ('cylinder', (0.15, 0.015), (0, 0, 0.015), 'dark'),
            ('cylinder', (0.014, 0.62), (0, 0, 0.64), 'dark'),
            ('cylinder', (0.19, 0.14), (0, 0, 1.40), 'main'),
            ('cylinder', (0.17, 0.142), (0, 0, 1.40), 'glow'),
        ),
    ),
    'stool': Kind(
        0.36, 0.36, 0.50, False, BRIGHT,
        (
            *_legs(0.30, 0.30, 0.46, 0.035, 'metal'),
            ('cylinder', (0.17, 0.025), (0, 0, 0.475), 'main'),
        ),
    ),
    'toilet': Kind(
        0.40, 0.68, 0.80, True, ('white',),
        (
            ('egg', (0.18, 0.24, 0.20), (0, -0.08, 0.20), 'main'),
            ('cylinder', (0.18, 0.02), (0, -0.10, 0.40), 'main'),
            ('box', (0.19, 0.09, 0.19), (0, 0.24, 0.60), 'main'),
            ('box', (0.15, 0.12, 0.20), (0, 0.16, 0.20), 'main'),
        ),
    ),
    'bathtub': Kind(
        1.60, 0.74, 0.72, True, ('white', 'blue', 'green'),
        (
            ('box', (0.80, 0.37, 0.24), (0, 0, 0.25), 'main'),
            ('box', (0.72, 0.29, 0.012), (0, 0, 0.49), 'water'),
            ('box', (0.80, 0.03, 0.03), (0, 0.34, 0.51), 'main'),
            ('box', (0.80, 0.03, 0.03), (0, -0.34, 0.51), 'main'),
            ('cylinder', (0.018, 0.10), (0.62, 0.26, 0.60), 'metal'),
        ),
    ),
    'washbasin': Kind(
        0.62, 0.46, 1.45, True, ('white', 'blue', 'green'),
        (
            ('box', (0.30, 0.22, 0.20), (0, 0, 0.62), 'main'),
            ('cylinder', (0.09, 0.21), (0, 0.06, 0.21), 'main'),
            ('cylinder', (0.15, 0.006), (0, -0.02, 0.823), 'water'),
            ('box', (0.26, 0.006, 0.24), (0, 0.215, 1.20), 'water'),
        ),
    ),
}  # fmt: skip
