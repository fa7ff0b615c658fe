"""The viewer over DDS: markers, annotated images, silence; and pictures as marker messages."""

import array
import time

import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy')
pytest.importorskip('visualization_msgs')
from fake_robot import JOINTS, FakeRobot
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from qwen_vla_ros.msg import ActionChunk, PolicyStatus
from ros_lab import ROOT, Lab, wait_for
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from visualization_msgs.msg import Marker, MarkerArray

from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.image_decoding import decode_image
from qwen_vla_ros.nodes.marker_messages import MarkerWriter
from qwen_vla_ros.nodes.policy_report import chunk_from
from qwen_vla_ros.nodes.qos import LATCHED, SENSOR, STREAM, VIEW
from qwen_vla_ros.seeing.camera import camera_of_info
from qwen_vla_ros.seeing.frames import extrinsics_of, pose_of_transform
from qwen_vla_ros.seeing.links import RobotLinks
from qwen_vla_ros.seeing.picture import Caption, Dots, Lines, Picture, Tube, Words

OPTICAL = 'camera_scene_optical_frame'
# In front of the arm, looking back at it: x of the image to the robot's left, z along -x.
LOOK = 'base_link camera_scene_optical_frame 1.0 0.0 0.2 0.5 0.5 -0.5 -0.5'
ARM = ('waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate')


class Speaker:
    """A policy node's topics, and who looks on."""

    def __init__(self, lab):
        node, self.lab = lab.node, lab
        self.chunks = node.create_publisher(ActionChunk, 'policy/chunk', STREAM)
        self.refusals = node.create_publisher(ActionChunk, 'policy/refused', STREAM)
        self.statuses = node.create_publisher(PolicyStatus, 'policy/status', LATCHED)
        self.infos = node.create_publisher(CameraInfo, 'camera/scene/camera_info', SENSOR)
        self.seen, self._looks = [], []

    def look(self, kind, topic):
        self.seen = []
        looking = self.lab.node.create_subscription(kind, topic, self.seen.append, VIEW)
        self._looks.append(looking)

    def look_away(self):
        for subscription in self._looks:
            self.lab.node.destroy_subscription(subscription)
        self._looks.clear()

    def stamp(self, message):
        message.header.stamp = self.lab.node.get_clock().now().to_msg()
        return message

    def say(self, stage='RUNNING', reason=''):
        status = PolicyStatus(stage=stage, reason=reason, instruction='touch it')
        self.statuses.publish(self.stamp(status))

    def chunk(self, refused='', turn=0.05):
        rows = np.tile([JOINTS[name] for name in (*ARM, 'left_finger')], (16, 1))
        rows[:, 0] += turn * np.arange(16)
        message = ActionChunk(names=[*ARM, 'left_finger'], step_s=0.2, horizon=16)
        message.actions, message.refused = rows.ravel().tolist(), refused
        return self.stamp(message)

    def send(self, publisher, message):
        """Publish once somebody hears it."""
        wait_for(publisher.get_subscription_count, 8.0, 'a listener')
        publisher.publish(self.stamp(message))

    def until(self, condition, what, **said):
        """Speak as a policy node does until a message meets the condition; return it."""

        def met():
            self.say(**said)
            self.infos.publish(info())
            time.sleep(0.05)
            return next((m for m in reversed(self.seen) if condition(m)), None)

        return wait_for(met, 12.0, what)


def info():
    message = CameraInfo(width=640, height=480, distortion_model='plumb_bob', d=[0.0] * 5)
    message.k = np.array([600.0, 0, 320, 0, 600.0, 240, 0, 0, 1])
    return message


BLACK = array.array('B', bytes(480 * 640 * 3))


def enlarge(message):
    if isinstance(message, Image):
        message.height, message.width, message.step, message.data = 480, 640, 1920, BLACK


def named(message, name, action=Marker.ADD):
    return [m for m in message.markers if m.ns == name and m.action == action]


def yellow(picture):
    """Pixels of the first half of the way; of the words only the badge's green is near."""
    image = decode_image(picture, 'annotated').astype(int)[60:380]
    red, green, blue = image.transpose(2, 0, 1)
    return np.argwhere((red > 220) & (green > 80) & (blue < 90)) + [60, 0]


def astray(picture, chunk):
    """How far in pixels the way in a picture lies from where LOOK's camera sees the chunk."""
    camera = camera_of_info(info(), False, (640, 480)).placed(extrinsics_of(LOOK)[2])
    pixels = camera.project(tips(chunk_from(chunk).actions.astype(np.float64)))
    marked = yellow(picture)[:, ::-1]
    return np.linalg.norm(marked[:, None] - pixels[None], axis=2).min(1).max()


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(61, tmp_path_factory.mktemp('viz'))
    robot = FakeRobot(lab.node)
    robot.spoil = enlarge
    yield lab
    robot.stop()
    lab.close()


@pytest.fixture(scope='module')
def speaker(lab):
    return Speaker(lab)


@pytest.fixture
def viz(lab, speaker):
    lab.start_node('viz_node', extrinsics=LOOK, rate=20.0)
    yield
    speaker.look_away()
    assert lab.stop('viz_node') == 0
    assert 'Traceback' not in lab.log('viz_node')


def tips(rows):
    links = RobotLinks(Embodiment.load('widowx').description_path)
    return links.way('ee_gripper_link', ARM, np.asarray(rows)[:, :6])


def test_markers_show_the_chunk_then_the_hold_then_silence(viz, lab, speaker):
    speaker.look(MarkerArray, 'policy/markers')
    first = speaker.until(lambda m: named(m, 'executed/arm'), 'the executed way')
    assert speaker.seen[0].markers[0].action == Marker.DELETEALL
    message = speaker.chunk()
    speaker.send(speaker.chunks, message)
    found = speaker.until(lambda m: named(m, 'predicted/arm'), 'the predicted way')
    line = next(m for m in named(found, 'predicted/arm') if m.type == Marker.LINE_STRIP)
    wanted = tips(chunk_from(message).actions.astype(np.float64))
    end = line.points[-1]
    np.testing.assert_allclose([end.x, end.y, end.z], wanted[-1], atol=1e-5)
    assert line.header.frame_id == 'base_link'
    assert len(line.points) == len(line.colors)
    assert line.lifetime.nanosec == 200_000_000
    (box,) = named(first, 'limits/arm')
    assert (box.type, len(box.points)) == (Marker.LINE_LIST, 24)

    told = {'stage': 'HOLDING', 'reason': 'ego: silent for 0.2 s'}
    held = speaker.until(lambda m: named(m, 'stopped/arm'), 'the hold', **told)
    gone = next(m for m in speaker.seen if named(m, 'predicted/arm', Marker.DELETE))
    assert len(named(gone, 'predicted/arm', Marker.DELETE)) == 3
    assert not named(held, 'predicted/arm')
    texts = [m.text for m in held.markers if m.type == Marker.TEXT_VIEW_FACING]
    assert 'holds: ego: silent for 0.2 s' in texts
    assert any(text.startswith('HOLDING  touch it') for text in texts)

    del speaker.seen[:]
    silent = wait_for(
        lambda: next((m for m in speaker.seen if named(m, 'stopped/arm', Marker.DELETE)), None),
        5.0,
        'silence',
    )
    assert not named(silent, 'stopped/arm')
    assert named(silent, 'caption')[0].text.startswith('SILENT')


def test_a_refused_chunk_is_red_with_its_reason(viz, speaker):
    speaker.look(MarkerArray, 'policy/markers')
    speaker.until(lambda m: named(m, 'executed/arm'), 'the executed way')
    reason = 'row 7: velocity of waist 9 rad/s > limit 3.142 rad/s'
    message = speaker.chunk(reason, turn=0.1)
    speaker.send(speaker.refusals, message)
    found = speaker.until(lambda m: named(m, 'refused/arm'), 'the refusal')
    balls = [m for m in named(found, 'refused/arm') if m.type == Marker.SPHERE_LIST]
    place = balls[1].points[0]
    wanted = tips(chunk_from(message).actions.astype(np.float64))[7]
    np.testing.assert_allclose([place.x, place.y, place.z], wanted, atol=1e-5)
    assert balls[1].colors[0].r == 1.0
    text = next(m.text for m in named(found, 'refused/arm') if m.text)
    assert text == f'refused: {reason}'


def test_the_way_is_drawn_into_the_image_where_it_projects(viz, speaker):
    speaker.look(Image, 'policy/annotated/ego')
    speaker.until(lambda m: True, 'an annotated image')
    message = speaker.chunk(turn=0.1)
    speaker.send(speaker.chunks, message)
    found = speaker.until(lambda m: len(yellow(m)) > 50, 'the way in the image')
    assert (found.width, found.height, found.encoding) == (640, 480, 'rgb8')
    assert astray(found, message) < 14.0


def test_a_camera_without_a_frame_gets_no_projection_and_is_named(lab, speaker):
    record = lab.folder / 'run.rrd'
    lab.start_node('viz_node', rate=20.0, rerun=record)
    try:
        speaker.look(CompressedImage, 'policy/annotated/ego/compressed')
        found = speaker.until(lambda m: True, 'an annotated image')
        words = decode_image(found, 'annotated')
        assert not words[100:330].any()  # black as it was sent
        assert words[:40].any()
        wait_for(lambda: 'not known' in lab.log('viz_node'), 5.0, 'the warning')
        log = lab.log('viz_node')
        assert f"ego: no projection: frame '{OPTICAL}' is not known" in log
        assert '--params-file config/nodes/demo.yaml' in log
        if 'no tf' in log:
            assert f'they tell nothing of {OPTICAL}' in log
        assert record.exists() or 'rerun-sdk is not installed' in lab.log('viz_node')
    finally:
        speaker.look_away()
        assert lab.stop('viz_node') == 0


def test_the_simulators_cameras_need_no_extrinsics(tmp_path):
    lab = Lab(63, tmp_path)
    speaker = Speaker(lab)
    lab.node.destroy_publisher(speaker.infos)
    try:
        lab.start_node('robot_sim_node', camera_rate=5.0)
        lab.start_node('viz_node')
        speaker.look(Image, 'policy/annotated/ego')
        wait_for(lambda: speaker.seen, 20.0, 'an annotated image')
        speaker.send(speaker.chunks, speaker.chunk(turn=0.1))

        def drawn():
            speaker.say()
            time.sleep(0.05)
            return len(yellow(speaker.seen[-1])) > 50

        wait_for(drawn, 12.0, 'the way in the image')
        log = lab.log('viz_node')
        assert 'no projection' not in log and log.count('ego is of robot_sim') == 1
        speaker.look_away()
        time.sleep(0.3)
        speaker.look(Image, 'policy/annotated/ego')
        wait_for(lambda: speaker.seen, 10.0, 'an annotated image')
        assert lab.log('viz_node').count('no tf') == log.count('no tf') <= 1
    finally:
        lab.close()


def test_it_listens_only_while_somebody_looks(viz, lab, speaker):
    def heard():
        return lab.node.count_subscribers('joint_states')

    assert heard() == 0
    speaker.look(MarkerArray, 'policy/markers')
    wait_for(lambda: heard() == 1, 10.0, 'listening')
    speaker.look_away()
    wait_for(lambda: heard() == 0, 10.0, 'rest')


def test_waypoints_of_a_base_are_drawn_in_the_frame_of_its_odometry(lab, speaker):
    lab.start_node('viz_node', robot='mobile_base', rate=20.0)
    odometry = lab.node.create_publisher(Odometry, 'odom', SENSOR)
    rows = np.array([[0.1, 0.0, 0.0], [0.2, 0.1, 0.3]])

    def drive(message):
        pose = Odometry(child_frame_id='base_link')
        pose.header.frame_id = 'my_odom'
        pose.pose.pose.position.x = 3.0
        pose.pose.pose.orientation.z = pose.pose.pose.orientation.w = 0.5**0.5
        odometry.publish(speaker.stamp(pose))
        chunk = ActionChunk(names=['dx', 'dy', 'dtheta'], step_s=0.5, horizon=2)
        chunk.actions = rows.ravel().tolist()
        speaker.chunks.publish(speaker.stamp(chunk))
        return named(message, 'predicted/base')

    try:
        speaker.look(MarkerArray, 'policy/markers')
        found = speaker.until(drive, 'the way of the base')
        line = next(m for m in named(found, 'predicted/base') if m.type == Marker.LINE_STRIP)
        assert line.header.frame_id == 'my_odom'
        end = line.points[-1]
        np.testing.assert_allclose([end.x, end.y], [2.9, 0.2], atol=1e-6)
    finally:
        speaker.look_away()
        assert lab.stop('viz_node') == 0


def test_wrong_extrinsics_end_the_node_in_one_line(lab):
    child = lab.start_node('viz_node', extrinsics='base_link camera 1 2')
    assert child.wait(timeout=15) == 2
    assert "expected 'parent child x y z qx qy qz qw'" in lab.log('viz_node')
    assert 'Traceback' not in lab.log('viz_node')


@pytest.mark.parametrize('robot', ['widowx', 'aloha'])
def test_the_demos_extrinsics_are_the_simulated_cameras(robot):
    from qwen_vla_ros.sim.aloha.world import AlohaWorld
    from qwen_vla_ros.sim.world import TabletopWorld

    text = (ROOT / 'config' / 'nodes' / 'demo.yaml').read_text()
    parts = yaml.safe_load(text)['/**/viz']['ros__parameters']['extrinsics'].split(';')
    known = {part.split()[1]: extrinsics_of(part) for part in parts}
    embodiment = Embodiment.load(robot)
    world = (TabletopWorld if robot == 'widowx' else AlohaWorld)(render=False)
    joints = dict(zip(embodiment.state_names, world.positions(), strict=True))
    links = RobotLinks(embodiment.description_path).poses(joints)
    for camera in embodiment.cameras:
        parent, _, pose = known[camera.frame_id]
        found, info = links[parent] @ pose, world.camera_info(camera.view)
        # scenes move the scene camera by millimetres and fractions of a degree
        most = 0.03 if camera.view == 'ego' else 1e-3
        np.testing.assert_allclose(found[:3, 3], info.position, atol=most)
        np.testing.assert_allclose(found[:3, :3], info.rotation, atol=most)


# Without DDS -------------------------------------------------------------------------------------


def one(shape):
    picture = Picture(0, (shape,))
    return MarkerWriter(0.1).message(picture).markers[1:]


def test_every_shape_becomes_its_marker():
    points, tints = np.array([[0.0, 0, 0], [0, 0, 0.1]]), np.ones((2, 4))
    (strip,) = one(Lines('a', 'f', points, tints, 0.01))
    (pairs,) = one(Lines('a', 'f', points, tints, 0.01, joined=False))
    (dashes,) = one(Lines('a', 'f', points, tints, 0.01, dashed=True))
    assert [m.type for m in (strip, pairs, dashes)] == [
        Marker.LINE_STRIP,
        Marker.LINE_LIST,
        Marker.LINE_LIST,
    ]
    assert len(dashes.points) == 10
    assert dashes.points[1].z == pytest.approx(0.012)
    (ring,) = one(Dots('a', 'f', points, tints, 0.02, ringed=True))
    assert (ring.scale.x, ring.colors[0].a) == (pytest.approx(0.03), 0.5)
    (text,) = one(Words('a', 'f', points[1], 'why', (1, 0, 0, 1)))
    assert (text.type, text.text, text.pose.position.z) == (Marker.TEXT_VIEW_FACING, 'why', 0.1)


@pytest.mark.parametrize('axis', [(0, 0, 1), (0, 0, -1), (1, 0, 0), (0.6, -0.48, 0.64)])
def test_a_tube_lies_along_its_axis(axis):
    end = 0.3 * np.array(axis)
    balls, cylinder = one(Tube('a', 'f', np.zeros(3), end, 0.05, (1, 1, 1, 1)))
    assert (len(balls.points), cylinder.scale.z) == (2, pytest.approx(0.3))
    placed = TransformStamped().transform
    placed.rotation = cylinder.pose.orientation
    np.testing.assert_allclose(pose_of_transform(placed)[:3, 2], axis, atol=1e-9)


def test_what_a_picture_has_no_more_is_deleted_once():
    writer, line = MarkerWriter(0.1), Lines('a', 'f', np.zeros((2, 3)), np.ones((2, 4)), 0.1)
    writer.message(Picture(0, (line, line)))
    gone = writer.message(Picture(0, (line,))).markers
    assert [(m.ns, m.id, m.action) for m in gone] == [
        ('a', 1, Marker.DELETE),
        ('a', 0, Marker.ADD),
    ]
    assert [m.action for m in writer.message(Picture(0, (line,))).markers] == [Marker.ADD]


def test_the_caption_stands_above_the_robot_and_the_alarm_above_it():
    caption = Caption('touch it', 'HOLDING', 'no camera', (('model', '66 ms'),))
    picture = Picture(0, (), caption, 'base_link', (0.0, 0.0, 0.75))
    told, alarm = MarkerWriter(0.1).message(picture).markers[1:]
    assert told.text == 'HOLDING  touch it\nmodel: 66 ms'
    assert alarm.text == 'no camera'
    assert alarm.pose.position.z > told.pose.position.z == 0.75


def test_a_chunk_message_of_wrong_length_is_refused():
    with pytest.raises(Exception, match='3 numbers for 2 rows of 1'):
        chunk_from(ActionChunk(names=['waist'], horizon=2, step_s=0.1, actions=[1.0, 2.0, 3.0]))
