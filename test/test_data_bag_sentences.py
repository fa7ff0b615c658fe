"""Which sentence holds when in a bag; what follows it is another episode."""

import numpy as np
import pytest

pytest.importorskip('rosbags')
import bag_lab
import test_data_bag as bags

from qwen_vla_ros.data.bag import BagEpisodes

TOPIC = '/left/policy/instruction'
CHANGING = [(TOPIC, '', 0), (TOPIC, 'lift it', 0.4), (TOPIC, '', 1.0), (TOPIC, 'drop it', 1.4)]


def opened(tmp_path, extra):
    return BagEpisodes([bags.write(tmp_path / 'bag', extra=extra)], bags.ROBOT)


def test_one_sentence_holds_all_through(tmp_path):
    (sample, *_) = samples = list(opened(tmp_path, [(TOPIC, 'lift it', 1.0)]).stream(0))
    assert {sample.instruction for sample in samples} == {'lift it'}
    assert sample.stamp_ns < bags.START + bags.S // 2


def test_each_stretch_with_a_sentence_is_an_episode(tmp_path):
    episodes = opened(tmp_path, CHANGING)
    found = [list(episodes.stream(episode)) for episode in range(len(episodes))]
    said = [{sample.instruction for sample in samples} for samples in found]
    assert said == [{'lift it'}, {'drop it'}]
    assert [episodes.frames(episode) for episode in range(2)] == [3, 3]  # 0.6 s at 5 Hz
    assert episodes.bags == (tmp_path / 'bag',) * 2
    for samples in found:
        for sample in samples:
            alone = episodes.sample(sample.place.episode, sample.place.frame)
            np.testing.assert_array_equal(alone.actions, sample.actions)
            for view, image in sample.images.items():
                np.testing.assert_array_equal(alone.images[view], image)


def test_nothing_is_learnt_of_what_was_done_after_a_sentence(tmp_path):
    for sample in opened(tmp_path, CHANGING).stream(0):
        times = sample.stamp_ns + np.arange(bags.ROBOT.horizon) * bags.ROBOT.step_s * bags.S
        assert sample.mask[:, 0].tolist() == (times < bags.START + bags.S).tolist()


def test_a_sentence_that_is_said_again_goes_on(tmp_path):
    again = [(TOPIC, 'lift it', 0), (TOPIC, 'lift it', 0.5), (TOPIC, 'drop it', 1.0)]
    episodes = opened(tmp_path, again)
    assert [episodes.frames(episode) for episode in range(2)] == [5, 5]


def test_where_none_was_published_the_status_tells(tmp_path):
    lab, messages = bag_lab.Lab(), bag_lab.drive(2.0)
    messages = [item for item in messages if item[2] not in ('text', 'status')]
    for seconds, text in ((0.0, ''), (0.5, 'swing'), (1.5, 'rest')):
        time_ns = bag_lab.START + round(seconds * bag_lab.S)
        status = lab.status(time_ns, 0.1)
        status.instruction = text
        messages.append((time_ns, '/policy/status', 'status', status))
    bag = bag_lab.write(tmp_path / 'bag', sorted(messages, key=lambda item: item[0]))
    episodes = BagEpisodes([bag], bag_lab.ROBOT)
    said = [episodes.sample(episode, 2).instruction for episode in range(len(episodes))]
    assert said == ['swing', 'rest']
