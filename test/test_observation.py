"""ObservationBuffer: alignment in time, decoding, and a reason for everything it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest

from qwen_vla_ros import observation
from qwen_vla_ros.alignment import Missing, Stream
from qwen_vla_ros.embodiment import Embodiment, StateField, StateSource
from qwen_vla_ros.observation import InputError, ObservationBuffer
from qwen_vla_ros.stream_counts import told_bins

MS = 1_000_000
T0 = 1_000_000 * MS
WIDTH, HEIGHT = 4, 2


def camera(
    view: str, encoding: str = 'rgb8', offset_s: float = 0.0, depth_m=None
) -> SimpleNamespace:
    return SimpleNamespace(
        view=view,
        topic=f'camera/{view}/image_raw',
        encoding=encoding,
        width=WIDTH,
        height=HEIGHT,
        rate_hz=20.0,
        latency_offset_s=offset_s,
        depth_m=depth_m,
    )


def joint_source(names=('waist', 'elbow'), offset_s: float = 0.0, **fields) -> StateSource:
    found = tuple(StateField(name, 'rad') for name in names)
    return StateSource(
        **{'topic': 'joint_states', 'rate_hz': 50.0, 'fields': found, **fields},
        latency_offset_s=offset_s,
    )


def robot(
    cameras=None, names=('waist', 'elbow'), state_offset_s: float = 0.0, states=None
) -> SimpleNamespace:
    """A contract of two cameras of 4x2 pixels and two joints."""
    return SimpleNamespace(
        name='stub',
        cameras=tuple(cameras or (camera('ego'), camera('wrist'))),
        states=tuple(states or (joint_source(names, state_offset_s),)),
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
    assert reasons(buffer, T0 + 30 * MS) == {'state': '0.030 s behind the cameras'}


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
            {'encoding': '8UC3'},
            "ego/image_raw: encoding '8UC3' cannot be read; let the camera",
        ),
        ({'encoding': 'mono8'}, "encoding 'mono8', the contract says 'rgb8'"),
        ({'encoding': '16UC1'}, "encoding '16UC1', the contract says 'rgb8'"),
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


def test_a_clock_set_back_a_little_forgets_what_is_now_in_the_future() -> None:
    """A step of less than a jump: frames of the old time must not pass for the newest."""
    buffer = filled()
    now = T0 - 200 * MS
    assert list(reasons(buffer, now)) == ['ego', 'wrist', 'state']
    for view in ('ego', 'wrist'):
        buffer.push(view, image(now, fill=7), now)
    buffer.push('state', joints(now), now)
    found = buffer.sample(now, '')
    assert (found.stamp_ns, found.images['ego'].max()) == (now, 7)


def test_a_clock_that_jumps_ahead_makes_everything_stale_until_new_messages_come() -> None:
    buffer = filled()
    later = T0 + 3_600_000 * MS
    assert reasons(buffer, later)['ego'] == 'last frame 3600.00 s old (limit 0.15 s)'
    with pytest.raises(InputError, match='stamped 3599.950 s in the past'):
        buffer.push('ego', image(T0 + 50 * MS), later)
    for view in ('ego', 'wrist'):
        buffer.push(view, image(later), later)
    buffer.push('state', joints(later), later)
    assert buffer.sample(later, '').stamp_ns == later


def test_simulated_time_without_a_clock_is_named() -> None:
    buffer = ObservationBuffer(robot())
    with pytest.raises(InputError, match='use_sim_time is set and nobody publishes /clock'):
        buffer.push('state', joints(T0), 0)
    assert 'nobody publishes /clock' in reasons(buffer, 0)['state']


def test_simulated_time_starts_anew_from_the_beginning() -> None:
    buffer = filled()
    for start in (20 * MS, 40 * MS):
        for view in ('ego', 'wrist'):
            buffer.push(view, image(start), start)
        buffer.push('state', joints(start), start)
        assert buffer.sample(start, '').stamp_ns == start


def test_a_restarted_driver_whose_stamps_lag_is_aligned_by_them_and_nothing_stays_stuck() -> None:
    """The camera comes back with an encoder delay of 60 ms in its stamps."""
    buffer = ObservationBuffer(robot())
    for tick in range(0, 800, 10):
        now = T0 + tick * MS
        if tick % 20 == 0:
            buffer.push('state', joints(now, (tick, tick)), now)
        if tick % 50 == 0:
            buffer.push('wrist', image(now), now)
            late = 0 if tick < 300 else 60
            if not 300 <= tick < 500:
                buffer.push('ego', image(now - late * MS, fill=tick // 10), now)
        if tick in (290, 490, 790):
            found = buffer.sample(now, '')
            if tick == 490:
                assert found is None
                assert 'last frame' in reasons(buffer, now)['ego']
                continue
            exposure = {290: 250, 790: 690}[tick]
            assert found.sources_ns['ego'] == T0 + exposure * MS
            assert found.state[0] == pytest.approx((found.stamp_ns - T0) / MS)


def test_a_restarted_driver_whose_stamps_are_of_another_clock_is_refused_until_it_is_mended() -> (
    None
):
    buffer = filled()
    now = T0 + 200 * MS
    with pytest.raises(InputError, match='in the past'):
        buffer.push('ego', image(T0 - 60_000 * MS), now)
    for source, message in (('wrist', image(now)), ('state', joints(now))):
        buffer.push(source, message, now)
    assert 'last message refused' in reasons(buffer, now)['ego']
    buffer.push('ego', image(now), now)
    assert buffer.sample(now, '').stamp_ns == now


def test_a_stamp_within_the_limit_ahead_of_the_clock_does_not_block_the_frames_after_it() -> None:
    buffer = filled()
    buffer.push('ego', image(T0 + 40 * MS, fill=4), T0)
    for time in (10, 20):
        now = T0 + time * MS
        buffer.push('wrist', image(now), now)
        buffer.push('ego', image(now), now)
        buffer.push('state', joints(now), now)
        assert buffer.sample(now, '').stamp_ns == now


def test_a_driver_that_repeats_one_stamp_is_named_when_its_frame_is_too_old() -> None:
    buffer = filled()
    for time in range(10, 160, 10):
        buffer.push('ego', image(T0), T0 + time * MS - 10 * MS)
    now = T0 + 160 * MS
    buffer.push('wrist', image(now), now)
    buffer.push('state', joints(now), now)
    assert 'repeats the stamp of an earlier message' in reasons(buffer, now)['ego']


def test_what_the_graph_says_of_a_silent_source_is_told_with_it() -> None:
    buffer = filled()
    buffer.explain({'ego': 'no publisher on /camera'})
    assert buffer.missing(T0) == ()
    now = T0 + 200 * MS
    assert reasons(buffer, now)['ego'] == (
        'last frame 0.20 s old (limit 0.15 s); no publisher on /camera'
    )
    assert reasons(buffer, now)['wrist'] == 'last frame 0.20 s old (limit 0.15 s)'


# --- several sources of state -----------------------------------------------------------------


def two_arms() -> ObservationBuffer:
    states = [
        joint_source(
            (f'{side}_waist', f'{side}_elbow'),
            topic=f'{side}/joint_states',
            name=f'state.{side}',
            prefix=f'{side}_',
        )
        for side in ('left', 'right')
    ]
    names = [field.name for state in states for field in state.fields]
    return ObservationBuffer(robot(names=names, states=states))


def test_two_arms_are_interpolated_each_by_its_own_messages() -> None:
    buffer = two_arms()
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0 + 10 * MS), T0 + 10 * MS)
    for time, value in ((0, 0.0), (20, 2.0)):
        buffer.push('state.left', joints(T0 + time * MS, (value, -value)), T0 + 20 * MS)
    for time, value in ((5, 1.0), (15, 3.0)):
        buffer.push('state.right', joints(T0 + time * MS, (value, 7.0)), T0 + 20 * MS)
    found = buffer.sample(T0 + 20 * MS, '')
    assert found.state_names == ('left_waist', 'left_elbow', 'right_waist', 'right_elbow')
    np.testing.assert_array_equal(found.state, [1.0, -1.0, 2.0, 7.0])
    assert found.sources_ns['state.right'] == T0 + 10 * MS


def test_an_arm_that_is_silent_blocks_by_its_name() -> None:
    buffer = two_arms()
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0), T0)
    buffer.push('state.left', joints(T0), T0)
    assert buffer.sample(T0, '') is None
    assert reasons(buffer, T0) == {'state.right': 'never received (topic right/joint_states)'}


def odometry(time_ns: int, x: float, yaw: float, speed: float = 0.0) -> SimpleNamespace:
    half = yaw / 2
    turn = SimpleNamespace(x=0.0, y=0.0, z=np.sin(half), w=np.cos(half))
    pose = SimpleNamespace(position=SimpleNamespace(x=x, y=-x, z=9.0), orientation=turn)
    twist = SimpleNamespace(
        linear=SimpleNamespace(x=speed, y=0.5, z=9.0), angular=SimpleNamespace(x=9.0, y=9.0, z=0.1)
    )
    return SimpleNamespace(
        header=header(time_ns),
        pose=SimpleNamespace(pose=pose),
        twist=SimpleNamespace(twist=twist),
    )


def base() -> ObservationBuffer:
    units = {'x': 'm', 'y': 'm', 'yaw': 'rad', 'linear_x': 'm/s', 'angular_z': 'rad/s'}
    fields = tuple(StateField(f'base_{name}', unit) for name, unit in units.items())
    source = StateSource('odom', 50.0, fields, type='Odometry', prefix='base_')
    names = [field.name for field in fields]
    return ObservationBuffer(robot(names=names, states=[source]))


def test_odometry_is_a_state_and_its_heading_turns_the_short_way() -> None:
    buffer = base()
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0 + 10 * MS), T0 + 10 * MS)
    buffer.push('state', odometry(T0, 1.0, np.pi - 0.1, 1.0), T0 + 20 * MS)
    buffer.push('state', odometry(T0 + 20 * MS, 2.0, -np.pi + 0.3, 3.0), T0 + 20 * MS)
    found = buffer.sample(T0 + 20 * MS, '')
    np.testing.assert_allclose(found.state, [1.5, -1.5, -np.pi + 0.1, 2.0, 0.1], atol=1e-6)


def test_odometry_without_an_orientation_is_refused() -> None:
    message = odometry(T0, 0.0, 0.0)
    message.pose.pose.orientation.w = 0.0
    with pytest.raises(InputError, match='topic odom: the orientation .* is no unit quaternion'):
        base().push('state', message, T0)
    with pytest.raises(InputError, match='odometry x is nan'):
        base().push('state', odometry(T0, np.nan, 0.0), T0)


# --- each frame is decoded once ----------------------------------------------------------------


def test_a_frame_that_serves_twice_is_decoded_once_and_shared(monkeypatch) -> None:
    decoded = []
    decode = observation.decode_image

    def count(message, topic, depth_m):
        decoded.append(topic)
        return decode(message, topic, depth_m)

    monkeypatch.setattr(observation, 'decode_image', count)
    buffer = filled()
    first = buffer.sample(T0, '')
    second = buffer.sample(T0 + MS, '')
    assert decoded == ['camera/ego/image_raw', 'camera/wrist/image_raw']
    assert all(second.images[view] is first.images[view] for view in ('ego', 'wrist'))
    for view in ('ego', 'wrist'):
        buffer.push(view, image(T0 + 20 * MS, fill=3), T0 + 20 * MS)
    buffer.push('state', joints(T0 + 20 * MS), T0 + 20 * MS)
    assert buffer.sample(T0 + 20 * MS, '').images['ego'].max() == 3
    assert len(decoded) == 4
    with pytest.raises(ValueError, match='read-only'):
        second.images['ego'][0, 0] = 1


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
        'age_s': pytest.approx((0.03, 0.03, 0.03)),
        'skew_s': (0.0, 0.0, 0.0),
    }
    assert told_bins(found['sources']['ego']['age']) == '<50:1 ms'
    assert told_bins([0] * (len(edges) + 1)) == 'none'


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
