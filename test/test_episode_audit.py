"""The audit of an episode: each fault is seen, and a sound episode has none."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qwen_vla_ros.data.episode_audit import EpisodeAudit
from qwen_vla_ros.data.episode_notes import FAULT
from qwen_vla_ros.embodiment import Embodiment

S = 1_000_000_000
WIDOWX = Embodiment.load('widowx')
ROBOT = replace(WIDOWX, cameras=tuple(replace(c, width=16, height=6) for c in WIDOWX.cameras))
NAMES = [field.name for field in ROBOT.state.fields]
TOPICS = {'ego': '/scene', 'cam_right_wrist': '/wrist', 'state': '/joints'}


def stamped(time_ns, **facts):
    stamp = SimpleNamespace(sec=time_ns // S, nanosec=time_ns % S)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), **facts)


def faults(seconds=5, late=None, drop=None, still=(), row=None, shape=(6, 16)):
    """Record an episode; late: topic -> s; drop(topic, tick): not sent; still: same content."""
    audit = EpisodeAudit(ROBOT, TOPICS, S)
    for tick in range(seconds * 100):
        time_ns = S + tick * S // 100
        for topic in TOPICS.values():
            if tick % (2 if topic == '/joints' else 5) or (drop and drop(topic, tick)):
                continue
            heard = time_ns + round((late or {}).get(topic, 0.0) * S)
            content = 0 if topic in still else tick
            if topic == '/joints':
                values = np.full(len(NAMES), content / 100) if row is None else row(tick)
                message = stamped(time_ns, name=NAMES, position=values)
            else:
                height, width = shape
                data = np.full(height * width * 3, content % 251, np.uint8)
                message = stamped(
                    time_ns,
                    height=height,
                    width=width,
                    encoding='rgb8',
                    step=width * 3,
                    data=data,
                    is_bigendian=0,
                )
            audit.take(topic, heard, message)
    return {(f.kind, f.topic) for f in audit.findings(S + seconds * S) if f.severity == FAULT}


def test_a_sound_episode_has_no_fault():
    assert faults() == set()


def test_a_robot_that_stands_still_is_no_fault():
    assert faults(still=('/scene', '/wrist', '/joints')) == set()


@pytest.mark.parametrize(
    ('changed', 'found'),
    [
        ({'drop': lambda topic, _: topic == '/wrist'}, {('missing', '/wrist')}),
        ({'drop': lambda topic, tick: topic == '/wrist' and tick % 15}, {('slow', '/wrist')}),
        (
            {'drop': lambda topic, tick: topic == '/scene' and 200 < tick < 280},
            {('gap', '/scene')},
        ),
        ({'drop': lambda topic, tick: topic == '/scene' and tick > 430}, {('gap', '/scene')}),
        ({'still': ('/wrist',)}, {('stuck', '/wrist')}),
        ({'still': ('/joints',)}, {('stuck', '/joints')}),
        ({'late': {'/scene': 0.1}}, {('skewed', '/scene')}),
        ({'late': {'/joints': 0.4}}, {('skewed', '/joints')}),
        ({'row': lambda _: np.full(len(NAMES), np.nan)}, {('refused', '/joints')}),
        ({'shape': (8, 16)}, {('refused', '/scene'), ('refused', '/wrist')}),
    ],
)
def test_each_fault_is_seen(changed, found):
    assert faults(**changed) == found


def test_the_rate_of_the_last_seconds_is_watched():
    audit = EpisodeAudit(ROBOT, TOPICS, S)
    for tick in range(200):
        message = stamped(S + tick * S // 50, name=NAMES, position=np.zeros(len(NAMES)))
        audit.take('/joints', S + tick * S // 50, message)
    assert set(audit.slow(5 * S)) == {'/scene', '/wrist'}
    assert audit.slow(5 * S)['/scene'] == '0.0 Hz, the contract says 20'
    assert '/joints' in audit.slow(7 * S)
