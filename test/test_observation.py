"""ObservationBuffer: alignment in time, decoding, and a reason for everything it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest

from qwen_vla_ros.alignment import Missing, Stream
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.observation import InputError, ObservationBuffer

MS = 1_000_000
T0 = 1_000_000 * MS
WIDTH, HEIGHT = 4, 2


def camera(view: str, encoding: str = 'rgb8', offset_s: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(
        view=view,
        topic=f'camera/{view}/image_raw',
        encoding=encoding,
        width=WIDTH,
        height=HEIGHT,
        rate_hz=20.0,
        latency_offset_s=offset_s,
    )


def robot(cameras=None, names=('waist', 'elbow'), state_offset_s: float = 0.0) -> SimpleNamespace:
    """A contract of two cameras of 4x2 pixels and two joints."""
    return SimpleNamespace(
        name='stub',
        cameras=tuple(cameras or (camera('ego'), camera('wrist'))),
        state=SimpleNamespace(topic='joint_states', rate_hz=50.0, latency_offset_s=state_offset_s),
        state_names=tuple(names),
        safety=SimpleNamespace(max_skew_s=0.06, max_age_s=0.15, max_future_s=0.05),
    )


def header(time_ns: int) -> SimpleNamespace:
    sec, nanosec = divmod(time_ns, 1_000_000_000)
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id='')


def image(time_ns: int, fill: int = 0, **fields) -> SimpleNamespace:
    message = SimpleNamespace(
        header=header(time_ns),
        encoding='rgb8',
        width=WIDTH,
        height=HEIGHT,
        step=3 * WIDTH,
        is_bigendian=0,
        data=bytes([fill]) * (3 * WIDTH * HEIGHT),
    )
    message.__dict__.update(fields)
    return message


def joints(time_ns: int, positions=(0.0, 0.0), names=('waist', 'elbow')) -> SimpleNamespace:
    return SimpleNamespace(header=header(time_ns), name=list(names), position=list(positions))


def filled(now_ns: int = T0, contract=None) -> ObservationBuffer:
    """A buffer with one frame of each camera and joints around it, all at now_ns."""
    buffer = ObservationBuffer(contract or robot())
    for view in ('ego', 'wrist'):
        buffer.push(view, image(now_ns), now_ns)
    buffer.push('state', joints(now_ns), now_ns)
    return buffer


def reasons(buffer: ObservationBuffer, now_ns: int) -> dict[str, str]:
    return {problem.source: problem.reason for problem in buffer.missing(now_ns)}


# --- alignment -----------------------------------------------------------------------------


def test_anchor_is_the_newest_frame_of_the_camera_furthest_behind() -> None:
    buffer = ObservationBuffer(robot())
    for time in (0, 50, 100):
        buffer.push('ego', image(T0 + time * MS, fill=time), T0 + time * MS)
    buffer.push('wrist', image(T0 + 60 * MS), T0 + 60 * MS)
    for time in (40, 60, 80):
        buffer.push('state', joints(T0 + time * MS), T0 + time * MS)
    found = buffer.sample(T0 + 110 * MS, 'touch the red block')
    assert found.stamp_ns == T0 + 60 * MS
    assert found.sources_ns['ego'] == T0 + 50 * MS
    assert found.images['ego'][0, 0, 0] == 50
    assert found.instruction == 'touch the red block'


def test_joints_are_interpolated_to_the_anchor() -> None:
    buffer = ObservationBuffer(robot())
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0 + 45 * MS), T0 + 45 * MS)
    buffer.push('state', joints(T0 + 40 * MS, (1.0, -2.0)), T0 + 40 * MS)
    buffer.push('state', joints(T0 + 60 * MS, (2.0, -4.0)), T0 + 60 * MS)
    found = buffer.sample(T0 + 60 * MS, '')
    np.testing.assert_array_equal(found.state, np.array([1.25, -2.5], np.float32))
    assert found.state.dtype == np.float32
    assert found.sources_ns['state'] == T0 + 45 * MS


def test_joints_a_period_behind_are_taken_as_they_are() -> None:
    buffer = ObservationBuffer(robot())
    for time, value in ((-20, 1.0), (0, 2.0)):
        buffer.push('state', joints(T0 + time * MS, (value, value)), T0)
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0 + 20 * MS), T0 + 20 * MS)
    found = buffer.sample(T0 + 20 * MS, '')
    np.testing.assert_array_equal(found.state, [2.0, 2.0])
    assert found.sources_ns['state'] == T0


def test_joints_further_behind_are_never_extrapolated() -> None:
    buffer = ObservationBuffer(robot())
    buffer.push('state', joints(T0), T0)
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0 + 30 * MS), T0 + 30 * MS)
    assert buffer.sample(T0 + 30 * MS, '') is None
    assert reasons(buffer, T0 + 30 * MS) == {
        'state': 'joint states are 0.030 s behind the cameras'
    }


def test_older_frames_are_taken_while_the_joints_are_behind() -> None:
    buffer = filled()
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0 + 50 * MS), T0 + 50 * MS)
    assert buffer.sample(T0 + 50 * MS, '').stamp_ns == T0


def test_no_joints_as_old_as_the_frames() -> None:
    buffer = ObservationBuffer(robot())
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0), T0)
    buffer.push('state', joints(T0 + 10 * MS), T0 + 10 * MS)
    assert 'as old as the newest frames' in reasons(buffer, T0 + 10 * MS)['state']


def test_joints_are_not_interpolated_over_a_hole() -> None:
    buffer = ObservationBuffer(robot())
    buffer.push('state', joints(T0 - 120 * MS), T0 - 120 * MS)
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0), T0)
    buffer.push('state', joints(T0 + 100 * MS), T0 + 100 * MS)
    assert reasons(buffer, T0 + 100 * MS) == {'state': 'a gap of 0.22 s around the newest frames'}


def test_skew_over_budget_blocks_and_is_named() -> None:
    buffer = ObservationBuffer(robot())
    buffer.push('ego', image(T0), T0)
    buffer.push('wrist', image(T0 + 80 * MS), T0 + 80 * MS)
    for time in (0, 80):
        buffer.push('state', joints(T0 + time * MS), T0 + time * MS)
    assert buffer.sample(T0 + 80 * MS, '') is None
    assert reasons(buffer, T0 + 80 * MS) == {'wrist': 'skew 0.080 s > 0.06 s between the cameras'}


def test_latency_offset_moves_a_stream_back_to_its_exposure() -> None:
    contract = robot((camera('ego', offset_s=0.03), camera('wrist')), state_offset_s=0.01)
    buffer = ObservationBuffer(contract)
    buffer.push('ego', image(T0 + 30 * MS), T0 + 30 * MS)
    buffer.push('wrist', image(T0), T0 + 30 * MS)
    buffer.push('state', joints(T0 + 10 * MS, (1.0, 1.0)), T0 + 30 * MS)
    found = buffer.sample(T0 + 30 * MS, '')
    assert found.sources_ns == {'ego': T0, 'wrist': T0, 'state': T0}


def test_out_of_order_messages_are_filed_in_order() -> None:
    buffer = filled()
    for time, value in ((40, 4.0), (20, 2.0)):
        buffer.push('state', joints(T0 + time * MS, (value, value)), T0 + 40 * MS)
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0 + 30 * MS), T0 + 40 * MS)
    np.testing.assert_array_equal(buffer.sample(T0 + 40 * MS, '').state, [3.0, 3.0])


def test_a_duplicate_changes_nothing() -> None:
    buffer = filled()
    buffer.push('ego', image(T0, fill=9), T0)
    assert buffer.sample(T0, '').images['ego'].max() == 0
    assert buffer.statistics()['sources']['ego']['duplicates'] == 1


# --- names and numbers of the joints -------------------------------------------------------


def test_any_order_of_names_and_extra_joints() -> None:
    buffer = filled()
    names = ('finger', 'elbow', 'waist')
    buffer.push('state', joints(T0 + MS, (9.0, 2.0, 1.0), names), T0 + MS)
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0 + MS), T0 + MS)
    np.testing.assert_array_equal(buffer.sample(T0 + MS, '').state, [1.0, 2.0])


@pytest.mark.parametrize(
    ('message', 'words'),
    [
        (joints(T0, (1.0,), ('waist',)), "joint_states: joint 'elbow' is missing"),
        (joints(T0, (1.0, np.nan)), 'joint_states: joint elbow is nan'),
        (joints(T0, (np.inf, -np.inf)), 'joint waist is inf'),
        (joints(T0, (1.0,)), '1 positions for 2 joint names'),
        (
            joints(T0, (1.0, 2.0, 3.0), ('waist', 'elbow', 'waist')),
            "'waist' is named twice",
        ),
        (joints(0), 'joint_states: the header stamp is zero'),
        (joints(T0 + 60 * MS), r'stamped 0.060 s in the future \(limit 0.05 s\)'),
        (joints(T0 - 200 * MS), r'stamped 0.200 s in the past \(limit 0.15 s\)'),
    ],
)
def test_bad_joint_states_are_refused_and_not_stored(message, words) -> None:
    buffer = ObservationBuffer(robot())
    with pytest.raises(InputError, match=words):
        buffer.push('state', message, T0)
    assert reasons(buffer, T0)['state'].startswith('last message refused: topic joint_states')


# --- images --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        (
            {'encoding': '16UC1'},
            "ego/image_raw: encoding '16UC1' cannot be read; let the camera",
        ),
        ({'encoding': 'mono8'}, "encoding 'mono8', the contract says 'rgb8'"),
        ({'width': 8, 'step': 24, 'height': 1}, 'image is 8x1, the contract says 4x2'),
        ({'data': b'123'}, '3 bytes with a step of 12 are too few for 4x2 rgb8'),
        ({'step': 4}, 'with a step of 4 are too few'),
        ({'header': header(0)}, 'stamp is zero'),
        ({'header': header(T0 + 51 * MS)}, 'in the future'),
    ],
)
def test_bad_images_are_refused_and_not_stored(fields, words) -> None:
    buffer = ObservationBuffer(robot())
    with pytest.raises(InputError, match=words):
        buffer.push('ego', image(T0, **fields), T0)
    assert reasons(buffer, T0)['ego'].startswith('last message refused: topic camera/ego')


PIXEL = {
    'rgb8': [1, 2, 3],
    'bgr8': [3, 2, 1],
    'rgba8': [1, 2, 3, 9],
    'bgra8': [3, 2, 1, 9],
}


@pytest.mark.parametrize('encoding', PIXEL)
def test_colour_encodings_become_rgb_and_padding_is_skipped(encoding) -> None:
    row = bytes(PIXEL[encoding]) * WIDTH + b'\xff' * 5
    buffer = filled()
    fields = {
        'encoding': encoding,
        'step': len(row),
        'data': row * HEIGHT,
        'is_bigendian': 1,
    }
    buffer.push('ego', image(T0 + MS, **fields), T0 + MS)
    buffer.push('wrist', image(T0 + MS), T0 + MS)
    found = buffer.sample(T0 + MS, '').images['ego']
    np.testing.assert_array_equal(found, np.full((HEIGHT, WIDTH, 3), [1, 2, 3], np.uint8))


def test_mono_where_the_contract_says_so() -> None:
    contract = robot((camera('ego', 'mono8'), camera('wrist')))
    buffer = ObservationBuffer(contract)
    data = bytes(range(WIDTH * HEIGHT))
    buffer.push('ego', image(T0, encoding='mono8', step=WIDTH, data=data), T0)
    buffer.push('wrist', image(T0), T0)
    buffer.push('state', joints(T0), T0)
    found = buffer.sample(T0, '').images['ego']
    np.testing.assert_array_equal(found[..., 2].ravel(), np.arange(WIDTH * HEIGHT))


def compressed(kind: str, time_ns: int, width: int = WIDTH, cut: int = 0) -> SimpleNamespace:
    cv2 = pytest.importorskip('cv2')
    picture = np.full((HEIGHT, width, 3), [10, 100, 200], np.uint8)
    data = cv2.imencode(f'.{kind}', picture)[1].tobytes()
    return SimpleNamespace(
        header=header(time_ns),
        format=f'bgr8; {kind} compressed',
        data=data[: len(data) - cut],
    )


@pytest.mark.parametrize('kind', ['jpg', 'png'])
def test_compressed_images_become_rgb(kind) -> None:
    buffer = filled()
    buffer.push('ego', compressed(kind, T0 + MS), T0 + MS)
    buffer.push('wrist', image(T0 + MS), T0 + MS)
    found = buffer.sample(T0 + MS, '').images['ego'].astype(int)
    assert np.abs(found - [200, 100, 10]).max() <= 3


@pytest.mark.parametrize('kind', ['jpg', 'png'])
def test_cut_or_wrong_compressed_images_are_refused(kind) -> None:
    buffer = ObservationBuffer(robot())
    with pytest.raises(InputError, match='is cut'):
        buffer.push('ego', compressed(kind, T0, cut=20), T0)
    with pytest.raises(InputError, match='8x2, the contract says 4x2'):
        buffer.push('ego', compressed(kind, T0, width=8), T0)
    with pytest.raises(InputError, match='neither jpeg nor png'):
        buffer.push('ego', SimpleNamespace(header=header(T0), format='webp', data=b''), T0)


def test_undecodable_frame_is_dropped_at_sampling_with_its_reason() -> None:
    buffer = filled()
    message = compressed('png', T0 + MS)
    broken = bytearray(message.data)
    broken[41:-12] = bytes(len(broken) - 53)
    message.data = bytes(broken)
    buffer.push('ego', message, T0 + MS)
    buffer.push('wrist', image(T0 + MS), T0 + MS)
    assert buffer.sample(T0 + MS, '') is None
    assert buffer.sample(T0 + MS, '').sources_ns['ego'] == T0
    assert 'cannot be decoded' in reasons(buffer, T0 + 200 * MS)['ego']


# --- staleness, clocks, bookkeeping --------------------------------------------------------


def test_nothing_received_is_said_of_every_source() -> None:
    buffer = ObservationBuffer(robot())
    assert buffer.sample(T0, '') is None
    assert buffer.missing(T0)[0] == Missing('ego', 'never received (topic camera/ego/image_raw)')
    assert list(reasons(buffer, T0)) == ['ego', 'wrist', 'state']


def test_stale_source_is_named_with_its_age() -> None:
    buffer = filled()
    now = T0 + 310 * MS
    buffer.push('wrist', image(now), now)
    buffer.push('state', joints(now), now)
    assert reasons(buffer, now) == {'ego': 'last frame 0.31 s old (limit 0.15 s)'}
    assert str(buffer.missing(now)[0]) == 'ego: last frame 0.31 s old (limit 0.15 s)'


def test_one_bad_message_among_good_ones_does_not_stop_the_robot() -> None:
    buffer = filled()
    with pytest.raises(InputError):
        buffer.push('state', joints(T0 + MS, (np.nan, 0.0)), T0 + MS)
    assert buffer.missing(T0 + MS) == ()
    assert buffer.sample(T0 + MS, '') is not None


def test_clock_that_jumps_back_empties_the_buffer() -> None:
    buffer = filled()
    earlier = T0 - 2_000 * MS
    assert 'never received' in reasons(buffer, earlier)['ego']
    for view in ('ego', 'wrist'):
        buffer.push(view, image(earlier), earlier)
    buffer.push('state', joints(earlier), earlier)
    assert buffer.sample(earlier, '').stamp_ns == earlier


def test_small_steps_back_of_the_clock_are_tolerated() -> None:
    buffer = filled()
    assert buffer.sample(T0 - 10 * MS, '').stamp_ns == T0


def test_clear_forgets_messages() -> None:
    buffer = filled()
    buffer.clear()
    assert len(buffer.missing(T0)) == 3


def test_unknown_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="'egg' is unknown; this robot has ego, wrist, state"):
        ObservationBuffer(robot()).push('egg', image(T0), T0)


def test_statistics_count_age_and_skew() -> None:
    buffer = ObservationBuffer(robot())
    buffer.push('ego', image(T0), T0)
    buffer.push('wrist', image(T0 + 15 * MS), T0 + 15 * MS)
    buffer.push('state', joints(T0), T0 + 15 * MS)
    assert buffer.sample(T0 + 30 * MS, '') is not None
    found = buffer.statistics()
    edges = found['edges_s']
    assert found['samples'] == 1
    assert found['sources']['wrist']['skew'].index(1) == edges.index(0.02)
    assert found['sources']['ego']['age'].index(1) == edges.index(0.05)
    assert found['sources']['state'] == {
        'received': 1,
        'refused': 0,
        'duplicates': 0,
        'age': found['sources']['ego']['age'],
        'skew': [1] + [0] * len(edges),
    }


def test_stream_is_bounded_and_keeps_the_newest() -> None:
    stream = Stream(10)
    for time in range(1000):
        stream.add(time, time)
    assert stream.times[-10:] == list(range(990, 1000))
    assert len(stream.times) < 20


@pytest.mark.parametrize(
    ('time', 'nearest'), [(-5, 0), (0, 0), (4, 0), (5, 0), (6, 10), (14, 10), (99, 20)]
)
def test_nearest_frame(time, nearest) -> None:
    stream = Stream(10)
    for known in (0, 10, 20):
        stream.add(known, known)
    assert stream.times[stream.nearest(time)] == nearest


def test_messages_of_ros_and_of_bags_give_the_same_observation() -> None:
    """The one decode path: rclpy objects with array.array, rosbags objects with ndarray."""
    pytest.importorskip('rclpy')
    from array import array

    from builtin_interfaces.msg import Time
    from rosbags.typesys import Stores, get_typestore
    from sensor_msgs.msg import Image, JointState

    pixels = np.arange(3 * WIDTH * HEIGHT, dtype=np.uint8)
    stamp = {'sec': T0 // 1_000_000_000, 'nanosec': T0 % 1_000_000_000}
    live_image = Image(encoding='rgb8', width=WIDTH, height=HEIGHT, step=3 * WIDTH)
    live_image.data = array('B', pixels.tobytes())
    live_image.header.stamp = Time(**stamp)
    live_joints = JointState(name=['elbow', 'waist'], position=[2.0, 1.0])
    live_joints.header.stamp = Time(**stamp)

    types = get_typestore(Stores.ROS2_JAZZY).types
    bag_header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](**stamp), '')
    bag_image = types['sensor_msgs/msg/Image'](
        bag_header, HEIGHT, WIDTH, 'rgb8', 0, 3 * WIDTH, pixels
    )
    none = np.array([])
    bag_joints = types['sensor_msgs/msg/JointState'](
        bag_header, ['elbow', 'waist'], np.array([2.0, 1.0]), none, none
    )
    found = []
    for picture, state in ((live_image, live_joints), (bag_image, bag_joints)):
        buffer = ObservationBuffer(robot())
        for view in ('ego', 'wrist'):
            buffer.push(view, picture, T0)
        buffer.push('state', state, T0)
        found.append(buffer.sample(T0, ''))
    np.testing.assert_array_equal(found[0].images['ego'].ravel(), pixels)
    np.testing.assert_array_equal(found[0].images['ego'], found[1].images['ego'])
    np.testing.assert_array_equal(found[0].state, [1.0, 2.0])
    np.testing.assert_array_equal(found[0].state, found[1].state)


def test_observation_of_the_real_contract() -> None:
    contract = Embodiment.load('widowx')
    buffer = ObservationBuffer(contract)
    assert buffer.sources == ('ego', 'cam_right_wrist', 'state')
    size = {'width': 640, 'height': 480, 'step': 1920, 'data': bytes(640 * 480 * 3)}
    for view in buffer.sources[:-1]:
        buffer.push(view, image(T0, **size), T0)
    names = contract.state_names[::-1]
    buffer.push('state', joints(T0, [0.1 * index for index in range(7)], names), T0)
    found = buffer.sample(T0, 'touch the red block')
    assert {view: picture.shape for view, picture in found.images.items()} == {
        'ego': (480, 640, 3),
        'cam_right_wrist': (480, 640, 3),
    }
    np.testing.assert_allclose(found.state, 0.1 * np.arange(7)[::-1], atol=1e-7)
