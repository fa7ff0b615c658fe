"""
Transformed samples -> actions, as fast as the machine allows: what a robot runs.

Three stages with static shapes: the vision tower over frames that it has not seen yet, then in one
piece the language model, the context's keys and values, and the denoising loop. On a GPU each
stage is compiled and replayed as a CUDA graph (a padded batch runs as it is); on a CPU both run as
they are. Where the prompt
stands before the images its state is kept while the sentence stays the same. All paths give what
QwenVLA.sample_actions gives, to rounding.
"""

import hashlib
import importlib.util
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.denoise import DenoisingLoop
from qwen_vla_ros.model.graphs import GraphedCall
from qwen_vla_ros.model.prompt_state import PromptState
from qwen_vla_ros.model.qwen_vla import UNPADDED, QwenVLA
from qwen_vla_ros.model.sampling import guided, solve
from qwen_vla_ros.model.vision import Grids, look, plan_images

PATHS = ('auto', 'eager', 'graph', 'compile')


@dataclass(frozen=True)
class EngineOptions:
    """
    How to run.

    path       'eager'; 'graph': CUDA graphs; 'compile': torch.compile and, on a GPU, CUDA graphs;
               'auto': 'compile' on a GPU, 'eager' elsewhere
    snapshot   keep the prompt's state while the sentence stays the same (one sample a call, prompt
               before images)
    frames     visual tokens of so many recent images are kept by their pixels; 0: none
    """

    path: str = 'auto'
    snapshot: bool = True
    frames: int = 32

    def __post_init__(self) -> None:
        """Refuse an unknown path."""
        if self.path not in PATHS:
            raise QwenVlaError(f'engine path {self.path!r} is unknown; choose one of {PATHS}')


class Engine:
    """Run one model; not thread-safe. Build it anew when weights are replaced."""

    def __init__(
        self, model: QwenVLA, steps: int | None = None, options: EngineOptions | None = None
    ) -> None:
        """Fold what the weights and the number of denoising steps decide."""
        self.model, self.options = model.eval(), options or EngineOptions()
        flow = model.config.flow
        self.steps = steps or flow.denoising_steps
        on_gpu = model.device.type == 'cuda'
        self.path = self.options.path
        if self.path == 'auto':
            self.path = 'compile' if on_gpu else 'eager'
        if self.path == 'graph' and not on_gpu:
            raise QwenVlaError(f"engine path 'graph' needs a GPU; the model is on {model.device}")
        self._graphs = self.path != 'eager' and on_gpu
        self._loop = DenoisingLoop(model.decoder, self.steps) if flow.sampler == 'euler' else None
        self._act = self._prepared(self._act_on)
        self._look: dict[Grids, Any] = {}
        self._seen: OrderedDict[bytes, Tensor] = OrderedDict()
        self._prompt: tuple[bytes, Tensor, PromptState] | None = None
        self.trace: Any = None  # told of one call after the other, see step_log.Trace
        self.counts = {'images': 0, 'images_reused': 0, 'calls': 0, 'prompts_reused': 0}

    def describe(self) -> dict[str, Any]:
        """Return the chosen path, JSON-able: what ran, on which kernels, in which precision."""
        return {
            'device': str(self.model.device),
            'dtype': str(self.model.decoder.context_in.weight.dtype).removeprefix('torch.'),
            'path': self.path,
            'cuda_graphs': self._graphs,
            'denoising_steps': self.steps,
            'attention': self.model.config.decoder.attention,
            **kernel_paths(),
        }

    @torch.no_grad()
    def sample_actions(
        self,
        samples: Sequence[Mapping[str, Any]],
        noise: Tensor,
        frozen: int | None = None,
    ) -> Tensor:
        """
        Return normalised actions [B, H, K] of transformed samples (see transforms.py).

        noise [B, H, K]; a sample's 'prefix' is given clean, or with `frozen` followed by guidance
        (QwenVLA.sample_actions says what that means), which always runs eagerly.
        """
        model = self.model
        self.counts['calls'] += 1
        batch = model.collate(samples, pixels=False)
        features = self._features(samples)
        if self.trace is not None:
            self.trace.features = features
        noise = noise.to(model.device)
        mask = batch['action_mask'].to(noise.dtype)
        prefix = batch.get('prefix')
        hidden, state = self._prompt_state(samples, batch)
        known = 0 if hidden is None else hidden.shape[1]
        inputs = (
            batch['input_ids'][:, known:],
            batch['image_index'] - known,
            features,
            batch['position_ids'],
            batch.get('attention_mask'),
            batch.get('state'),
            batch.get('row_mask'),
            batch.get('token_view'),
            batch.get('token_place'),
            batch.get('text_end'),
        )
        memory = (hidden, *(tensor for pair in state.layers for tensor in pair)) if known else ()
        if frozen is not None and prefix is not None:
            field = model.velocity(self._context(*inputs, *memory))
            return guided(field, noise, self.steps, mask, prefix, frozen)
        # Masks of a padded batch are made from the data, which no CUDA graph can hold.
        act = self._act_on if 'attention_mask' in batch and self._graphs else self._act
        return act(*inputs, noise, mask, prefix, *memory).clone()

    def _act_on(self, *inputs: Tensor | None) -> Tensor:
        """Return actions; a function of tensors alone, of static shapes, without host reads."""
        noise, mask, prefix = inputs[10:13]
        context = self._context(*inputs[:10], *inputs[13:])
        if self._loop is not None:
            told = None if self.trace is None or self.path != 'eager' else self.trace.steps
            return self._loop(context, noise, mask, prefix, told)
        return solve(self.model.velocity(context), noise, self.steps, mask, prefix, 'heun')

    def _context(
        self,
        ids: Tensor,
        image_index: Tensor,
        features: Tensor | None,
        position: Tensor,
        padding: Tensor | None,
        state: Tensor | None,
        rows: Tensor | None,
        token_view: Tensor | None,
        token_place: Tensor | None,
        text_end: Tensor | None,
        *memory: Tensor,
    ) -> Any:
        """Return the decoder's context; memory: hidden states and layers of a kept prompt."""
        model = self.model
        batch = {'input_ids': ids, 'image_index': image_index}
        masks, past, known = padding if padding is not None else UNPADDED, None, 0
        if memory:
            known = memory[0].shape[1]
            past = PromptState(list(zip(memory[1::2], memory[2::2], strict=True)))
            masks = {**UNPADDED, 'full_attention': _causal(ids.shape[1], known, ids.device)}
        embedded = model.embed(batch, features)
        hidden = model.backbone.model.language_model(
            inputs_embeds=embedded,
            position_ids=position[..., known:],
            attention_mask=masks,
            past_key_values=past,
            use_cache=past is not None,
        ).last_hidden_state
        hidden = model.joined(hidden, embedded)
        if memory:
            hidden = torch.cat((memory[0], hidden), dim=1)
        parts = {'position_ids': position, 'attention_mask': padding, 'state': state}
        if token_view is not None:
            parts |= {'token_view': token_view, 'token_place': token_place}
            parts['text_end'] = text_end
        return model.condition(hidden, {**parts, 'row_mask': rows})

    def _prompt_state(
        self, samples: Sequence[Mapping[str, Any]], batch: Mapping[str, Tensor]
    ) -> tuple[Tensor | None, PromptState | None]:
        """Return hidden states and layers of the leading tokens that the last call had too."""
        known = int(samples[0].get('stable_tokens', 0)) if len(samples) == 1 else 0
        if not self.options.snapshot or not known:
            return None, None
        key = samples[0]['input_ids'][:known].tobytes()
        if self._prompt is None or self._prompt[0] != key:
            state = PromptState()
            embedded = self.model.embed({'input_ids': batch['input_ids'][:, :known]}, None)
            hidden = self.model.backbone.model.language_model(
                inputs_embeds=embedded,
                position_ids=batch['position_ids'][..., :known],
                attention_mask=UNPADDED,
                past_key_values=state,
                use_cache=True,
            ).last_hidden_state
            state.finish()
            self._prompt = (key, self.model.joined(hidden, embedded), state)
        else:
            self.counts['prompts_reused'] += 1
        return self._prompt[1:]

    def _features(self, samples: Sequence[Mapping[str, Any]]) -> Tensor | None:
        """Return the visual tokens of all images, looking only at those not seen before."""
        images = [image for sample in samples for image in _images(sample)]
        if not images:
            return None
        self.counts['images'] += len(images)
        if not self.options.frames:
            return self._look_at(images)
        keys = [_fingerprint(*image) for image in images]
        new = {
            key: image for key, image in zip(keys, images, strict=True) if key not in self._seen
        }
        self.counts['images_reused'] += len(images) - len(new)
        if new:
            merged = self.model.backbone.model.visual.spatial_merge_size**2
            counts = [len(pixels) // merged for _, pixels in new.values()]
            for key, part in zip(
                new, self._look_at(list(new.values())).split(counts), strict=True
            ):
                self._seen[key] = part.clone()
        for key in keys:
            self._seen.move_to_end(key)
        found = torch.cat([self._seen[key] for key in keys])
        while len(self._seen) > self.options.frames:
            self._seen.popitem(last=False)
        return found

    def _look_at(self, images: Sequence[tuple[tuple[int, int, int], Any]]) -> Tensor:
        grids = tuple(grid for grid, _ in images)
        if grids not in self._look:
            tower = self.model.backbone.model.visual
            plan = plan_images(tower, grids)
            self._look[grids] = self._prepared(lambda pixels: look(tower, pixels, plan))
        pixels = torch.cat([torch.from_numpy(pixels) for _, pixels in images])
        return self._look[grids](pixels.to(self.model.device, non_blocking=True))

    def _prepared(self, function: Any) -> Any:
        """Return the function on the chosen path."""
        if self.path == 'compile':
            function = torch.compile(function, dynamic=False, fullgraph=True)
        return GraphedCall(function) if self._graphs else function


def kernel_paths() -> dict[str, str]:
    """Return which implementation Qwen3.5's gated-delta layers take here."""
    found = {}
    for part, package in (('gated_delta', 'fla'), ('causal_convolution', 'causal_conv1d')):
        there = importlib.util.find_spec(package) is not None
        found[part] = package if there else 'torch'
    return found


def _causal(new: int, known: int, device: torch.device) -> Tensor:
    """Return bool [1, 1, new, known + new]: each token sees all before it and itself."""
    return torch.ones(new, known + new, dtype=torch.bool, device=device).tril(known)[None, None]


def _images(sample: Mapping[str, Any]) -> list[tuple[tuple[int, int, int], Any]]:
    """Return (grid, pixels uint8 [patches, channels]) of each image of a sample."""
    images, start = [], 0
    for grid in map(
        tuple, sample['image_grid_thw'].tolist() if 'image_grid_thw' in sample else ()
    ):
        count = grid[1] * grid[2]
        images.append((grid, sample['pixel_values'][start : start + count]))
        start += count
    return images


def _fingerprint(grid: tuple[int, int, int], pixels: Any) -> bytes:
    """Return 16 bytes that tell one image's pixels from another's."""
    return hashlib.blake2b(pixels.data, digest_size=16, key=repr(grid).encode()).digest()
