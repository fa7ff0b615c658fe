"""What was left out is told by episode and kind of reason."""

from qwen_vla_ros.data.left_out import LINES, frames_left_out
from qwen_vla_ros.data.sample import Place


def test_frames_are_counted_by_episode_and_kind_of_reason():
    refusals = [
        str(Place('set', 0, frame, 'bag_a').refuse('ego', f'last frame 0.{frame} s old'))
        for frame in (3, 4, 5)
    ]
    refusals.append(str(Place('set', 1, 0, 'bag_b').refuse('ego', 'never received')))
    assert frames_left_out(refusals) == [
        'left out: bag_a: episode 0: 3 frames: ego: last frame 0.3 s old',
        'left out: bag_b: episode 1: 1 frame: ego: never received',
    ]


def test_what_is_no_frame_is_told_as_it_is_and_the_lines_end():
    assert frames_left_out(['words']) == ['left out: 1 frame: words']
    many = [str(Place('set', episode, 0).refuse('x', 'y')) for episode in range(LINES + 3)]
    assert frames_left_out(many)[-1] == 'left out: 3 more frames'
