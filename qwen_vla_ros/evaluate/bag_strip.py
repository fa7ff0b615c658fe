"""The film of an evaluation: every camera, and the robot with its predicted and its made path."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.bag_run import Said
from qwen_vla_ros.evaluate.bag_source import INPUT, Event
from qwen_vla_ros.image_decoding import InputError, decode_image
from qwen_vla_ros.nodes.pilot import Pilot
from qwen_vla_ros.seeing.bag_film import viewpoint
from qwen_vla_ros.seeing.film import Film
from qwen_vla_ros.seeing.intention import Intention
from qwen_vla_ros.seeing.links import RobotLinks
from qwen_vla_ros.seeing.scenery import render

HEIGHT, RATE_HZ = 240, 5
SECOND_NS = 1_000_000_000


class Strip:
    """An onlooker that films one run; use as a context manager."""

    def __init__(self, path: Path, embodiment: Embodiment, first_ns: int) -> None:
        """Film from an instant on, RATE_HZ frames a second of the bag."""
        self._cameras = {camera.view: camera for camera in embodiment.cameras}
        try:
            links = RobotLinks(embodiment.description_path)
        except QwenVlaError:  # a robot without a URDF has no arms to draw
            links = None
        self.intention = Intention(embodiment, links, body=True)
        self._newest: dict[str, Any] = {}
        self._widths = {
            view: round(HEIGHT * c.width / c.height / 2) * 2 for view, c in self._cameras.items()
        }
        self._afar = (360, HEIGHT)
        width = sum(self._widths.values()) + self._afar[0]
        self._film = Film(path, (width, HEIGHT), rate_hz=RATE_HZ)
        self._due_ns, self._camera = first_ns, None

    def __enter__(self) -> 'Strip':
        """Return the strip."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the film."""
        self._film.close()

    def heard(self, event: Event) -> None:
        """Keep the newest picture of each camera; nothing is decoded yet."""
        if event.kind == INPUT and event.source in self._cameras:
            self._newest[event.source] = event.message

    def said(self, said: Said) -> None:
        """Draw a chunk from now on."""
        if said.joints is None:
            return
        if said.refused:
            self.intention.take_refused(said.joints, said.refused, said.arrived_ns)
        else:
            self.intention.take_chunk(said.joints, said.arrived_ns)

    def commanded(self, now_ns: int, motion: Any, pilot: Pilot) -> None:
        """Follow the measured joints; film a frame when one is due."""
        base = pilot.base.pose_names if pilot.arm is None else None
        measured = pilot.buffer.newest_state(now_ns, base or pilot.names)
        if measured is not None and base:
            self.intention.take_pose('', tuple(measured.tolist()), now_ns)
        elif measured is not None:
            row = dict(zip(pilot.names, measured.tolist(), strict=True))
            self.intention.take_joints(row, now_ns)
        if now_ns < self._due_ns:
            return
        self._due_ns += SECOND_NS // RATE_HZ
        self.intention.take_status(_status(pilot), now_ns)
        self._film.add(self._frame(now_ns), wait=True)

    def happened(self, now_ns: int, kind: str, text: str) -> None:
        """Nothing: the status tells it."""

    def _frame(self, now_ns: int) -> np.ndarray:
        parts = [self._picture(view) for view in self._cameras]
        self._camera = viewpoint(self.intention, self._camera, self._afar)
        picture = self.intention.picture(now_ns)
        floor = 6.0 if picture.frame == 'odom' else 0.7
        view = render(picture, self._camera, lambda frame: np.eye(4), floor, caption=False)
        parts.append(view)
        return np.concatenate(parts, axis=1)

    def _picture(self, view: str) -> np.ndarray:
        """Return the newest picture of a camera, small; grey where there is none yet."""
        camera, message = self._cameras[view], self._newest.get(view)
        size = self._widths[view], HEIGHT
        if message is not None:
            try:
                image = decode_image(message, camera.topic, camera.depth_m)
                return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            except InputError:
                pass
        return np.full((HEIGHT, size[0], 3), 60, np.uint8)


def _status(pilot: Pilot) -> Any:
    """Return what a PolicyStatus would say."""
    return SimpleNamespace(
        stage=pilot.stage,
        instruction=pilot.instruction,
        reason=pilot.reason,
        inference_s=pilot.inference_s[-1] if pilot.inference_s else 0.0,
        overhead_s=0.0,
        chunk_age_s=0.0,
        refusals=0,
        missing=list(pilot.missing),
        arming=pilot.stages.stage,
        speed_scale=pilot.speed_scale,
    )
