"""
Observation -> ActionChunk: the one verb that every policy wears.

LocalPolicy (the model in this process), RemotePolicy (remote.py, the model in another process),
ConstantPolicy (holds still) and AblatedPolicy (a baseline that is denied a part of its input) are
interchangeable. What a policy needs and gives stands in its metadata, which comes from the
checkpoint and is compared with the robot's contract by name before anything moves.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.history import FrameHistory
from qwen_vla_ros.types import ActionChunk, Observation

if TYPE_CHECKING:
    from pathlib import Path

    from qwen_vla_ros.embodiment import Embodiment
    from qwen_vla_ros.model.engine import Engine, EngineOptions
    from qwen_vla_ros.model.qwen_vla import QwenVLA
    from qwen_vla_ros.model.step_log import StepLog
    from qwen_vla_ros.transforms import Pipeline


# What a policy of another make may leave unsaid.
OPTIONAL = {'action_kinds'}


class PolicyMismatch(QwenVlaError):
    """A policy and a robot do not fit; the message names each difference."""


class Policy(Protocol):
    """What the rest of the stack knows of a policy."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the JSON-able facts that describe_policy() lists."""

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """
        Return the chunk that starts at the observation's stamp.

        prefix, float32 [d, A] in SI units, are the first d rows that will be executed anyway; the
        rest of the chunk continues them (real-time chunking).
        """

    def reset(self) -> None:
        """Forget everything that belongs to the running task."""


def describe_policy(embodiment: 'Embodiment', layout: str | None = None) -> dict[str, Any]:
    """Return the metadata of a policy that fits a contract exactly."""
    groups = embodiment.action_groups(layout)
    return {
        'embodiment': embodiment.name,
        'layout': layout or embodiment.default_layout,
        'action_names': list(embodiment.action_names(layout)),
        'action_units': [unit for group in groups for unit in group.units],
        'action_kinds': [group.kind for group in groups for _ in group.names],
        'state_names': list(embodiment.state_names),
        'views': [camera.view for camera in embodiment.cameras],
        'rate_hz': float(embodiment.rate_hz),
        'horizon': int(embodiment.horizon),
    }


def refuse_mismatch(metadata: Mapping[str, Any], embodiment: 'Embodiment', layout: str) -> None:
    """
    Raise PolicyMismatch that names every fact in which policy and contract differ.

    Layouts may have other names, as they may send the same actions to other drivers: what counts
    is the names, units and kinds of their channels.
    """
    wanted = describe_policy(embodiment, layout)
    differences = [
        f'{key}: the policy has {metadata.get(key)!r}, the robot {value!r}'
        for key, value in wanted.items()
        if (key in metadata or key not in OPTIONAL)
        and key != 'layout'
        and metadata.get(key) != value
    ]
    if differences:
        raise PolicyMismatch(
            f'policy {metadata.get("checkpoint", "?")} does not fit robot {embodiment.name} '
            f'(layout {layout}); choose a checkpoint trained for it. ' + '; '.join(differences)
        )


class ConstantPolicy:
    """Hold the observed joints: the policy of a dry run and of tests (absolute layouts only)."""

    def __init__(self, embodiment: 'Embodiment', layout: str | None = None) -> None:
        """Wear the metadata of a policy that fits the contract."""
        self._metadata = {**describe_policy(embodiment, layout), 'checkpoint': 'constant'}
        self._step_s = embodiment.step_s
        absent = set(self._metadata['action_names']) - set(embodiment.state_names)
        if absent:
            raise QwenVlaError(f'constant policy: no state field for the actions {sorted(absent)}')

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the contract's own facts."""
        return self._metadata

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Return H equal rows: where the robot is."""
        names = tuple(self._metadata['action_names'])
        row = [observation.state[observation.state_names.index(name)] for name in names]
        actions = np.tile(np.asarray(row, np.float32), (self._metadata['horizon'], 1))
        return ActionChunk(actions, names, observation.stamp_ns, self._step_s)

    def reset(self) -> None:
        """Nothing to forget."""


class AblatedPolicy:
    """
    A baseline: the same policy, denied one part of its input.

    'language': every episode gets the instruction of an object drawn at random from the scene.
    'image': the policy sees the images of another scene, taken once.
    """

    def __init__(self, policy: Policy, replace: Mapping[str, Any]) -> None:
        """Replace fields of each observation (keys of Observation) before the policy sees it."""
        self._policy = policy
        self._replace = dict(replace)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the inner policy's metadata."""
        return self._policy.metadata

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Infer from the observation with the named fields replaced."""
        from dataclasses import replace

        return self._policy.infer(replace(observation, **self._replace), prefix)

    def reset(self) -> None:
        """Reset the inner policy."""
        self._policy.reset()


class LocalPolicy:
    """The model in this process: forward transforms, model, the same transforms inversed."""

    def __init__(
        self,
        model: 'QwenVLA',
        pipeline: 'Pipeline',
        metadata: Mapping[str, Any],
        steps: int | None = None,
        options: 'EngineOptions | None' = None,
        engine: 'Engine | None' = None,
        log: 'StepLog | None' = None,
    ) -> None:
        """
        Join a model and the transforms it was trained with; steps = denoising steps.

        engine: one that runs this model already, shared with other robots and clients; log: takes
        every call, see log_steps().
        The metadata tells how it runs ('engine'), and of real-time chunking how many known rows
        a call may bring ('max_prefix') and whether the model was trained for them ('prefix':
        'trained': they come back as they are; 'guided': the chunk is pulled towards them).
        """
        from qwen_vla_ros.model.engine import Engine

        self._model, self._pipeline, self._log = model, pipeline, log
        self._engine = engine or Engine(model, steps, options)
        flow, inputs = model.config.flow, model.config.inputs
        self._view = inputs.history_view
        self._history = FrameHistory(inputs.history_frames, inputs.history_rate_hz)
        self._trained = flow.prefix_rate > 0
        self._metadata = {
            **metadata,
            'engine': self._engine.describe(),
            'state_input': model.config.decoder.state_input,
            'image_sizes': {
                view: list(size)
                for view, size in model.config.inputs.image_sizes.items()
                if view in metadata.get('views', (view,))
            },
            'prefix': 'trained' if self._trained else 'guided',
            'max_prefix': flow.prefix_rows if self._trained else model.config.decoder.horizon - 1,
        }
        self.reset()

    def open(self, robot: str = '') -> 'LocalPolicy':
        """Return the same policy for another client: its own history, one engine."""
        return LocalPolicy(
            self._model, self._pipeline, self._metadata, engine=self._engine, log=self._log
        )

    def log_steps(self, folder: 'Path', max_gb: float = 2.0) -> None:
        """Write every call from now on into a new folder, at most max_gb; see model/step_log."""
        from qwen_vla_ros.model.step_log import StepLog

        self._log = StepLog(folder, self._model, self._engine, max_gb)

    @property
    def log_problem(self) -> str:
        """Return why the log of steps ended; '' while it goes on, or where there is none."""
        return '' if self._log is None else self._log.failure

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return what the checkpoint says of itself."""
        return self._metadata

    def infer(self, observation: Observation, prefix: np.ndarray | None = None) -> ActionChunk:
        """Run the policy once; the noise of an observation's stamp is always the same."""
        import torch

        from qwen_vla_ros.model.noise import noise_of, seed_of

        torch.get_num_threads()  # in a thread new to torch this makes set_num_threads() hold
        given = {
            'images': observation.images,
            'history': self._history.recent(observation.stamp_ns),
            'state': observation.state,
            'instruction': observation.instruction,
            'prefix': prefix,
        }
        sample = self._pipeline.forward(given)
        if self._model.config.inputs.history_frames:
            self._history.push(observation.stamp_ns, sample['images'][self._view])
        seed = seed_of(observation.stamp_ns)
        noise = noise_of(sample, seed)
        self._calls += 1
        frozen = None if prefix is None or self._trained else len(prefix)
        trace = self._begin_trace()
        actions = self._engine.sample_actions([sample], noise, frozen)
        rows = self._pipeline.inverse({**sample, 'actions': actions[0].float().cpu().numpy()})
        if trace is not None:
            tensors = {'noise': noise, 'actions': actions, 'rows': rows['actions']}
            self._write_step(given, sample, tensors, trace, observation, seed)
        chunk = np.asarray(rows['actions'], np.float32)
        if not np.isfinite(chunk).all():
            raise QwenVlaError('policy: the model returned a number that is not finite')
        return ActionChunk(
            chunk,
            tuple(self._metadata['action_names']),
            observation.stamp_ns,
            1.0 / self._metadata['rate_hz'],
            self._metadata.get('frame', ''),
        )

    def reset(self) -> None:
        """Start the history anew, so an episode is repeatable."""
        self._history.clear()
        self._calls = 0

    @property
    def model(self) -> 'QwenVLA':
        """Return the model."""
        return self._model

    def again(self, given: Mapping[str, Any], seed: int, draw: int) -> dict[str, np.ndarray]:
        """
        Make a logged call once more and return its stages, by the names of the log.

        given: what the transforms take; the noise is the draw-th of the seed's generator.
        """
        from qwen_vla_ros.model.noise import noise_of
        from qwen_vla_ros.model.step_log import Trace, arrays

        sample = self._pipeline.forward(dict(given))
        noise = noise_of(sample, seed, draw)
        prefix = given['prefix']
        frozen = None if prefix is None or self._trained else len(prefix)
        self._engine.trace = trace = Trace()
        try:
            actions = self._engine.sample_actions([sample], noise, frozen)
        finally:
            self._engine.trace = None
        rows = self._pipeline.inverse({**sample, 'actions': actions[0].float().cpu().numpy()})
        made = {name: sample.get(name) for name in ('input_ids', 'pixel_values')}
        made |= {'model_state': sample.get('state'), 'noise': noise, 'actions': actions}
        return arrays({**made, 'rows': rows['actions'], **trace.tensors()})

    def _begin_trace(self) -> Any:
        """Let the engine tell of the next call, when it is to be logged."""
        if self._log is None:
            return None
        from qwen_vla_ros.model.step_log import Trace

        self._engine.trace = Trace()
        return self._engine.trace

    def _write_step(
        self,
        given: Mapping[str, Any],
        sample: Mapping[str, Any],
        came: Mapping[str, Any],
        trace: Any,
        observation: Observation,
        seed: int,
    ) -> None:
        """Log a call: what went in, what came out, and what lay between."""
        self._engine.trace = None
        tensors = {f'images.{view}': image for view, image in sample['images'].items()}
        tensors |= {f'history.{i:02d}': image for i, image in enumerate(given['history'])}
        tensors |= {name: sample.get(name) for name in ('input_ids', 'pixel_values')}
        tensors |= {'state': given['state'], 'prefix': given['prefix'], **came}
        tensors |= {'model_state': sample.get('state')}
        facts = {
            'instruction': observation.instruction,
            'embodiment': observation.embodiment,
            'stamp_ns': observation.stamp_ns,
            'seed': seed,
            'draw': 1,
            'call': self._calls,
            'checkpoint': str(self._metadata.get('checkpoint', '')),
        }
        self._log.write({**tensors, **trace.tensors()}, facts)


class ModelPolicies:
    """One model for several robots: a policy of its own for every client that names its robot."""

    def __init__(self, policies: Mapping[str, LocalPolicy]) -> None:
        """Take a policy for each robot, by the name of its contract; they share one engine."""
        self._policies = dict(policies)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return which robots there are, and how the model runs."""
        first = next(iter(self._policies.values())).metadata
        return {'robots': list(self._policies), 'engine': first['engine']}

    def log_steps(self, folder: 'Path', max_gb: float = 2.0) -> None:
        """Log every call, a folder a robot; see LocalPolicy.log_steps()."""
        for name, policy in self._policies.items():
            policy.log_steps(folder / name, max_gb)

    def open(self, robot: str = '') -> LocalPolicy:
        """Return a new policy for a robot; without a name for the only one."""
        if not robot and len(self._policies) == 1:
            robot = next(iter(self._policies))
        if robot not in self._policies:
            asked = f'{robot!r} is none of them' if robot else 'name one of them'
            raise PolicyMismatch(f'the model drives {", ".join(self._policies)}; {asked}')
        return self._policies[robot].open()


def load_policies(
    checkpoint: 'str | Path',
    device: str = 'auto',
    steps: int | None = None,
    dtype: str = 'auto',
    attention: str | None = None,
    adapters: 'str | Path | None' = None,
    quantise: str | None = None,
    options: 'EngineOptions | None' = None,
) -> ModelPolicies:
    """Load a checkpoint once, for every robot that it was trained for; see load_policy()."""
    from qwen_vla_ros.model.checkpoint import load_checkpoint
    from qwen_vla_ros.model.engine import Engine

    loaded = load_checkpoint(checkpoint, device, dtype, attention, adapters, quantise)
    engine = Engine(loaded.model, steps, options)
    return ModelPolicies(
        {
            name: LocalPolicy(loaded.model, robot.pipeline, robot.metadata, engine=engine)
            for name, robot in loaded.robots.items()
        }
    )


def load_policy(
    checkpoint: 'str | Path',
    embodiment: 'Embodiment | None' = None,
    device: str = 'auto',
    layout: str | None = None,
    steps: int | None = None,
    dtype: str = 'auto',
    attention: str | None = None,
    adapters: 'str | Path | None' = None,
    quantise: str | None = None,
    options: 'EngineOptions | None' = None,
) -> LocalPolicy:
    """
    Load a checkpoint (folder or hub name); refuse it when it was trained for another robot.

    Configuration, statistics and layouts come from the checkpoint, never from the local files;
    embodiment, when given, is what they are compared with. device 'auto' takes CUDA when there
    is one, dtype 'auto' then takes bfloat16, float32 on a CPU. steps overrides the checkpoint's
    number of denoising steps, attention the mode ('joint', 'prefix') in which it was trained;
    adapters is a folder of LoRA adapters of this checkpoint, quantise 'int8' puts weights into
    8 bits; options: how it runs.
    """
    from qwen_vla_ros.model.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint, device, dtype, attention, adapters, quantise)
    if embodiment is None:
        robot = loaded.robot()
    elif len(loaded.robots) > 1 and embodiment.name not in loaded.robots:
        raise PolicyMismatch(
            f'policy {checkpoint} drives {", ".join(loaded.robots)}, not {embodiment.name}; '
            'choose a checkpoint trained for it'
        )
    else:
        robot = loaded.robots.get(embodiment.name) or loaded.robot()
        refuse_mismatch(robot.metadata, embodiment, layout or embodiment.default_layout)
    return LocalPolicy(loaded.model, robot.pipeline, robot.metadata, steps, options)
