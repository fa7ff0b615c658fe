"""
A Picture in Rerun (rerun.io), where rerun-sdk is installed: pip install "qwen_vla_ros[rerun]".

Everything is placed into one world; `locate(frame)` gives each shape's frame in it. Shapes lie
under world/<name>/<number>, images under images/<view>, words under words. What a picture has no
more is cleared. Names of the SDK: rerun-io/rerun, rerun_py (run with 0.41).
"""

from typing import Any

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.seeing.drawing import Locate, placed
from qwen_vla_ros.seeing.picture import Caption, Dots, Lines, Picture, Shape, Tube, Words


class RerunView:
    """One recording. Not thread-safe."""

    def __init__(self, target: str, name: str = 'qwen_vla_ros') -> None:
        """
        Begin a recording.

        target: 'spawn' opens the viewer, a path ending with .rrd is written, else the address of a
        viewer that runs, like rerun+http://127.0.0.1:9876/proxy. QwenVlaError when that fails.
        """
        self._rr = _rerun()
        self._recording = self._rr.RecordingStream(name)
        self._shown: set[str] = set()
        try:
            if target == 'spawn':
                self._recording.spawn()
            elif target.endswith('.rrd'):
                self._recording.save(target)
            else:
                self._recording.connect_grpc(target)
        except Exception as error:  # the SDK raises its own kinds
            raise QwenVlaError(f'rerun {target}: cannot be opened ({error})') from error

    def show(self, picture: Picture, locate: Locate) -> None:
        """Log a picture; raises what locate raises, before anything is logged."""
        poses = {frame: locate(frame) for frame in dict.fromkeys(s.frame for s in picture.shapes)}
        self._recording.set_time('time', timestamp=picture.stamp_ns * 1e-9)
        counts: dict[str, int] = {}
        shown = set()
        for shape in picture.shapes:
            number = counts[shape.name] = counts.get(shape.name, -1) + 1
            path = f'world/{shape.name}/{number}'
            self._recording.log(path, self._logged(shape, poses[shape.frame]))
            shown.add(path)
        for path in self._shown - shown:
            self._recording.log(path, self._rr.Clear(recursive=False))
        self._shown = shown
        words = self._rr.TextDocument(told(picture.caption), media_type='text/markdown')
        self._recording.log('words', words)

    def show_image(self, view: str, image: np.ndarray, stamp_ns: int) -> None:
        """Log an image uint8 [h, w, 3] RGB of a view."""
        self._recording.set_time('time', timestamp=stamp_ns * 1e-9)
        self._recording.log(f'images/{view}', self._rr.Image(image).compress())

    def close(self) -> None:
        """Write what waits."""
        self._recording.flush()
        self._recording.disconnect()

    def _logged(self, shape: Shape, pose: np.ndarray) -> Any:
        rr = self._rr
        if isinstance(shape, Lines):
            points = placed(shape.points, pose)
            pairs = (
                np.stack([points[:-1], points[1:]], 1)
                if shape.joined
                else points.reshape(-1, 2, 3)
            )
            tints = shape.colours[: len(pairs)] if shape.joined else shape.colours[::2]
            return rr.LineStrips3D(pairs, colors=_bytes(tints), radii=shape.width / 2.0)
        if isinstance(shape, Dots):
            points = placed(shape.points, pose)
            return rr.Points3D(points, colors=_bytes(shape.colours), radii=shape.size / 2.0)
        if isinstance(shape, Words):
            place = placed(shape.place[None], pose)
            tint = _bytes(np.array([shape.colour]))
            return rr.Points3D(place, colors=tint, radii=0.002, labels=[shape.text])
        return self._capsule(shape, pose)

    def _capsule(self, tube: Tube, pose: np.ndarray) -> Any:
        """Return a capsule as the thick line that it is."""
        ends = placed(np.stack([tube.start, tube.end]), pose)
        tint = _bytes(np.array([tube.colour]))
        return self._rr.LineStrips3D([ends], colors=tint, radii=tube.radius)


def told(caption: Caption) -> str:
    """Return a caption as Markdown."""
    lines = [f'**{caption.badge}** {caption.title}'.strip()]
    lines += [f'> {caption.alarm}'] if caption.alarm else []
    return '\n\n'.join([*lines, *(f'{name}: {value}' for name, value in caption.facts)])


def _bytes(colours: np.ndarray) -> np.ndarray:
    return np.rint(255.0 * np.clip(colours, 0.0, 1.0)).astype(np.uint8)


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise QwenVlaError(
            f'rerun-sdk is not installed ({error}); pip install "qwen_vla_ros[rerun]"'
        ) from error
    return rerun
