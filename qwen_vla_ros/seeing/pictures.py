"""
The pictures of docs/seeing.md: `python -m qwen_vla_ros.seeing.pictures --out docs/pictures`.

The WidowX is the simulated one, moved by the scripted teacher's chunks through the controller's
arithmetic; what is refused is refused by SafetyGate. Latencies in the captions are those of the
README's demo run, told as such; everything else in a picture is computed.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.kinematics import ArmKinematics
from qwen_vla_ros.safety import SafetyGate
from qwen_vla_ros.seeing.camera import Camera, looking
from qwen_vla_ros.seeing.drawing import draw_picture
from qwen_vla_ros.seeing.intention import Intention
from qwen_vla_ros.seeing.links import RobotLinks
from qwen_vla_ros.seeing.picture import Tube
from qwen_vla_ros.seeing.scenery import render
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.expert import expert_chunk
from qwen_vla_ros.sim.scene import COLOURS
from qwen_vla_ros.sim.trajectory_controller import TrajectoryController
from qwen_vla_ros.types import ActionChunk

SIZE = (760, 520)
SECOND_NS = 1_000_000_000
TICK_S, REPLAN_S, STATUS_S = 0.02, 0.6, 0.1
SCENE = 0


def status(instruction: str, stage: str = 'RUNNING', reason: str = '', **more: Any) -> Any:
    """Return what a PolicyStatus says, with the latencies of the README's demo run."""
    facts = {
        'stage': stage,
        'instruction': instruction,
        'reason': reason,
        'inference_s': 0.066,
        'overhead_s': 0.014,
        'chunk_age_s': 0.3,
        'refusals': 0,
        'missing': [],
        'arming': 'full',
        'speed_scale': 1.0,
    }
    return SimpleNamespace(**{**facts, **more})


class Rehearsal:
    """The simulated arm on its way to an object, watched by an Intention."""

    def __init__(self, sentence: str, goal: str, render: bool = False) -> None:
        """Lay out the scene; goal is the name of the object that the teacher reaches for."""
        from qwen_vla_ros.sim.world import TabletopWorld

        self.embodiment = Embodiment.load('widowx')
        self.world = TabletopWorld(render=render)
        self.world.reset(SCENE)
        self.intention = Intention(
            self.embodiment, RobotLinks(self.embodiment.description_path), body=True
        )
        self.sentence, self.goal, self.now_ns = sentence, goal, SECOND_NS
        self._controller = TrajectoryController(arm.JOINT_NAMES, self.world.positions())
        self._planned_ns = 0

    def run(self, seconds: float) -> None:
        """Move on, with a new chunk every REPLAN_S."""
        for _ in range(round(seconds / TICK_S)):
            if self.now_ns - self._planned_ns >= REPLAN_S * SECOND_NS:
                self._follow(self.chunk())
                self._planned_ns = self.now_ns
            self.now_ns += round(TICK_S * SECOND_NS)
            self.world.set_targets(*self._controller.sample(self.now_ns))
            self.world.step(TICK_S)
            joints = dict(zip(arm.JOINT_NAMES, self.world.positions(), strict=True))
            self.intention.take_joints(joints, self.now_ns)
            if not self.now_ns % round(STATUS_S * SECOND_NS):
                self.intention.take_status(status(self.sentence), self.now_ns)

    def chunk(self, place: np.ndarray | None = None) -> ActionChunk:
        """Return the teacher's chunk from here to the goal, or to a place [3]."""
        target = self.world.object_positions()[self.goal] if place is None else place
        rows = expert_chunk(self.world.positions(), target)
        return ActionChunk(
            rows.astype(np.float32), arm.JOINT_NAMES, self.now_ns, self.embodiment.step_s
        )

    def straight(self, place: np.ndarray) -> ActionChunk:
        """Return a chunk whose tip goes straight from here to a place [3], smoothly."""
        q, steps = self.world.positions(), np.linspace(0.0, 1.0, 16)[:, None]
        here = arm.forward(q)[0]
        tips = here + (3 * steps**2 - 2 * steps**3) * (place - here)
        joints = arm.inverse(tips, arm.pitch_of(q))
        joints += q[:6] - joints[0]
        rows = np.hstack([joints, np.full((16, 1), q[6])])
        return ActionChunk(
            rows.astype(np.float32), arm.JOINT_NAMES, self.now_ns, self.embodiment.step_s
        )

    def _follow(self, chunk: ActionChunk) -> None:
        times = chunk.step_s * np.arange(1, chunk.horizon)
        self._controller.accept(
            arm.JOINT_NAMES,
            times,
            chunk.actions[1:].astype(np.float64),
            None,
            self.now_ns,
            self.now_ns,
        )
        self.intention.take_chunk(chunk, self.now_ns)

    def from_afar(self, eye: tuple[float, float, float]) -> np.ndarray:
        """Return the picture of now, seen from a place [3]."""
        camera = looking(np.array(eye), np.array([0.2, 0.0, 0.16]), SIZE)
        picture = self.intention.picture(self.now_ns)
        picture = replace(picture, shapes=(*picture.shapes, *self._objects()))
        return render(picture, camera, lambda frame: np.eye(4))

    def _objects(self) -> list[Tube]:
        """Return the objects on the table as upright tubes of their colours."""
        found = []
        for item in self.world.scene.objects:
            place = self.world.object_positions()[item.name]
            rgb = (*COLOURS[item.colour], 1.0)
            low, high = place - [0, 0, 0.006], place + [0, 0, 0.006]
            found.append(Tube('object', 'base_link', low, high, 0.02, rgb))
        return found


def reach() -> np.ndarray:
    """The way in the robot's own image."""
    rehearsal = Rehearsal('touch the orange block', 'orange block', render=True)
    rehearsal.run(0.62)
    info = rehearsal.world.camera_info('ego')
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = info.rotation, info.position
    camera = Camera(info.matrix, info.width, info.height, pose, np.zeros(4))
    image = rehearsal.world.render('ego')
    picture = rehearsal.intention.picture(rehearsal.now_ns)
    return draw_picture(image, picture, camera, lambda frame: np.eye(4))


def seam() -> np.ndarray:
    """The sentence changed: where the newer chunk took over, and what was left of the older."""
    rehearsal = Rehearsal('touch the orange block', 'orange block')
    rehearsal.run(0.64)
    rehearsal.sentence, rehearsal.goal = 'touch the yellow block', 'yellow block'
    rehearsal.run(0.72)
    return rehearsal.from_afar((0.75, -0.65, 0.62))


def refused() -> np.ndarray:
    """A chunk that would leave the workspace: refused by the gate, with the row and the limit."""
    rehearsal = Rehearsal('touch the orange block', 'orange block')
    rehearsal.run(0.8)
    wild = rehearsal.straight(np.array([0.30, -0.30, -0.03]))
    gate = SafetyGate(rehearsal.embodiment, tip_position=lambda q: arm.forward(q)[0])
    verdict = gate.check_chunk(wild, rehearsal.now_ns)
    if verdict.ok:
        raise QwenVlaError('pictures: the gate did not refuse what it should')
    reason = f'safety refused a chunk: {verdict.reason}'
    told = status(rehearsal.sentence, 'HOLDING', reason, refusals=1, chunk_age_s=float('nan'))
    rehearsal.intention.take_refused(wild, verdict.reason, rehearsal.now_ns)
    rehearsal.intention.take_status(told, rehearsal.now_ns + 1)
    rehearsal.now_ns += SECOND_NS // 20
    return rehearsal.from_afar((0.85, -0.75, 0.72))


def hold() -> np.ndarray:
    """A camera fell silent: where the arm stopped, why, and the way that it does not go."""
    rehearsal = Rehearsal('touch the orange block', 'orange block')
    rehearsal.run(0.7)
    lost = 'ego (camera/scene/image_raw): no picture for 0.21 s (limit 0.15 s)'
    told = status(rehearsal.sentence, 'HOLDING', lost, missing=[lost], chunk_age_s=float('nan'))
    rehearsal.intention.take_status(told, rehearsal.now_ns + 1)
    rehearsal.now_ns += SECOND_NS // 20
    return rehearsal.from_afar((0.85, -0.65, 0.6))


def base() -> np.ndarray:
    """Waypoints of a base: from its pose at the chunk's stamp into the frame of its odometry."""
    embodiment = Embodiment.load('mobile_base')
    intention = Intention(embodiment, RobotLinks(embodiment.description_path), body=True)
    sentence, now_ns, pose = 'go to the door on the left', SECOND_NS, np.zeros(3)
    for tick in range(250):
        turn = 0.28 * np.sin(0.35 * tick * TICK_S)
        now_ns += round(TICK_S * SECOND_NS)
        ahead = 0.3 * TICK_S
        pose += [ahead * np.cos(pose[2]), ahead * np.sin(pose[2]), turn * TICK_S]
        intention.take_pose('odom', (float(pose[0]), float(pose[1]), float(pose[2])), now_ns)
        intention.take_status(status(sentence), now_ns)
        if tick in (125, 210):
            intention.take_chunk(
                _waypoints(embodiment, now_ns, 0.25 if tick == 210 else 0.05), now_ns
            )
    picture = intention.picture(now_ns)
    camera = looking(np.array([-0.1, -1.1, 1.55]), np.array([1.5, 0.62, 0.0]), SIZE)
    return render(picture, camera, lambda frame: np.eye(4), floor=4.0)


def _waypoints(embodiment: Embodiment, start_ns: int, bend: float) -> ActionChunk:
    """Return an arc: bend rad more a waypoint, 0.15 m apart."""
    headings = bend * np.arange(1, embodiment.horizon + 1)
    x, y = 0.15 * np.cumsum(np.cos(headings)), 0.15 * np.cumsum(np.sin(headings))
    rows = np.column_stack([x, y, headings]).astype(np.float32)
    return ActionChunk(rows, embodiment.action_names(), start_ns, embodiment.step_s)


def two_arms() -> np.ndarray:
    """ALOHA: each arm has its own way, and both end where the cube changes hands."""
    embodiment = Embodiment.load('aloha')
    intention = Intention(embodiment, RobotLinks(embodiment.description_path), body=True)
    sentence, now_ns = 'hand the cube from the right arm to the left', SECOND_NS
    ways = []
    for side, place in (('left', (-0.035, 0.0, 0.24)), ('right', (0.035, 0.0, 0.22))):
        tip = f'{side}_ee_gripper_link'
        kinematics = ArmKinematics(embodiment.description_path, tip)
        ready = np.array([0.35 if side == 'left' else -0.5, -0.9, 1.0, 0.0, 0.25, 0.0])
        rows = np.zeros((90, 6))
        shares = np.linspace(0.0, 1.0, 90)[:, None]
        smooth = shares**3 * (10 - 15 * shares + 6 * shares**2)
        rows[:, :3] = smooth * (np.array(place) - kinematics.tip_position(ready))
        ways.append(np.column_stack([kinematics.chunk_to_joints(rows, ready), [0.045] * 90]))
    motion, names = np.hstack(ways), embodiment.action_names()
    for tick in range(40):
        now_ns += round(embodiment.step_s * SECOND_NS)
        intention.take_joints(dict(zip(names, motion[tick], strict=True)), now_ns)
        intention.take_status(status(sentence), now_ns)
        if tick in (10, 25, 39):
            rows = motion[tick : tick + embodiment.horizon].astype(np.float32)
            intention.take_chunk(ActionChunk(rows, names, now_ns, embodiment.step_s), now_ns)
    camera = looking(np.array([0.3, -1.15, 0.8]), np.array([0.0, 0.0, 0.15]), SIZE)
    return render(intention.picture(now_ns), camera, lambda frame: np.eye(4), floor=0.7)


PICTURES: dict[str, Callable[[], np.ndarray]] = {
    'reach': reach,
    'seam': seam,
    'refused': refused,
    'hold': hold,
    'base': base,
    'two_arms': two_arms,
}


def film(path: Path, seconds: float = 4.0) -> int:
    """Write the change of sentence as MP4, seen from afar; return the number of frames."""
    from qwen_vla_ros.seeing.film import RATE_HZ, Film

    rehearsal = Rehearsal('touch the orange block', 'orange block')
    with Film(path, SIZE) as found:
        for frame in range(round(seconds * RATE_HZ)):
            if frame == round(0.25 * seconds * RATE_HZ):
                rehearsal.sentence, rehearsal.goal = 'touch the yellow block', 'yellow block'
            rehearsal.run(1.0 / RATE_HZ)
            found.add(rehearsal.from_afar((0.75, -0.65, 0.62)))
    return found.frames


def _write_small(path: Path, image: np.ndarray) -> None:
    """Write a PNG of 256 colours: a third of the size, and no difference to the eye."""
    from PIL import Image

    few = Image.fromarray(image).quantize(
        256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
    )
    few.save(path, optimize=True)


def main(arguments: list[str] | None = None) -> int:
    """Write every picture, or those named; 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('names', nargs='*', help=f'of {", ".join(PICTURES)}; all by default')
    parser.add_argument('--out', type=Path, default=Path('docs/pictures'), help='folder')
    parser.add_argument('--film', type=Path, help='write this MP4 instead')
    args = parser.parse_args(arguments)
    try:
        if args.film:
            print(f'{args.film}  {film(args.film)} frames')
            return 0
        args.out.mkdir(parents=True, exist_ok=True)
        for name in args.names or PICTURES:
            if name not in PICTURES:
                raise QwenVlaError(f'{name!r}: no such picture; known: {", ".join(PICTURES)}')
            path = args.out / f'{name}.png'
            _write_small(path, PICTURES[name]())
            print(f'{path}  {path.stat().st_size / 1000:.0f} kB')
    except (QwenVlaError, OSError) as error:
        print(f'pictures: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
