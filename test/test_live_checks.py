"""What the robot's topics say against contract and training: planted mismatches, no ROS."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from qwen_vla_ros.compatibility.finding import PASS, REFUSE, WARN
from qwen_vla_ros.compatibility.listening import Listening, Live
from qwen_vla_ros.compatibility.registry import arming_problems, live_findings
from qwen_vla_ros.compatibility.training import Pairing, read_training
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.evaluate.choose_policy import bundled_checkpoint

WIDOWX = Embodiment.load('widowx')
METADATA = read_training(bundled_checkpoint(), 'widowx')
HOME = {
    'waist': 0.0,
    'shoulder': -0.3,
    'elbow': 0.3,
    'forearm_roll': 0.0,
    'wrist_angle': 1.2,
    'wrist_rotate': 0.0,
    'left_finger': 0.03,
}
SECOND = 1_000_000_000
START = 100 * SECOND


def header(stamp_ns, frame_id=''):
    stamp = SimpleNamespace(sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND)
    return SimpleNamespace(stamp=stamp, frame_id=frame_id)


class Robot:
    """Two seconds of a WidowX that stands; each part can be changed before it is heard."""

    def __init__(self):
        self.joints, self.joint_hz, self.joint_lag_s = dict(HOME), 50.0, 0.002
        self.size = {'ego': (640, 480), 'cam_right_wrist': (640, 480)}
        self.hz = {'ego': 20.0, 'cam_right_wrist': 20.0}
        self.lag_s = {'ego': 0.02, 'cam_right_wrist': 0.02}
        self.frame = {camera.view: camera.frame_id for camera in WIDOWX.cameras}
        self.frames = None

    def listening(self):
        listening = Listening(WIDOWX)
        for view, hz in self.hz.items():
            for index in range(int(2 * hz)):
                now = START + int(index * SECOND / hz)
                width, height = self.size[view]
                image = SimpleNamespace(
                    header=header(now - int(self.lag_s[view] * SECOND), self.frame[view]),
                    width=width,
                    height=height,
                    encoding='rgb8',
                )
                listening.hear(view, image, now)
        for index in range(int(2 * self.joint_hz)):
            now = START + int(index * SECOND / self.joint_hz)
            names, positions = list(self.joints), list(self.joints.values())
            stamp = header(now - int(self.joint_lag_s * SECOND))
            listening.hear(
                'state', SimpleNamespace(header=stamp, name=names, position=positions), now
            )
        return listening

    def told(self, **beside):
        """(subject, level) -> what was found, of all that does not pass."""
        streams = self.listening().streams(START + 2 * SECOND)
        live = Live(Pairing(METADATA, WIDOWX, 'abs_joint'), streams, **beside)
        return {(f.subject, f.level): f.found for f in live_findings(live) if f.level != PASS}


@pytest.fixture
def robot():
    return Robot()


def test_a_robot_that_fits_passes_every_check(robot):
    infos = {camera.view: (640, 480, camera.frame_id) for camera in WIDOWX.cameras}
    frames = frozenset({'base_link', *(camera.frame_id for camera in WIDOWX.cameras)})
    assert robot.told(infos=infos, frames=frames) == {}


def test_a_silent_topic_says_why(robot):
    robot.hz = {'ego': 20.0}
    found = robot.told(explained={'cam_right_wrist': 'no publisher on /camera/wrist/image_raw'})
    assert found == {
        ('topics', REFUSE): 'cam_right_wrist (camera/wrist/image_raw): no publisher on '
        '/camera/wrist/image_raw'
    }


def test_a_wrong_rate_is_refused_and_a_slow_one_warned(robot):
    robot.hz['ego'] = 7.0
    assert robot.told() == {
        ('live rates', REFUSE): 'ego (camera/scene/image_raw): 7.0 Hz, the contract says 20 Hz'
    }
    robot.hz['ego'] = 13.0
    assert list(robot.told()) == [('live rates', WARN)]
    robot.hz['ego'], robot.joint_hz = 20.0, 500.0
    assert 'state (joint_states): 500.0 Hz' in robot.told()['live rates', WARN]


def test_a_gap_in_a_stream_is_no_wrong_rate(robot):
    listening = robot.listening()
    late = START + 3 * SECOND
    for index in range(10):
        now = late + index * SECOND // 50
        listening.hear(
            'state',
            SimpleNamespace(
                header=header(now - 2_000_000), name=list(HOME), position=[*HOME.values()]
            ),
            now,
        )
    assert listening.streams(late + SECOND)['state'].rate_hz == pytest.approx(50.0)


def test_a_wrong_size_is_named(robot):
    robot.size['cam_right_wrist'] = (1280, 720)
    assert robot.told() == {
        ('live pictures', REFUSE): 'cam_right_wrist: 1280x720, the contract says 640x480'
    }


def test_missing_and_renamed_joints_are_named(robot):
    robot.joints['wrist_pitch'] = robot.joints.pop('wrist_angle')
    text = robot.told()['live joint names', REFUSE]
    assert text.startswith('state (joint_states): wrist_angle not among waist, shoulder')


def test_degrees_are_named(robot):
    robot.joints = {name: value * 57.29578 for name, value in HOME.items()}
    robot.joints['left_finger'] = 0.03
    text = robot.told()['live joint units', REFUSE]
    assert 'it is published in degrees' in text


def test_millimetres_are_named(robot):
    robot.joints['left_finger'] = 30.0
    text = robot.told()['live joint units', REFUSE]
    assert text.startswith('left_finger reads 30, the limits are [0.015, 0.037] m')
    assert text.endswith('it is published in millimetres')


def test_swapped_joint_names_are_named(robot):
    robot.joints['shoulder'], robot.joints['wrist_angle'] = 1.2, -0.3
    text = robot.told()['live joint positions', REFUSE]
    assert text.startswith('shoulder reads 1.2 and wrist_angle -0.3: each fits the other')
    assert text.endswith('the names shoulder and wrist_angle are swapped')


def test_a_flipped_joint_is_named(robot):
    robot.joints['wrist_angle'] = -1.2
    assert robot.told() == {
        ('live joint positions', REFUSE): 'wrist_angle reads -1.2, trained in [0.8169, 1.696]: '
        'with the sign turned it fits; the joint is flipped'
    }


def test_a_parked_arm_is_a_warning(robot):
    robot.joints.update(WIDOWX.park.positions)
    text = robot.told()['live joint positions', WARN]
    assert text.startswith('shoulder reads -1.7, trained in [-0.4217, 0.6673]')


def test_a_robot_that_stands_elsewhere_altogether_is_refused(robot):
    robot.joints.update(waist=2.0, shoulder=-1.5, elbow=1.5, forearm_roll=2.5, wrist_rotate=3.0)
    text = robot.told()['live joint positions', REFUSE]
    assert text.endswith('the statistics are of another robot or another task')


def test_a_camera_150_ms_late_is_refused(robot):
    robot.lag_s['ego'] = 0.17
    assert robot.told() == {
        ('clocks', REFUSE): 'ego (camera/scene/image_raw): stamped 0.170 s ago when it arrives '
        '(max_age_s 0.15)'
    }


def test_a_camera_beside_the_others_is_refused(robot):
    robot.lag_s['ego'] = 0.09
    text = robot.told()['clocks', REFUSE]
    assert text == 'ego arrives 0.088 s later after its stamp than state (max_skew_s 0.06)'


def test_stamps_of_the_future_are_refused(robot):
    robot.joint_lag_s = -0.3
    assert 'state (joint_states): stamped 0.300 s ahead' in robot.told()['clocks', REFUSE]


def test_frames_and_camera_info_are_warnings(robot):
    robot.frame['ego'] = 'camera_color_optical_frame'
    infos = {'ego': (1280, 720, 'camera_scene_optical_frame')}
    found = robot.told(infos=infos, frames=frozenset({'camera_scene_optical_frame', 'base_link'}))
    assert set(found) == {('frames', WARN), ('camera_info', WARN)}
    assert found['frames', WARN] == 'tf knows no camera_wrist_optical_frame'


def test_arming_is_refused_by_the_same_words(robot):
    now = START + 2 * SECOND
    assert arming_problems(robot.listening(), METADATA, WIDOWX, 'abs_joint', now) == []
    robot.joints['wrist_angle'] = -1.2
    robot.hz.pop('ego')
    (problem,) = arming_problems(robot.listening(), METADATA, WIDOWX, 'abs_joint', now)
    assert problem.startswith('live joint positions: wrist_angle reads -1.2')


def test_a_share_outside_its_limits_is_refused_without_a_guess_of_its_unit(robot):
    fields = tuple(replace(f, unit='1') if f.unit == 'm' else f for f in WIDOWX.state.fields)
    arm = WIDOWX.action_groups()[:1]
    hand = replace(WIDOWX, state=replace(WIDOWX.state, fields=fields), layouts={'abs_joint': arm})
    robot.joints['left_finger'] = 0.5
    streams = robot.listening().streams(START + 2 * SECOND)
    findings = live_findings(Live(Pairing({}, hand, 'abs_joint'), streams))
    assert [f.found for f in findings if f.level == REFUSE] == [
        'left_finger reads 0.5, the limits are [0.015, 0.037] 1'
    ]
