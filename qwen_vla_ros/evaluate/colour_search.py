"""
A policy without a model: finds the named colour in the scene camera's image, asks the teacher.

It sees what every policy sees (images, joints, sentence), so it runs over the same socket and the
same topics, and shows what the pipeline can do when the policy is not the limit. It knows the
nominal mounting of the simulator's camera; on another robot it is of no use.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.policy import describe_policy
from qwen_vla_ros.sim import arm
from qwen_vla_ros.sim.expert import expert_chunk
from qwen_vla_ros.sim.scene import COLOURS, WIDTH, Surroundings, parse_target, sample_scene
from qwen_vla_ros.types import ActionChunk, Observation

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

_HUE_TOLERANCE = 6  # of OpenCV's 180; the colours are at least 12 apart
_LEAST_SATURATION, _LEAST_VALUE = 130, 60
_LEAST_PIXELS = 60


class ColourSearchPolicy:
    """Absolute joints for the simulated WidowX."""

    def __init__(self, embodiment: 'Embodiment') -> None:
        """Wear the contract's own metadata; QwenVlaError when its joints are not the WidowX's."""
        self._metadata = {**describe_policy(embodiment), 'checkpoint': 'expert'}
        self._step_s, self._horizon = embodiment.step_s, embodiment.horizon
        if tuple(self._metadata['action_names']) != arm.JOINT_NAMES:
            raise QwenVlaError(
                f'expert policy: it moves {list(arm.JOINT_NAMES)}, contract {embodiment.name} '
                f'asks for {self._metadata["action_names"]}'
            )
        self._camera = _nominal_camera()
        self.reset()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the contract's facts."""
        return self._metadata

    def reset(self) -> None:
        """Forget where things were seen."""
        self._seen: dict[str, np.ndarray] = {}

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return the teacher's chunk; holds still while the named colour was never in sight."""
        colour = parse_target(observation.instruction, COLOURS)
        if colour is None:
            raise QwenVlaError(
                f'expert policy: {observation.instruction!r} must name one of {list(COLOURS)}'
            )
        index = [observation.state_names.index(name) for name in arm.JOINT_NAMES]
        q = observation.state[index].astype(np.float64)
        place = self._locate(observation.images['ego'], colour)
        if place is None:
            rows = np.tile(q, (self._horizon, 1))
        else:
            rows = expert_chunk(q, place, self._horizon, self._step_s)
        return ActionChunk(
            rows.astype(np.float32), arm.JOINT_NAMES, observation.stamp_ns, self._step_s
        )

    def _locate(self, image: np.ndarray, colour: str) -> np.ndarray | None:
        """Return the centre [3] in base_link; the last one known while something hides it."""
        blob = colour_blob(image, colour)
        if blob is not None:
            pixel, pixels = blob
            known = self._seen.get(colour)
            if known is None or pixels >= 0.85 * known[3]:
                self._seen[colour] = np.append(self._on_table(pixel, image.shape), pixels)
        return self._seen[colour][:3] if colour in self._seen else None

    def _on_table(self, pixel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return where the ray through a pixel [2] meets the height of the objects' centres."""
        info = self._camera
        u, v = pixel[0] * info.width / shape[1], pixel[1] * info.height / shape[0]
        ray = info.rotation @ np.linalg.solve(info.matrix, np.array([u, v, 1.0]))
        place = info.position + ray * (WIDTH / 2 - info.position[2]) / ray[2]
        return place


def colour_blob(image: np.ndarray, colour: str) -> tuple[np.ndarray, int] | None:
    """Return middle [2] (u, v in pixels) and size of the largest patch of a colour, if any."""
    count, _, facts, middles = cv2.connectedComponentsWithStats(colour_mask(image, colour))
    if count < 2:
        return None
    largest = 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))
    pixels = int(facts[largest, cv2.CC_STAT_AREA])
    return (middles[largest], pixels) if pixels >= _LEAST_PIXELS else None


def colour_mask(image: np.ndarray, colour: str) -> np.ndarray:
    """Return which pixels of an RGB image have a colour, uint8 [h, w] of 0 and 1."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    named = (np.array([[COLOURS[colour]]]) * 255).astype(np.uint8)
    hue = int(cv2.cvtColor(named, cv2.COLOR_RGB2HSV)[0, 0, 0])
    distance = np.abs(hsv[..., 0].astype(np.int16) - hue)
    near = np.minimum(distance, 180 - distance) <= _HUE_TOLERANCE
    mask = near & (hsv[..., 1] >= _LEAST_SATURATION) & (hsv[..., 2] >= _LEAST_VALUE)
    return mask.astype(np.uint8)


def _nominal_camera() -> Any:
    """Return the scene camera as it is mounted before a scene shakes it."""
    from qwen_vla_ros.sim.world import TabletopWorld

    world = TabletopWorld(render=False)
    world.reset(0, replace(sample_scene(0), surroundings=Surroundings()))
    return world.camera_info('ego')
