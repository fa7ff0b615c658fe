"""Shared memory between processes: equal pictures, nothing left behind, nothing foreign opened."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from echo_policy import Echo, observation

from qwen_vla_ros import shared_pictures
from qwen_vla_ros.policy_server import PolicyServer
from qwen_vla_ros.remote import RemotePolicy
from qwen_vla_ros.shared_pictures import SharedArea, SharedView, SharingRefused
from qwen_vla_ros.types import Observation

RNG = np.random.default_rng(0)
PICTURES = {
    view: RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8) for view in ('ego', 'cam_left_wrist')
}


class Remember(Echo):
    """Keep every observation."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def infer(self, observation, prefix=None):
        self.seen.append(observation)
        return super().infer(observation, prefix)


def seen(pictures):
    known = observation()
    return Observation(
        pictures, known.state, known.state_names, 'touch it', known.stamp_ns, known.embodiment
    )


def left_behind():
    """Return the names that stay; those of other programs on this machine last milliseconds."""
    deadline = time.monotonic() + 2.0
    while names := [path.name for path in Path('/dev/shm').glob('qwen_vla_*')]:
        if time.monotonic() > deadline:
            return names
        time.sleep(0.01)
    return []


@pytest.fixture
def area():
    area = SharedArea(SharedArea.bytes_for(PICTURES.values()))
    yield area
    area.unlink()


def test_what_is_written_on_one_side_is_read_on_the_other(area):
    places = area.write(PICTURES)
    found = SharedView(area.name, area.size).read(places)
    for view, picture in PICTURES.items():
        np.testing.assert_array_equal(found[view], picture)
    assert all(place['offset'] % 64 == 0 for place in places.values())


def test_pictures_that_somebody_keeps_are_not_written_over(area):
    """Memory is used again only when nobody holds it."""
    view = SharedView(area.name, area.size)
    first = view.read(area.write(PICTURES))['ego']
    second = view.read(area.write({'ego': PICTURES['ego'] + 1}))['ego']
    np.testing.assert_array_equal(first, PICTURES['ego'])
    np.testing.assert_array_equal(second, PICTURES['ego'] + 1)
    place = second.__array_interface__['data'][0]
    del second
    third = view.read(area.write({'ego': PICTURES['ego'] + 2}))['ego']
    assert third.__array_interface__['data'][0] == place


@pytest.mark.parametrize(
    'name',
    ['../../etc/passwd', 'qwen_vla_', 'qwen_vla_' + 'g' * 32, '/qwen_vla_' + '0' * 32, ''],
)
def test_only_names_of_ours_are_opened(name):
    with pytest.raises(SharingRefused, match='no shared area is called'):
        SharedView(name, 64)


def test_links_and_files_of_another_size_are_not_opened(area, tmp_path):
    with pytest.raises(SharingRefused, match='not a plain file of this user and size'):
        SharedView(area.name, area.size - 1)
    link = 'qwen_vla_' + 'a' * 32
    Path('/dev/shm', link).symlink_to(f'/dev/shm/{area.name}')
    try:
        with pytest.raises(SharingRefused, match='does not see the area'):
            SharedView(link, area.size)
    finally:
        Path('/dev/shm', link).unlink()


@pytest.mark.parametrize(
    'place',
    [
        {'offset': -64, 'shape': [4]},
        {'offset': 0, 'shape': [48, 64, 300]},
        {'offset': 1 << 40, 'shape': [1]},
        {'offset': 0, 'shape': [-1]},
        {'offset': 0.5, 'shape': [4]},
    ],
)
def test_places_outside_the_area_are_refused(area, place):
    with pytest.raises(SharingRefused, match='ego: '):
        SharedView(area.name, area.size).read({'ego': place})


def test_a_machine_without_room_says_so(monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(SharingRefused, match='has no room for 4096 bytes'):
        SharedArea(4096)
    assert not left_behind()


# --- through policy server and client ----------------------------------------------------------


def test_pictures_reach_the_policy_by_shared_memory_and_grow_with_need():
    policy = Remember()
    with PolicyServer(policy, port=0) as server:
        remote = RemotePolicy(server.address)
        try:
            remote.infer(seen(PICTURES))
            assert remote.transport == 'shared memory'
            large = {'ego': RNG.integers(0, 256, (480, 640, 3), dtype=np.uint8)}
            remote.infer(seen(large))
            remote.infer(seen(PICTURES))
        finally:
            remote.close()
    for found, sent in zip(policy.seen, (PICTURES, large, PICTURES), strict=True):
        assert list(found.images) == list(sent)
        for view, picture in sent.items():
            np.testing.assert_array_equal(found.images[view], picture)
    assert not left_behind()


@pytest.mark.parametrize('sizes', [None, {'ego': [24, 32], 'cam_left_wrist': [12, 16]}])
def test_a_server_that_sees_no_area_gets_them_by_socket_in_the_models_sizes(monkeypatch, sizes):
    """Another container: the resize is the model's own transform, so the pixels are the same."""
    from qwen_vla_ros.transforms import ResizeImages

    policy = Remember()
    if sizes:
        policy.metadata = {**policy.metadata, 'image_sizes': sizes}

    def elsewhere(*_):
        raise SharingRefused('the server does not see the area')

    monkeypatch.setattr(shared_pictures.SharedView, '__init__', elsewhere)
    with PolicyServer(policy, port=0) as server:
        remote = RemotePolicy(server.address)
        try:
            remote.infer(seen(PICTURES))
            remote.infer(seen(PICTURES))
            assert remote.transport.startswith('socket (')
            assert 'does not see the area' in remote.transport
        finally:
            remote.close()
    wanted = PICTURES
    if sizes:
        transform = ResizeImages({view: tuple(size) for view, size in sizes.items()})
        wanted = transform.forward({'images': PICTURES})['images']
    for found in policy.seen:
        for view, picture in wanted.items():
            np.testing.assert_array_equal(found.images[view], picture)
    assert not left_behind()


def test_places_before_a_share_are_no_message():
    from websockets.sync.client import connect

    from qwen_vla_ros.wire import observation_fields, pack, unpack

    fields = {**observation_fields(observation()), 'shared': {'ego': {'offset': 0, 'shape': [4]}}}
    with PolicyServer(Echo(), port=0) as server, connect(server.address) as connection:
        connection.recv()
        connection.send(pack({'type': 'infer', 'id': 1, 'observation': fields, 'prefix': None}))
        assert 'before a share' in unpack(connection.recv())['message']


def test_a_client_that_is_killed_leaves_nothing_behind():
    script = (
        'import os, sys; sys.path.insert(0, sys.argv[2])\n'
        'from echo_policy import observation\n'
        'from qwen_vla_ros.remote import RemotePolicy\n'
        'RemotePolicy(sys.argv[1]).infer(observation())\n'
        'os.kill(os.getpid(), 9)\n'
    )
    with PolicyServer(Echo(), port=0) as server:
        folder = str(Path(__file__).parent)
        done = subprocess.run([sys.executable, '-c', script, server.address, folder], timeout=30)
    assert done.returncode == -9
    assert not left_behind()
