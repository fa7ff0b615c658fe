"""
Reading an observation whose sentence has not changed: whole prefill against the kept prompt.

The prompt (100 tokens) stands before three views of 64 tokens each. Qwen3.5-0.8B's language model
at its published width and every kind of layer, 8 of 24 layers, float32, random weights: the ratio
does not depend on the number of layers. The vision tower is on neither side. Hidden states of
both ways are compared first; the least of several rounds counts, on both sides.
"""

import time

import torch
from transformers import Qwen3_5Config, Qwen3_5TextModel

from benchmarks import Result, main
from qwen_vla_ros.model.config import preset
from qwen_vla_ros.model.prompt_state import PromptState
from qwen_vla_ros.model.qwen_vla import UNPADDED

PROMPT, IMAGES, LAYERS, ROUNDS = 100, 3 * 64, 8, 15


def build() -> Qwen3_5TextModel:
    """Return the shortened language model."""
    torch.manual_seed(0)
    config = Qwen3_5Config(**preset('0.8b').backbone).text_config
    config.num_hidden_layers = LAYERS
    config.layer_types = config.layer_types[:LAYERS]
    config.vocab_size = 64
    return Qwen3_5TextModel(config).eval()


@torch.inference_mode()
def run() -> Result:
    """Compare, then measure both sides in turns."""
    model = build()
    total = PROMPT + IMAGES
    embeds = torch.randn(1, total, model.config.hidden_size)
    position = torch.arange(total).expand(3, 1, -1)
    state = PromptState()

    def read(start: int, stop: int, masks: dict, past: PromptState | None) -> torch.Tensor:
        return model(
            inputs_embeds=embeds[:, start:stop],
            position_ids=position[..., start:stop],
            attention_mask=masks,
            past_key_values=past,
            use_cache=past is not None,
        ).last_hidden_state

    prompt = read(0, PROMPT, UNPADDED, state)
    state.finish()
    causal = torch.ones(1, 1, IMAGES, total, dtype=torch.bool).tril(PROMPT)
    masks = {**UNPADDED, 'full_attention': causal}
    whole = read(0, total, UNPADDED, None)
    kept = torch.cat((prompt, read(PROMPT, total, masks, state)), dim=1)
    difference = float((whole - kept).abs().max())
    sides: dict[str, list[float]] = {'whole': [], 'kept': []}
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        read(0, total, UNPADDED, None)
        middle = time.perf_counter()
        read(PROMPT, total, masks, state)
        sides['whole'].append(middle - begin)
        sides['kept'].append(time.perf_counter() - middle)
    return Result(
        'prompt_snapshot',
        min(sides['whole']),
        min(sides['kept']),
        1.43,
        's/prefill',
        f'{PROMPT} prompt and {IMAGES} image tokens, {LAYERS} of 24 layers of the 0.8b preset, '
        f'{torch.get_num_threads()} threads; hidden states differ by {difference:.1e}',
        equal=difference < 1e-5,
    )


if __name__ == '__main__':
    main(run)
