"""
What a policy intends and a robot does, kept small, and turned into a Picture at any instant.

take_*() only store; picture() does the geometry. What each stroke means stands in strokes.py.
"""

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_vla_ros.seeing import strokes
from qwen_vla_ros.seeing.captions import RUNNING, caption_of
from qwen_vla_ros.seeing.links import RobotLinks, tip_links
from qwen_vla_ros.seeing.picture import Picture, Shape
from qwen_vla_ros.seeing.tracks import ArmTrack, BaseTrack, Track
from qwen_vla_ros.types import ActionChunk

if TYPE_CHECKING:
    from qwen_vla_ros.embodiment import Embodiment

SILENT_NS = 1_000_000_000  # the status comes ten times a second
REFUSED_NS = 4_000_000_000  # a refusal is shown so long, and longer while the robot holds
LEFT_NS = 10_000_000_000
CAPTION_M = 0.75  # the caption stands so high above the robot


class Intention:
    """The state behind the picture of one robot. Not thread-safe; messages are duck-typed."""

    def __init__(
        self,
        embodiment: 'Embodiment',
        links: RobotLinks | None,
        frame_prefix: str = '',
        trail_s: float = 6.0,
        body: bool = False,
    ) -> None:
        """
        Follow every arm and base of a contract.

        links: its URDF; None draws no arm. frame_prefix stands before the URDF's links on tf;
        trail_s: s of what was executed; body: draw the robot's volume.
        """
        self._embodiment, self._links, self._prefix = embodiment, links, frame_prefix
        self._trail_s, self._body = trail_s, body
        self.tracks: tuple[Track, ...] = (*self._arms(), *self._bases())
        self.joints: dict[str, float] = {}
        self._status: Any = None
        self._heard_ns = 0
        self._chunk: ActionChunk | None = None
        self._chunk_ns = 0
        self._left: tuple[ActionChunk, int] | None = None
        self._refused: tuple[ActionChunk, str, int] | None = None
        self._seams: deque[int] = deque(maxlen=64)

    # What is heard -------------------------------------------------------------------------------

    def take_joints(self, positions: Mapping[str, float], time_ns: int) -> None:
        """Take measured joints by name (rad, m), of one source or of all."""
        self.joints.update(positions)
        for track in self.tracks:
            if isinstance(track, ArmTrack):
                track.measured(self.joints, time_ns)

    def take_pose(self, frame: str, pose: tuple[float, float, float], time_ns: int) -> None:
        """Take where odometry has the base: (x, y in m, yaw in rad) in frame."""
        for track in self.tracks:
            if isinstance(track, BaseTrack):
                track.measured(frame, pose, time_ns)

    def take_chunk(self, chunk: ActionChunk, now_ns: int) -> None:
        """Take an accepted chunk; where another one runs this is a seam."""
        self._left = None
        if self._chunk is not None and self._chunk.end_ns > now_ns and self._moves:
            self._seams.append(now_ns)
            self._left = (self._chunk, now_ns)
        self._chunk, self._chunk_ns = chunk, now_ns

    def take_refused(self, chunk: ActionChunk, reason: str, now_ns: int) -> None:
        """Take a chunk that safety refused, and why."""
        self._refused = (chunk, reason, now_ns)

    def take_status(self, status: Any, now_ns: int) -> None:
        """Take a PolicyStatus; a stage at rest ends the chunk."""
        self._status, self._heard_ns = status, now_ns
        if self._chunk is not None and not self._moves and now_ns > self._chunk_ns:
            if self._chunk.end_ns > now_ns:
                self._left = (self._chunk, now_ns)
            self._chunk = None

    # The picture ---------------------------------------------------------------------------------

    def picture(self, now_ns: int) -> Picture:
        """Return what is to be seen at an instant; a silent policy intends nothing."""
        quiet_ns = now_ns - self._heard_ns
        silent = self._status is None or quiet_ns > SILENT_NS
        refusal = None if silent else self._refusal(now_ns)
        reason = refusal[1] if refusal else ''
        shapes: list[Shape] = []
        for track in self.tracks:
            shapes += strokes.limits(track, reason)
            shapes += strokes.executed(track, now_ns, self._trail_s, self._seams)
            if not silent:
                shapes += self._intended(track, now_ns)
                shapes += self._wrong(track, now_ns, refusal)
        shapes += self._volume() if self._body else []
        horizon_s = 0.0
        if self._chunk is not None and not silent:
            horizon_s = max(0.0, (self._chunk.end_ns - now_ns) * 1e-9)
        caption = caption_of(self._status, quiet_ns * 1e-9 if silent else 0.0, reason, horizon_s)
        frame, place = self._above()
        return Picture(now_ns, tuple(shapes), caption, frame, place)

    def places(self) -> np.ndarray:
        """Return where the arms' links are [N, 3] in m, those whose joints are known."""
        if self._links is None:
            return np.zeros((0, 3))
        moved = [link for link in self._links.names if self._links.joints_of(link)]
        poses = self._links.poses(self.joints)
        return np.array([poses[link][:3, 3] for link in moved if link in poses]).reshape(-1, 3)

    @property
    def root(self) -> str:
        """Return how views call the URDF's root link; '' without a URDF."""
        return self._prefix + self._links.root if self._links else ''

    @property
    def _moves(self) -> bool:
        return self._status is None or self._status.stage in RUNNING

    def _intended(self, track: Track, now_ns: int) -> list[Shape]:
        """Return what comes, and what was left of the chunk before."""
        shapes: list[Shape] = []
        if self._left is not None and now_ns - self._left[1] <= LEFT_NS:
            chunk, since_ns = self._left
            way = track.way(chunk, self.joints)
            gone_past = self._chunk is not None and chunk.end_ns <= now_ns
            if way is not None and way.times_ns[-1] > since_ns and not gone_past:
                shapes += strokes.left_over(track, way, since_ns)
        if self._chunk is not None:
            way = track.way(self._chunk, self.joints)
            if way is not None and way.times_ns[-1] > now_ns:
                shapes += strokes.predicted(track, way, now_ns)
                shapes += strokes.near_limits(self._embodiment, track, self._chunk, way, now_ns)
        return shapes

    def _wrong(
        self, track: Track, now_ns: int, refusal: tuple[ActionChunk, str] | None
    ) -> list[Shape]:
        """Return a refused chunk, else where the robot holds."""
        if refusal is not None:
            chunk, reason = refusal
            named = [other for other in self.tracks if strokes.concerns(reason, other)]
            way = track.way(chunk, self.joints)
            shown = way is not None and (track in named or not named)
            return strokes.refused(track, way, reason) if shown else []
        here = track.trail.near(now_ns)
        if self._status.stage != 'HOLDING' or here is None:
            return []
        reason = self._status.reason if track is self.tracks[0] else ''
        return strokes.stopped(track, here[0], reason)

    def _refusal(self, now_ns: int) -> tuple[ActionChunk, str] | None:
        """Return the chunk that was refused lately, or that keeps the robot waiting, and why."""
        if self._refused is None:
            return None
        chunk, reason, at_ns = self._refused
        newer = self._chunk is not None and self._chunk_ns > at_ns
        if now_ns - at_ns > REFUSED_NS and (newer or self._moves):
            return None
        return chunk, reason

    def _volume(self) -> list[Shape]:
        if self._links is None:
            return []
        poses = self._links.poses(self.joints)
        if self._embodiment.capsules is not None:
            return strokes.capsules(self._embodiment.capsules, self.root, poses)
        shapes: list[Shape] = []
        for track in self.tracks:
            if isinstance(track, ArmTrack):
                shapes += strokes.skeleton(track, self._links, poses)
            elif self._links.radius:
                shapes += strokes.footprint(track, self._links.radius)
        return shapes

    def _above(self) -> tuple[str, tuple[float, float, float]]:
        """Return the frame and the place of the caption: above the arms, else above the base."""
        base = next((track for track in self.tracks if isinstance(track, BaseTrack)), None)
        if base is None or len(self.tracks) > 1:
            return self.root, (0.0, 0.0, CAPTION_M)
        seen = base.trail.newest
        x, y = (0.0, 0.0) if seen is None else (float(seen[0][0]), float(seen[0][1]))
        return base.frame, (x, y, CAPTION_M)

    # Wiring --------------------------------------------------------------------------------------

    def _arms(self) -> list[ArmTrack]:
        if self._links is None:
            return []
        groups = [group for groups in self._embodiment.layouts.values() for group in groups]
        boxes = {box.tip: box for box in self._embodiment.workspaces}
        return [
            ArmTrack(
                name,
                tip,
                self._links,
                self.root,
                tuple(group for group in groups if group.kind == 'delta_eef' and group.tip == tip),
                boxes.get(tip),
                self._trail_s,
            )
            for name, tip in tip_links(self._embodiment, self._links).items()
        ]

    def _bases(self) -> list[BaseTrack]:
        groups = [group for groups in self._embodiment.layouts.values() for group in groups]
        bases = {group.name: group for group in groups if group.kind == 'waypoint'}
        return [BaseTrack(group, self._trail_s) for group in bases.values()]
