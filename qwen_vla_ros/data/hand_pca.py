"""
Ten numbers for the articulation of a hand: principal components of its 45 joint angles.

A pose is 15 joints (index, middle, little, ring, thumb, from the palm outwards; MANO's order) as
rotation vectors against the joint before, in rad. Left and right have components of their own:
their joint axes are mirror images. The file is safetensors; its metadata tell the rest pose that
the angles are counted from ('mano' or 'arkit'), and another one is refused.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwen_vla_ros.errors import QwenVlaError

SIDES = ('left', 'right')
ANGLES, KEPT = 45, 10
KINDS = ('mano', 'arkit')


@dataclass(frozen=True)
class HandPca:
    """
    The components of both hands.

    mean        side -> float64 [45] in rad
    components  side -> float64 [10, 45], rows of length 1, the largest variance first
    share       side -> what part of the variance the ten explain
    kind        rest pose that angles are counted from
    """

    mean: Mapping[str, np.ndarray]
    components: Mapping[str, np.ndarray]
    share: Mapping[str, float]
    kind: str

    def coefficients(self, side: str, poses: np.ndarray) -> np.ndarray:
        """Return [N, 10] of poses [N, 45]."""
        return (poses - self.mean[side]) @ self.components[side].T

    def poses(self, side: str, coefficients: np.ndarray) -> np.ndarray:
        """Return [N, 45] in rad, what is left of poses after the ten numbers [N, 10]."""
        return self.mean[side] + coefficients @ self.components[side]


def fit(poses: Iterable[Mapping[str, np.ndarray]], kind: str) -> HandPca:
    """
    Return the components of poses, each a mapping side -> [N, 45] in rad; one pass, exact.

    QwenVlaError where a side has too few poses, or a number is none.
    """
    counts = dict.fromkeys(SIDES, 0)
    sums = {side: np.zeros(ANGLES) for side in SIDES}
    squares = {side: np.zeros((ANGLES, ANGLES)) for side in SIDES}
    for part in poses:
        for side, rows in part.items():
            if rows.ndim != 2 or rows.shape[1] != ANGLES or not np.isfinite(rows).all():
                raise QwenVlaError(f'hands: {side}: expected finite [N, {ANGLES}] in rad')
            counts[side] += len(rows)
            sums[side] += rows.sum(0)
            squares[side] += rows.T @ rows
    mean, components, share = {}, {}, {}
    for side in SIDES:
        if counts[side] <= KEPT:
            raise QwenVlaError(
                f'hands: {counts[side]} poses of the {side} hand; more than {KEPT} are needed'
            )
        mean[side] = sums[side] / counts[side]
        covariance = squares[side] / counts[side] - np.outer(mean[side], mean[side])
        values, vectors = np.linalg.eigh(covariance)
        rows = vectors.T[::-1][:KEPT]
        signs = np.sign(rows[np.arange(KEPT), np.abs(rows).argmax(1)])
        components[side] = rows * signs[:, None]
        share[side] = float(values[::-1][:KEPT].sum() / max(values.sum(), 1e-300))
    return HandPca(mean, components, share, kind)


def save(pca: HandPca, path: Path, sources: Iterable[str]) -> None:
    """Write the components beside, then rename."""
    from safetensors.numpy import save_file

    tensors = {f'{side}.mean': pca.mean[side] for side in SIDES}
    tensors |= {f'{side}.components': np.ascontiguousarray(pca.components[side]) for side in SIDES}
    told = {'kind': pca.kind, 'share': dict(pca.share), 'sources': sorted(sources)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    save_file(tensors, part, {'hands': json.dumps(told)})
    part.replace(path)


def load(path: Path) -> HandPca:
    """Return the components of a file; QwenVlaError says what is wrong with it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, 'numpy') as file:
            told = json.loads((file.metadata() or {})['hands'])
            mean = {side: file.get_tensor(f'{side}.mean') for side in SIDES}
            components = {side: file.get_tensor(f'{side}.components') for side in SIDES}
        kind, share = told['kind'], {side: float(told['share'][side]) for side in SIDES}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise QwenVlaError(
            f'{path}: no file of hand components ({" ".join(str(error).split())}); '
            "'qwen-vla fit-hands' makes one"
        ) from error
    if kind not in KINDS:
        raise QwenVlaError(f'{path}: kind {kind!r}; known: {", ".join(KINDS)}')
    for side in SIDES:
        if mean[side].shape != (ANGLES,) or components[side].shape != (KEPT, ANGLES):
            raise QwenVlaError(f'{path}: {side}: components of a wrong shape')
        if not (np.isfinite(mean[side]).all() and np.isfinite(components[side]).all()):
            raise QwenVlaError(f'{path}: {side}: a component is not a number')
    return HandPca(mean, components, share, kind)


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla fit-hands`."""
    parser.add_argument('data', type=Path, nargs='+', help='folders of hand recordings')
    parser.add_argument('--out', type=Path, required=True, help='safetensors file to write')


def run_from_arguments(args: argparse.Namespace) -> int:
    """Fit the components on all recordings and print what they explain."""
    from tqdm import tqdm

    from qwen_vla_ros.data.hand_tracks import hand_files, read_track

    files = [file for folder in args.data for file in hand_files(folder)]
    if not files:
        raise QwenVlaError(f'{", ".join(map(str, args.data))}: no .hdf5 of hands in it')
    kind = read_track(files[0]).kind

    def poses() -> Iterator[Mapping[str, np.ndarray]]:
        for file in tqdm(files, unit='file'):
            track = read_track(file)
            if track.kind != kind:
                raise QwenVlaError(
                    f'{file}: angles of kind {track.kind!r}, but those of {files[0]} are '
                    f'{kind!r}: they are counted from different poses; fit them apart'
                )
            yield {side: track.pose[side][track.seen[side]] for side in SIDES}

    pca = fit(poses(), kind)
    save(pca, args.out, (folder.name for folder in args.data))
    told = ', '.join(f'{side} {100 * pca.share[side]:.1f} %' for side in SIDES)
    print(f'{args.out}: {KEPT} components explain {told} of the variance ({len(files)} files)')
    return 0
