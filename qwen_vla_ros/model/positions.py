"""
M-RoPE positions on the host: (t, h, w) of every token, as Qwen3.5 counts them.

Text counts up on all three axes; an image's tokens share t and spread over h and w; the next text
token goes on after the larger side. Equal to transformers' get_rope_index, without its walk over
device tensors.
"""

from collections.abc import Sequence

import numpy as np


def mrope_positions(
    is_image: np.ndarray, grids: Sequence[tuple[int, int, int]], merge: int
) -> np.ndarray:
    """
    Return int64 [3, T].

    is_image bool [T]: where image tokens stand. grids: (1, rows, columns) patches an image, in
    order; merge x merge patches make one token. ValueError when they do not belong together.
    """
    position = np.empty((3, len(is_image)), np.int64)
    edges = np.flatnonzero(np.diff(is_image.astype(np.int8), prepend=0, append=0))
    begin, count = 0, 0
    for (start, stop), (_, rows, columns) in zip(edges.reshape(-1, 2), grids, strict=True):
        position[:, begin:start] = count + np.arange(start - begin)
        count += start - begin
        rows, columns = rows // merge, columns // merge
        if rows * columns != stop - start:
            raise ValueError(f'{stop - start} image tokens for {rows} x {columns} visual tokens')
        position[0, start:stop] = count
        position[1, start:stop] = count + np.repeat(np.arange(rows), columns)
        position[2, start:stop] = count + np.tile(np.arange(columns), rows)
        count += max(rows, columns)
        begin = stop
    position[:, begin:] = count + np.arange(len(is_image) - begin)
    return position
