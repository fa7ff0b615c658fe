"""
Every choice of the model, by name, with what the paper says and what it leaves open.

The paper is arXiv 2605.30280. A field that the paper does not settle says "open", what we chose
and why. Presets: `4b`, `2b`, `0.8b` have the published backbones and the published decoder;
`small` is the one trained in this repository; `tiny` is for tests.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qwen_vla_ros.errors import QwenVlaError


@dataclass(frozen=True)
class ActionDecoderConfig:
    """
    The DiT flow-matching decoder (paper 2.2).

    width           paper: not stated; open: none; ours: 1536; why: "VLM->DiT 3.9 M" from one
                    2560-wide state pins it
    blocks          paper: 16
    heads           paper: not stated; open: 12..24; ours: 24, head size 64; why: exactly the
                    backbone's 64 rotary channels
    ffn             paper: not stated; open: the split of 70.8 M a block; ours: SwiGLU of 10240;
                    why: one set of weights for context and action tokens ("single-stream") that
                    gives 70.8 M
    action_dim      K; paper: fixed, no value; open: 42..73 by "4.9 M"; ours: 64
    horizon         H; paper: fixed maximum, no value; open: 16 and 8 at SFT, whole trajectories at
                    T2A; ours: 16, the SFT horizon; why: the decoder takes any length
    attention       paper: joint self-attention, no word on a mask; open: whether the context sees
                    actions and timestep; ours: 'joint', bidirectional, recomputed each denoising
                    step. 'prefix': the context attends to itself at timestep 0, so its keys and
                    values are computed once; same parameters; why: 8 times less arithmetic
    state_input     paper: none by default, two variants in Table 12; ours: 'none'. 'text': 256
                    bins in the prompt. 'continuous': one token from the normalised proprioception
    state_dim       S; paper: not stated; ours: 64, padded like the actions
    joint_actions   paper: absolute joint positions stay absolute; ours: 'absolute'. 'relative':
                    counted from the observed state, as pi0 does; why: what a small model gets
                    wrong is then a share of the way, not of the joint's range
    readout_points  paper: none, the decoder sees every hidden state; ours: (). 'view/thing': it is
                    given these points' places and states instead (readout.py), and
    readout_queries so many tokens that read the rest, and
    readout_values  names of numbers that the points and the state are turned into, such as where
                    the target is in the robot's own frame
    readout_draft   paper: none; ours: False. True: a regression of the whole chunk from words,
                    points, values and state, which the action rows are given to begin with
    readout_layers  paper: none; ours: 0. So many layers in which visual tokens, words and state
                    attend to each other, for the values
    rotary_theta    paper: "multi-section RoPE aligned with the backbone"; ours: the backbone's
    rotary_sections the backbone's (t, h, w) pairs, interleaved as there; action row i stands one
                    past the context's largest position, plus i, on all three axes
    timestep_channels  paper: not stated; ours: 256; why: "timestep 2.8 M" pins it
    """

    width: int = 1536
    blocks: int = 16
    heads: int = 24
    ffn: int = 10240
    action_dim: int = 64
    horizon: int = 16
    attention: str = 'joint'
    state_input: str = 'none'
    state_dim: int = 64
    joint_actions: str = 'absolute'
    readout_points: tuple[str, ...] = ()
    readout_queries: int = 0
    readout_values: tuple[str, ...] = ()
    readout_draft: bool = False
    readout_layers: int = 0
    rotary_theta: float = 1e7
    rotary_sections: tuple[int, ...] = (11, 11, 10)
    timestep_channels: int = 256

    def __post_init__(self) -> None:
        """Refuse combinations that cannot be built."""
        for key, value, allowed in (
            ('attention', self.attention, ('joint', 'prefix')),
            ('state_input', self.state_input, ('none', 'text', 'continuous')),
            ('joint_actions', self.joint_actions, ('absolute', 'relative')),
        ):
            if value not in allowed:
                raise QwenVlaError(
                    f'model config: decoder.{key}: {value!r} is not one of {allowed}'
                )
        if self.width % self.heads:
            raise QwenVlaError(
                f'model config: decoder.heads: {self.heads} does not divide width {self.width}'
            )
        if bool(self.readout_points) != (self.readout_queries > 0):
            raise QwenVlaError(
                'model config: decoder.readout_points, decoder.readout_queries: give both or none'
            )
        if sum(self.rotary_sections) * 2 > self.width // self.heads:
            raise QwenVlaError('model config: decoder.rotary_sections exceed the head size')


@dataclass(frozen=True)
class FlowConfig:
    """
    Flow matching (paper 2.5): tau 0 = clean, tau 1 = noise, target noise - clean.

    distribution    p(tau); paper: 'logit_normal' at T2A, 'beta' at CPT and SFT; 'uniform' is ours
    logit_normal    (mean, deviation) of the normal; paper: not stated; open: any; ours: (0, 1)
    beta            (a, b) of Beta; paper: not stated; open: any; ours: (1.5, 1); why: the field's
                    pair (pi0, GR00T)
    dense_end       the end of tau where 'beta' is dense; paper: the text says 'clean'; open: its
                    peers' code says 'noise'; ours: 'noise'
    prefix_rate     share of training samples whose first rows are given clean, with their own
                    timestep 0 (trained-prefix real-time chunking, arXiv 2512.05964); paper: none;
                    ours: 0 as published
    prefix_rows     1 to so many rows are given, drawn evenly
    denoising_steps steps at inference; paper: "a few"; open: 4..10; ours: 10
    sampler         'euler' as published, or 'heun': twice the work a step, second order
    noise_level     a of the stochastic step in reinforcement learning; paper: not stated; open:
                    0.3..0.7; ours: 0.5; why: RLinf's, which the paper credits
    """

    distribution: str = 'beta'
    logit_normal: tuple[float, float] = (0.0, 1.0)
    beta: tuple[float, float] = (1.5, 1.0)
    dense_end: str = 'noise'
    prefix_rate: float = 0.0
    prefix_rows: int = 4
    denoising_steps: int = 10
    sampler: str = 'euler'
    noise_level: float = 0.5

    def __post_init__(self) -> None:
        """Refuse names that are not there."""
        if self.distribution not in ('beta', 'logit_normal', 'uniform'):
            raise QwenVlaError(
                f'model config: flow.distribution: {self.distribution!r} is unknown'
            )
        if self.dense_end not in ('noise', 'clean'):
            raise QwenVlaError(f'model config: flow.dense_end: {self.dense_end!r} is unknown')
        if self.sampler not in ('euler', 'heun'):
            raise QwenVlaError(f'model config: flow.sampler: {self.sampler!r} is unknown')


@dataclass(frozen=True)
class InputConfig:
    """
    How an observation becomes tokens (paper 2.3, 2.4, 3.2.1).

    image_sizes     view -> (height, width) in pixels after resizing; multiples of patch x merge;
                    paper: not stated; open: 224..256 px for manipulation; ours: 224
    order           paper: images first (Fig. 2); ours: 'images_first'. 'prompt_first': image
                    tokens can see the instruction, which lets a small causal model ground words
                    in pixels, and the prompt's state can be kept between calls
    template        paper: not stated whether Qwen's chat template is used; ours: 'plain'. 'chat':
                    one user turn around images and prompt, the assistant's turn opened
    history_frames  paper: "video frames or a history window", no number; open: 8 and the current
                    one for navigation; ours: 0. Past frames stand before the views, oldest first,
                    inside <|history_start|> ... <|history_end|>; fewer at an episode's start
    history_view    the camera whose past is shown
    history_size    (height, width) of a past frame
    history_rate_hz paper: navigation video at 2 frames a second; ours: 2
    """

    image_sizes: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {'ego': (224, 224), 'cam_right_wrist': (224, 224)}
    )
    order: str = 'images_first'
    template: str = 'plain'
    history_frames: int = 0
    history_view: str = 'ego'
    history_size: tuple[int, int] = (128, 128)
    history_rate_hz: float = 2.0

    def __post_init__(self) -> None:
        """Refuse names that are not there."""
        if self.order not in ('images_first', 'prompt_first'):
            raise QwenVlaError(f'model config: inputs.order: {self.order!r} is unknown')
        if self.template not in ('plain', 'chat'):
            raise QwenVlaError(f'model config: inputs.template: {self.template!r} is unknown')
        if self.history_frames < 0 or not self.history_rate_hz > 0:
            raise QwenVlaError(
                f'model config: inputs.history_frames {self.history_frames} must be 0 or more, '
                f'inputs.history_rate_hz {self.history_rate_hz} above 0'
            )
        if self.history_frames and 'history' in self.image_sizes:
            raise QwenVlaError(
                "model config: inputs.image_sizes: 'history' is the name of the past frames; call "
                'the view otherwise'
            )
        if self.history_frames and self.history_view not in self.image_sizes:
            raise QwenVlaError(
                f'model config: inputs.history_view: {self.history_view!r} is not among the views '
                f'{sorted(self.image_sizes)}'
            )

    @property
    def views(self) -> tuple[str, ...]:
        """Return the tags that have boundary tokens: the views, and the history when it is on."""
        return (*(('history',) if self.history_frames else ()), *self.image_sizes)


@dataclass(frozen=True)
class QwenVLAConfig:
    """backbone: keyword arguments of transformers' Qwen3_5Config; the rest is ours."""

    backbone: dict[str, Any]
    decoder: ActionDecoderConfig = ActionDecoderConfig()
    flow: FlowConfig = FlowConfig()
    inputs: InputConfig = field(default_factory=InputConfig)

    def __post_init__(self) -> None:
        """Refuse points in pictures that stand before the words that name them."""
        if self.decoder.readout_points and self.inputs.order != 'prompt_first':
            raise QwenVlaError(
                "model config: decoder.readout_points: set inputs.order: 'prompt_first'; else the "
                'image tokens cannot tell what the sentence names'
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any], place: str = 'model config') -> 'QwenVLAConfig':
        """Read to_dict()'s form; unknown or missing keys are refused with the place."""
        parts = {'decoder': ActionDecoderConfig, 'flow': FlowConfig, 'inputs': InputConfig}
        try:
            built: dict[str, Any] = {'backbone': dict(data['backbone'])}
            for key, kind in parts.items():
                known = {entry.name for entry in fields(kind)}
                if unknown := set(data[key]) - known:
                    raise QwenVlaError(f'{place}: {key}: unknown keys {sorted(unknown)}')
                built[key] = kind(**{k: _tuples(v) for k, v in data[key].items()})
        except (KeyError, TypeError) as error:
            raise QwenVlaError(f'{place}: {error!r} is missing or of the wrong type') from error
        return cls(**built)


def _tuples(value: Any) -> Any:
    """Turn JSON's lists back into tuples."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _published_backbone(text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """Return a released Qwen3.5 size; text and vision hold what differs between sizes."""
    rope = {
        'rope_type': 'default',
        'rope_theta': 1e7,
        'partial_rotary_factor': 0.25,
        'mrope_section': [11, 11, 10],
        'mrope_interleaved': True,
    }
    return {
        'tie_word_embeddings': True,
        'text_config': {
            'vocab_size': 248320,
            'head_dim': 256,
            'max_position_embeddings': 262144,
            'full_attention_interval': 4,
            'tie_word_embeddings': True,
            'rope_parameters': rope,
            **text,
        },
        'vision_config': {'num_position_embeddings': 2304, **vision},
    }


def _small_backbone(width: int, vision_width: int, vision_depth: int) -> dict[str, Any]:
    """Return Qwen3.5 in miniature: few of every kind of layer; the vocabulary is set later."""
    rope = {
        'rope_type': 'default',
        'rope_theta': 1e4,
        'partial_rotary_factor': 0.5,
        'mrope_section': [6, 5, 5],
        'mrope_interleaved': True,
    }
    return {
        'tie_word_embeddings': True,
        'image_token_id': 0,
        'video_token_id': 1,
        'vision_start_token_id': 2,
        'vision_end_token_id': 3,
        'text_config': {
            'vocab_size': 512,
            'hidden_size': width,
            'intermediate_size': 3 * width,
            'num_hidden_layers': 4,
            'layer_types': ['linear_attention', 'full_attention'] * 2,
            'num_attention_heads': 4,
            'num_key_value_heads': 2,
            'head_dim': 64,
            'linear_num_key_heads': 1,
            'linear_num_value_heads': 2,
            'linear_key_head_dim': 64,
            'linear_value_head_dim': 64,
            'max_position_embeddings': 2048,
            'tie_word_embeddings': True,
            'rope_parameters': rope,
        },
        'vision_config': {
            'depth': vision_depth,
            'hidden_size': vision_width,
            'intermediate_size': 4 * vision_width,
            'num_heads': 4,
            'patch_size': 8,
            'temporal_patch_size': 2,
            'spatial_merge_size': 2,
            'out_hidden_size': width,
            'num_position_embeddings': 256,
        },
    }


def _small(width: int, vision: tuple[int, int], decoder: ActionDecoderConfig) -> QwenVLAConfig:
    """Return a from-scratch configuration for the simulated WidowX."""
    return QwenVLAConfig(
        backbone=_small_backbone(width, *vision),
        decoder=decoder,
        flow=FlowConfig(prefix_rate=0.2, denoising_steps=4),
        inputs=InputConfig({'ego': (96, 128), 'cam_right_wrist': (48, 64)}, 'prompt_first'),
    )


PRESETS = ('tiny', 'small', '0.8b', '2b', '4b')


def preset(name: str) -> QwenVLAConfig:
    """Return a named configuration; an unknown name is refused with the known ones."""
    vision_4b = {
        'depth': 24,
        'hidden_size': 1024,
        'intermediate_size': 4096,
        'out_hidden_size': 2560,
    }
    published = {
        '4b': (
            {'hidden_size': 2560, 'intermediate_size': 9216, 'num_hidden_layers': 32},
            vision_4b,
        ),
        '2b': (
            {
                'hidden_size': 2048,
                'intermediate_size': 6144,
                'num_hidden_layers': 24,
                'num_attention_heads': 8,
                'num_key_value_heads': 2,
                'linear_num_value_heads': 16,
            },
            {**vision_4b, 'out_hidden_size': 2048},
        ),
        '0.8b': (
            {
                'hidden_size': 1024,
                'intermediate_size': 3584,
                'num_hidden_layers': 24,
                'num_attention_heads': 8,
                'num_key_value_heads': 2,
                'linear_num_value_heads': 16,
            },
            {
                'depth': 12,
                'hidden_size': 768,
                'num_heads': 12,
                'intermediate_size': 3072,
                'out_hidden_size': 1024,
            },
        ),
    }
    if name in published:
        return QwenVLAConfig(backbone=_published_backbone(*published[name]))
    tokens = {'attention': 'prefix', 'state_input': 'continuous', 'action_dim': 32}
    rotary = {'rotary_theta': 1e4, 'state_dim': 32}
    if name == 'small':
        return _small(160, (96, 3), ActionDecoderConfig(192, 4, 3, 640, **tokens, **rotary))
    if name == 'tiny':
        return _small(
            32,
            (32, 1),
            ActionDecoderConfig(64, 2, 2, 128, rotary_sections=(6, 5, 5), **tokens, **rotary),
        )
    raise QwenVlaError(f'model preset {name!r} is unknown; choose one of {", ".join(PRESETS)}')
