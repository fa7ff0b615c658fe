"""Held-out figures in centimetres: is the named object found, does the chunk end on it."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from qwen_vla_ros.sim import arm

if TYPE_CHECKING:
    from qwen_vla_ros.model.qwen_vla import QwenVLA
    from qwen_vla_ros.train.batches import Batches
    from qwen_vla_ros.train.grounding import GroundingHead


@torch.no_grad()
def held_out_figures(
    model: 'QwenVLA', head: 'GroundingHead', batches: 'Batches', actions: bool, steps: int = 10
) -> dict[str, float]:
    """
    Return figures over every held-out frame and each of its objects.

    localisation_*: distance from the place read at the most likely token to the object's centre;
    found: share within 2.5 cm. chunk_*: distance of the tip at the chunk's last row from the
    teacher's; ends_on: share within 2 cm; other_object: share that ends nearer to another object.
    """
    model.eval()
    frames, objects = (
        grid.reshape(-1)
        for grid in np.meshgrid(np.arange(len(batches.data['state'])), np.arange(3), indexing='ij')
    )
    errors, chunk, other = [], [], []
    for begin in range(0, len(frames), 64):
        some = slice(begin, begin + 64)
        batch = batches.pick(frames[some], objects[some], None)
        hidden = model.encode(batch)
        errors.append(head.error_m(batches.ego_states(hidden, batch), batch['place']).cpu())
        if actions:
            noise = torch.randn(
                model.noise_shape(len(hidden)), generator=torch.Generator().manual_seed(begin)
            )
            rows = model.sample_actions(batch, steps, noise).float().cpu().numpy()
            ends = _last_tips(batches, rows)
            truth = arm.forward(
                batches.data['actions'][frames[some], objects[some], -1].astype(np.float64)
            )[0]
            chunk.append(np.linalg.norm(ends - truth, axis=-1))
            centres = batches.data['xyz'][frames[some], :, :2]
            nearest = np.linalg.norm(ends[:, None, :2] - centres, axis=-1).argmin(1)
            other.append(nearest != objects[some])
    model.train()
    error = torch.cat(errors).numpy() * 100
    figures = {
        'samples': len(error),
        'localisation_median_cm': float(np.median(error)),
        'localisation_p90_cm': float(np.quantile(error, 0.9)),
        'found': float((error < 2.5).mean()),
    }
    if actions:
        far = np.concatenate(chunk) * 100
        figures |= {
            'chunk_median_cm': float(np.median(far)),
            'chunk_p90_cm': float(np.quantile(far, 0.9)),
            'ends_on': float((far < 2.0).mean()),
            'other_object': float(np.concatenate(other).mean()),
        }
    return {key: round(value, 4) for key, value in figures.items()}


def _last_tips(batches: 'Batches', normalised: np.ndarray) -> np.ndarray:
    """Return the tip positions [B, 3] in m of the last rows of normalised chunks [B, H, K]."""
    rows = [batches.pipeline.inverse({'actions': chunk})['actions'][-1] for chunk in normalised]
    return arm.forward(np.stack(rows).astype(np.float64))[0]
