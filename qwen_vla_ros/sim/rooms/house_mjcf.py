"""
House -> MJCF: floors, walls, doorframes, ceiling and furniture of primitives, and the base.

Groups: 0 floor and furniture, 1 upper walls and 2 ceiling (left out when seen from above), 3 what
collides, never drawn: each wall and each piece's box, as on the map of free floor; 4 the base.
"""

from collections.abc import Iterator
from xml.sax.saxutils import quoteattr

import numpy as np

from qwen_vla_ros.sim.rooms.furniture import colour_of
from qwen_vla_ros.sim.rooms.house import DOOR, WALL, Box, Doorway, House, Piece, Room

FLOOR, UPPER, CEILING, SOLID, BASE = 0, 1, 2, 3, 4
# What a camera draws, by group.
SEEN_INSIDE, SEEN_ABOVE, SEEN_EMPTY = (1, 1, 1, 0, 1, 0), (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, 0)
HEIGHT = 2.4  # m, of the rooms
DOOR_HEIGHT = 2.05
LOW_WALL = 1.0  # m, up to where walls are seen from above
RADIUS, BASE_HEIGHT = 0.17, 0.60  # m, the base: a Create 3 and LoCoBot's tower
# The camera as in config/robots/mobile_base.urdf; its width of view is the D435's there.
CAMERA = (0.0888, 0.0, 0.56615)
CAMERA_TILT = 0.3  # rad, downwards
CAMERA_FOVX = 0.994837

_TINT = {
    'kitchen': ((0.93, 0.90, 0.80), (0.84, 0.83, 0.80), (0.64, 0.64, 0.62)),
    'living room': ((0.88, 0.90, 0.86), (0.64, 0.46, 0.29), (0.57, 0.40, 0.25)),
    'bedroom': ((0.82, 0.87, 0.93), (0.74, 0.60, 0.44), (0.68, 0.54, 0.39)),
    'bathroom': ((0.80, 0.91, 0.91), (0.88, 0.90, 0.91), (0.55, 0.69, 0.74)),
    'office': ((0.91, 0.88, 0.90), (0.45, 0.47, 0.50), (0.41, 0.43, 0.46)),
    'dining room': ((0.94, 0.86, 0.79), (0.52, 0.36, 0.23), (0.46, 0.31, 0.19)),
}  # wall, and the floor's two colours
_TILE = {'kitchen': 0.4, 'bathroom': 0.25, 'office': 0.6}  # m; others have planks
_SHAPE = {'box': 'box', 'cylinder': 'cylinder', 'ball': 'sphere', 'egg': 'ellipsoid'}


def house_xml(house: House) -> str:
    """Return the whole model; the base has joints x, y, yaw and the camera 'ego'."""
    middle = (house.width / 2, house.depth / 2)
    return f"""<mujoco model="rooms">
  <option timestep="0.01" gravity="0 0 0"/>
  <visual>
    <headlight ambient="0.42 0.42 0.42" diffuse="0.24 0.24 0.24" specular="0 0 0"/>
    <map znear="0.01" zfar="60"/>
    <global offwidth="1280" offheight="960"/>
    <quality shadowsize="0" offsamples="4"/>
  </visual>
  <statistic center="{_text(middle)} 0" extent="4"/>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1="0.75 0.82 0.90" rgb2="0.93 0.95 0.97"
      width="64" height="64"/>
    <material name="ceiling" rgba="0.93 0.93 0.92 1" emission="0.45" specular="0"/>
    {''.join(_materials(room, i) for i, room in enumerate(house.rooms))}
  </asset>
  <worldbody>
    {''.join(_light(room) for room in house.rooms)}
    {''.join(line for i, room in enumerate(house.rooms) for line in _room(house, room, i))}
    {''.join(line for doorway in house.doorways for line in _doorframe(doorway))}
    {''.join(_piece(piece) for piece in house.pieces)}
    {_base()}
    <camera name="above" pos="{_text(middle)} 12" xyaxes="1 0 0 0 1 0"/>
  </worldbody>
</mujoco>"""


def _materials(room: Room, index: int) -> str:
    """Return the material of a floor: tiles, or planks with joints."""
    _, light, dark = _TINT[room.name]
    tile = _TILE.get(room.name)
    if tile is None:
        size, mark, pixels = (0.9, 0.16), 'edge', (128, 24)
    else:
        size, mark, pixels = (2 * tile, 2 * tile), 'edge', (64, 64)
    second = dark if tile else light
    repeat = ' '.join(f'{1 / value:.4f}' for value in size)
    return (
        f'<texture name="floor{index}" type="2d" builtin="checker" rgb1="{_text(light)}" '
        f'rgb2="{_text(second)}" mark="{mark}" markrgb="{_text(dark)}" '
        f'width="{pixels[0]}" height="{pixels[1]}"/>'
        f'<material name="floor{index}" texture="floor{index}" texrepeat="{repeat}" '
        'texuniform="true" specular="0.1"/>'
    )


def _light(room: Room) -> str:
    """Return a lamp under the ceiling, which lights its surroundings only."""
    x, y = (room.box.x0 + room.box.x1) / 2, (room.box.y0 + room.box.y1) / 2
    return (
        f'<light pos="{x:.3f} {y:.3f} 2.2" dir="0 0 -1" cutoff="100" exponent="1" '
        'attenuation="1 0 0.25" diffuse="0.48 0.47 0.45" specular="0.05 0.05 0.05" '
        'castshadow="false"/>'
    )


def _room(house: House, room: Room, index: int) -> Iterator[str]:
    """Return floor, ceiling, walls in two heights, and skirting boards."""
    tint, _, dark = _TINT[room.name]
    yield _slab(room.box, -0.02, 0.0, FLOOR, material=f'floor{index}')
    yield _slab(room.box, HEIGHT, HEIGHT + 0.02, CEILING, material='ceiling')
    for wall in house.walls(room):
        yield _slab(wall, 0.0, LOW_WALL, FLOOR, tint)
        yield _slab(wall, LOW_WALL, HEIGHT, UPPER, tint)
        yield _slab(wall, 0.0, HEIGHT, SOLID)
        skirting = Box(
            max(wall.x0 - 0.012, room.box.x0), max(wall.y0 - 0.012, room.box.y0),
            min(wall.x1 + 0.012, room.box.x1), min(wall.y1 + 0.012, room.box.y1),
        )  # fmt: skip
        yield _slab(skirting, 0.0, 0.09, FLOOR, tuple(0.55 * value for value in dark))


def _doorframe(doorway: Doorway) -> Iterator[str]:
    """Return the lintel and a wooden frame."""
    wood, box, thick = (0.50, 0.34, 0.20), doorway.box, WALL + 0.015
    yield _slab(box, DOOR_HEIGHT, HEIGHT, UPPER, (0.90, 0.89, 0.86))
    for side in (-1, 1):
        middle = side * (DOOR / 2 + 0.02)
        if doorway.along == 'x':
            x, y = doorway.x + middle, doorway.y
            post = Box(x - 0.035, y - thick, x + 0.035, y + thick)
        else:
            x, y = doorway.x, doorway.y + middle
            post = Box(x - thick, y - 0.035, x + thick, y + 0.035)
        yield _slab(post, 0.0, LOW_WALL, FLOOR, wood)
        yield _slab(post, LOW_WALL, DOOR_HEIGHT + 0.05, UPPER, wood)
    beam = box.grown(0.0)
    if doorway.along == 'x':
        beam = Box(box.x0, doorway.y - thick, box.x1, doorway.y + thick)
    else:
        beam = Box(doorway.x - thick, box.y0, doorway.x + thick, box.y1)
    yield _slab(beam, DOOR_HEIGHT, DOOR_HEIGHT + 0.05, UPPER, wood)


def _piece(piece: Piece) -> str:
    """Return a body with the parts of a piece, and the box that collides."""
    kind = piece.form
    half = _text((kind.width / 2, kind.depth / 2, kind.height / 2))
    turn = f'{np.cos(piece.yaw / 2):.6f} 0 0 {np.sin(piece.yaw / 2):.6f}'
    parts = ''.join(
        f'<geom type="{_SHAPE[shape]}" size="{_text(size)}" pos="{_text(place)}" '
        f'rgba="{_text(colour_of(colour, piece.colour))} 1" contype="0" conaffinity="0"/>'
        for shape, size, place, colour in kind.parts
    )
    return (
        f'<body name={quoteattr(piece.name)} pos="{piece.x:.4f} {piece.y:.4f} 0" quat="{turn}">'
        f'{parts}<geom name={quoteattr(piece.name)} type="box" size="{half}" '
        f'pos="0 0 {kind.height / 2:.4f}" group="{SOLID}"/></body>'
    )


def _base() -> str:
    """Return the base: what is seen of it, its footprint and its camera."""
    shell = (
        ('cylinder', (RADIUS, 0.035), (0, 0, 0.055), '0.88 0.88 0.90'),
        ('cylinder', (0.16, 0.006), (0, 0, 0.096), '0.15 0.15 0.16'),
        ('box', (0.025, 0.06, 0.225), (-0.05, 0, 0.325), '0.13 0.13 0.14'),
        ('box', (0.02, 0.02, 0.02), (0.03, 0, 0.57), '0.13 0.13 0.14'),
        ('box', (0.012, 0.045, 0.0125), (0.068, 0, 0.582), '0.75 0.76 0.78'),
        ('box', (0.012, 0.05, 0.004), (0.13, 0, 0.103), '0.10 0.55 0.95'),
    )
    seen = ''.join(
        f'<geom type="{shape}" size="{_text(size)}" pos="{_text(place)}" rgba="{colour} 1" '
        f'group="{BASE}" contype="0" conaffinity="0"/>'
        for shape, size, place, colour in shell
    )
    up = _text((np.sin(CAMERA_TILT), 0.0, np.cos(CAMERA_TILT)))
    fovy = np.degrees(2 * np.arctan(np.tan(CAMERA_FOVX / 2) * 3 / 4))
    return (
        '<body name="base_link"><joint name="x" type="slide" axis="1 0 0"/>'
        '<joint name="y" type="slide" axis="0 1 0"/><joint name="yaw" type="hinge" axis="0 0 1"/>'
        f'<inertial pos="0 0 0.1" mass="5" diaginertia="0.1 0.1 0.1"/>{seen}'
        f'<geom name="footprint" type="cylinder" size="{RADIUS} {BASE_HEIGHT / 2}" '
        f'pos="0 0 {BASE_HEIGHT / 2 + 0.01}" group="{SOLID}"/>'
        f'<camera name="ego" pos="{_text(CAMERA)}" xyaxes="0 -1 0 {up}" fovy="{fovy:.4f}"/>'
        '</body>'
    )


def _slab(
    box: Box,
    low: float,
    high: float,
    group: int,
    rgb: tuple[float, ...] | None = None,
    material: str = '',
) -> str:
    """Return an upright box over a rectangle; only those of group SOLID collide."""
    size = ((box.x1 - box.x0) / 2, (box.y1 - box.y0) / 2, (high - low) / 2)
    place = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, (high + low) / 2)
    look = f'material="{material}"' if material else f'rgba="{_text(rgb or (0, 0, 0))} 1"'
    touch = '' if group == SOLID else 'contype="0" conaffinity="0"'
    shape = f'type="box" size="{_text(size)}" pos="{_text(place)}"'
    return f'<geom {shape} group="{group}" {look} {touch}/>'


def _text(values: tuple[float, ...]) -> str:
    return ' '.join(f'{value:.4f}' for value in values)
