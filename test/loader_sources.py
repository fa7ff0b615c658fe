"""Sources for the tests of the loader, importable in its worker processes."""

import os
import signal
import time

import numpy as np

from qwen_vla_ros.data.mixture import Mixture, Source
from qwen_vla_ros.data.sample import Place, Sample


class Made:
    """Episodes of five frames; some cannot be read, end the process, or hang."""

    def __init__(self, source, bad=(), deadly=(), slow=(), raises=(), count=6):
        self.source, self._count = source, count
        self._bad, self._deadly, self._slow, self._raises = bad, deadly, slow, raises

    def __len__(self):
        return self._count

    def frames(self, episode):
        return 5

    def sample(self, episode, frame):
        place = Place(self.source, episode, frame)
        if episode in self._bad:
            raise place.refuse('images.ego', 'is cut')
        if (episode, frame) in self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if (episode, frame) in self._slow:
            time.sleep(60)
        if episode in self._raises:
            raise ZeroDivisionError('a fault of the code')
        row = np.full((1, 1), episode * 5 + frame, np.float32)
        return Sample(place, {}, 'go', 'stub', row, row == row, ('waist',), 0)


def mixture(rank=0, world=1, **kinds):
    sources = [Source(Made('a', **kinds), 'synthetic'), Source(Made('b'), 'navigation')]
    return Mixture(sources, 3, rank=rank, world=world)


def dies_at_once():
    if os.environ['LOADER_TEST_PARENT'] != str(os.getpid()):
        os._exit(7)
    return mixture()


def numbered(sample):
    return int(sample.actions[0, 0])
