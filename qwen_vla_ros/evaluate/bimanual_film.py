"""
Film of both arms: the camera above, both wrists, the sentence, and where the tips will go.

Frame (RGB, 960 x 544): a strip with the sentence on top, the high camera on the left, the wrist
cameras on the right. 25 frames a simulated second; the lines are the tips of the rows that the
policy has just predicted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from qwen_vla_ros.evaluate import video
from qwen_vla_ros.policy import Policy
from qwen_vla_ros.seeing.film import Film
from qwen_vla_ros.sim.aloha import vx300s
from qwen_vla_ros.sim.aloha.environment import AlohaEnv
from qwen_vla_ros.types import ActionChunk, Observation

RATE_HZ = 25
END_FRAMES = 20
LINES = ((64, 156, 255), (255, 122, 48))  # left, right
STAGE_NAMES = ('', 'TOUCHED', 'LIFTED', 'MEETING', 'DONE')


class AlohaFilm(Film):
    """The film; add() takes the arguments of compose()."""

    def __init__(self, path: Path) -> None:
        """Open the file; QwenVlaError when it cannot be written."""
        super().__init__(path, (video.WIDTH, video.HEIGHT), compose, RATE_HZ)

    def watch(self, env: AlohaEnv, policy: Policy, title: str) -> 'Watch':
        """Return the policy with an eye on it, for one episode."""
        return Watch(self, env, policy, title)


class Watch:
    """A policy whose episode is filmed: shoot() after every step of the world."""

    def __init__(self, film: AlohaFilm, env: AlohaEnv, policy: Policy, title: str) -> None:
        """Watch one episode."""
        self._film, self._env, self._policy, self._title = film, env, policy, title
        self._tips: np.ndarray | None = None
        self._steps = 0

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the inner policy's metadata."""
        return self._policy.metadata

    def reset(self) -> None:
        """Reset the inner policy."""
        self._policy.reset()

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Infer, and keep where the tips will go."""
        chunk = self._policy.infer(observation, prefix)
        columns = [chunk.names.index(name) for name in vx300s.JOINT_NAMES]
        self._tips = vx300s.tips(chunk.actions[:, columns].astype(np.float64))
        return chunk

    def shoot(self) -> None:
        """Add a frame, at every second step of 0.02 s."""
        self._steps += 1
        if self._steps % 2 == 0:
            self._add(None, False)

    def end(self, facts: Mapping[str, Any]) -> None:
        """Show how the episode ended."""
        success = bool(facts['success'])
        text = f'done in {facts["elapsed_s"]:.1f} s' if success else f'stage {facts["best"]} of 4'
        for _ in range(END_FRAMES):
            self._add(text, success)

    def _add(self, outcome: str | None, success: bool) -> None:
        world = self._env.world
        pictures = [world.render(view) for view in world.views]
        lines = []
        if self._tips is not None and outcome is None:
            lines = [world.project('ego', self._tips[:, side])[0] for side in (0, 1)]
        facts = world.result()
        caption = video.Caption(
            f'{self._title}, {facts.elapsed_s:4.1f} s',
            self._env.instruction,
            STAGE_NAMES[facts.stage],
            outcome=outcome,
            success=success,
        )
        self._film.add(*pictures, caption, lines, wait=True)


def compose(
    high: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    caption: video.Caption,
    lines: list[np.ndarray],
) -> np.ndarray:
    """Return one frame uint8 [544, 960, 3]; lines are pixels [N, 2] of the high camera."""
    view = high.copy()
    for pixels, colour in zip(lines, LINES, strict=False):
        points = np.round(pixels[np.isfinite(pixels).all(1)] * 8).astype(np.int32)
        cv2.polylines(view, [points], False, colour, 2, cv2.LINE_AA, 3)
    frame = video.compose_frame(view, left, caption)
    top = video.STRIP + video.WRIST[0]
    size = video.WRIST[::-1]
    frame[top:, video.SCENE[1] :] = cv2.resize(right, size, interpolation=cv2.INTER_AREA)
    return frame
