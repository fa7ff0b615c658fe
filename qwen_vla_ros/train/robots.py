"""
Samples -> model inputs, by the very pipeline that runs on the robot, one for each robot trained.

A robot is found by its contract's name (Sample.embodiment) and its layout by the names of the
sample's actions. Statistics belong to a robot and layout; those of the checkpoint that training
goes on from are kept, for its weights mean their units.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qwen_vla_ros.data.sample import Episodes, Sample, SampleError
from qwen_vla_ros.data.statistics import Counter
from qwen_vla_ros.embodiment import Embodiment
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.answer import pose
from qwen_vla_ros.model.ask import fit_image
from qwen_vla_ros.model.checkpoint import TrainedRobot, build_pipeline, for_views
from qwen_vla_ros.model.config import QwenVLAConfig
from qwen_vla_ros.model.processor import Processor
from qwen_vla_ros.train.data_robots import robot_of
from qwen_vla_ros.train.pointing import points_of
from qwen_vla_ros.transforms import CountFromState, Pipeline, Quantiles

MEASURED = 400  # samples a source whose rows are counted for the statistics
LEAST_SPREAD = 1e-2  # between q01 and q99: else noise of a joint at rest would fill [-1, 1]
VISUAL_TOKENS = 256  # of an image in a question; larger ones shrink
Key = tuple[str, tuple[str, ...]]


def acts(sample: Sample) -> bool:
    """Return whether a sample has actions to learn."""
    return bool(sample.mask.any())


def spread(source: Episodes, count: int) -> Iterable[Sample]:
    """
    Yield about `count` samples, evenly over all frames of a source.

    A frame that has none (no hand in sight, a bad picture) is passed over: the mixture, which
    draws it as well, counts and names it.
    """
    lengths = [source.frames(episode) for episode in range(len(source))]
    starts = np.cumsum([0, *lengths])
    for index in np.unique(np.linspace(0, starts[-1] - 1, count).astype(int)):
        episode = int(np.searchsorted(starts, index, 'right')) - 1
        with contextlib.suppress(SampleError):
            yield source.sample(episode, int(index - starts[episode]))


def layout_of(embodiment: Embodiment, sample: Sample) -> str:
    """Return the layout whose names the actions have; QwenVlaError tells those that there are."""
    fitting = [
        layout
        for layout in embodiment.layouts
        if embodiment.action_names(layout) == sample.action_names
    ]
    if not fitting:
        raise sample.place.refuse(
            'actions',
            f'{list(sample.action_names)} is no layout of {embodiment.name}; it has '
            + ', '.join(f'{k}: {list(embodiment.action_names(k))}' for k in embodiment.layouts),
        )
    usual = embodiment.default_layout
    return usual if usual in fitting else fitting[0]


def find_robots(
    sources: Sequence[Episodes], known: Sequence[TrainedRobot] = (), relative: bool = False
) -> dict[Key, TrainedRobot]:
    """
    Return the robots of the sources with their statistics, and the known ones as they are.

    The rows of some samples of every source are counted; QwenVlaError for a robot without a
    contract, and for one robot in two layouts, of which a checkpoint has no room. relative: count
    also what decoder.joint_actions 'relative' makes of the actions.
    """
    found = {_key(robot): robot for robot in known}
    kept = set(found)
    counters: dict[Key, tuple[Counter, Counter, Counter]] = {}
    for source in sources:
        for sample in spread(source, MEASURED):
            if not acts(sample) or (sample.embodiment, sample.action_names) in kept:
                continue
            key = (sample.embodiment, sample.action_names)
            if key not in counters:
                embodiment = robot_of(sample)
                found[key] = TrainedRobot(embodiment, layout_of(embodiment, sample))
                names = sample.action_names
                counters[key] = Counter(names), Counter(sample.state_names), Counter(names)
            place = f'{source.source}: {sample.place}'
            rows = sample.actions[sample.mask.all(1)]
            counters[key][0].add(rows, place)
            if relative:
                step = CountFromState.of(sample.action_names, sample.state_names)
                given = {'actions': rows, 'state': sample.state}
                counters[key][2].add(step.forward(given)['actions'], place)
            if sample.state is not None:
                counters[key][1].add(sample.state[None], place)
    for key, (actions, state, counted) in counters.items():
        statistics = {'actions': quantiles(actions)}
        if state.rows:
            statistics['state'] = quantiles(state)
        if relative:
            statistics['relative'] = quantiles(counted)
        found[key] = TrainedRobot(found[key].embodiment, found[key].layout, statistics)
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise QwenVlaError(f'robot {twice[0]}: the data have it in two layouts; train them apart')
    return found


def driven(robots: Mapping[Key, TrainedRobot]) -> list[TrainedRobot]:
    """Return the robots that a checkpoint can drive: those with a contract."""
    return [robot for robot in robots.values() if robot.embodiment.text]


def _key(robot: TrainedRobot) -> Key:
    return robot.embodiment.name, robot.embodiment.action_names(robot.layout)


def quantiles(counter: Counter) -> Quantiles:
    """Return q01 and q99, at least LEAST_SPREAD apart."""
    low, high = np.array(counter.quantile(0.01)), np.array(counter.quantile(0.99))
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, LEAST_SPREAD / 2)
    return Quantiles(counter.names, middle - half, middle + half)


class Encoder:
    """Samples as a model takes them; images=False leaves the pictures out (T2A)."""

    def __init__(
        self,
        config: QwenVLAConfig,
        tokenizer: Any,
        robots: Mapping[Key, TrainedRobot],
        images: bool = True,
    ) -> None:
        """Build pipelines when they are first asked for."""
        if config.inputs.history_frames:
            raise QwenVlaError('train: inputs.history_frames: the samples have no past; set 0')
        self.config, self.tokenizer, self.robots = config, tokenizer, robots
        self.images = images
        self._processor = Processor(tokenizer, config)
        self._pipelines: dict[tuple[Key, int], Pipeline] = {}

    def robot(self, sample: Sample) -> TrainedRobot:
        """Return the robot of a sample."""
        key = (sample.embodiment, sample.action_names)
        if key not in self.robots:
            raise sample.place.refuse('embodiment', f'{sample.embodiment!r} was not measured')
        return self.robots[key]

    def pipeline(self, sample: Sample) -> Pipeline:
        """Return what stands around the model for a sample's robot and number of rows."""
        key = (sample.embodiment, sample.action_names), len(sample.actions)
        if key not in self._pipelines:
            robot = self.robot(sample)
            if self.config.decoder.state_input != 'none' and sample.state is None:
                raise sample.place.refuse(
                    'state',
                    'the data have none, but the model takes it '
                    f'(decoder.state_input {self.config.decoder.state_input})',
                )
            config = for_views(self.config, robot.embodiment)
            if not self.images:
                config = _without_views(config)
            self._pipelines[key] = build_pipeline(
                config,
                Processor(self.tokenizer, config),
                robot.embodiment,
                robot.layout,
                robot.statistics,
                len(sample.actions),
            )
        return self._pipelines[key]

    def acting(self, sample: Sample) -> dict[str, Any]:
        """Return the inputs of a sample with actions: [H, K] with the mask of what is valid."""
        try:
            found = self.pipeline(sample).forward(
                {
                    'images': sample.images,
                    'instruction': sample.instruction,
                    'state': sample.state,
                    'actions': np.where(sample.mask, sample.actions, 0),
                }
            )
        except QwenVlaError as error:
            raise sample.place.refuse('sample', str(error)) from error
        if self.config.decoder.readout_points:
            found['points'] = points_of(sample.points, self.config.decoder.readout_points)
            known = [sample.values.get(n, np.nan) for n in self.config.decoder.readout_values]
            found['values'] = np.array(known, np.float32)
            if not self.images:
                found |= {'told': found['points'], 'told_values': found['values']}
        rows, channels = sample.mask.shape
        found['action_mask'][:rows, :channels] &= sample.mask
        return found

    def answering(self, sample: Sample) -> dict[str, Any]:
        """Return the inputs of a sample that says something: question, images, answer."""
        unit = self._processor.patch * self._processor.merge
        images = [
            fit_image(image, self.config, unit, None, VISUAL_TOKENS)
            for image in (sample.images.values() if self.images else ())
        ]
        try:
            return pose(self._processor, images, sample.instruction, sample.text, sample.earlier)
        except QwenVlaError as error:
            raise sample.place.refuse('text', str(error)) from error


def _without_views(config: QwenVLAConfig) -> QwenVLAConfig:
    return replace(config, inputs=replace(config.inputs, image_sizes={}))
