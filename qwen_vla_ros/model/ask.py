"""
`qwen-vla ask`: a question about image files, answered by a checkpoint.

A policy trained on actions alone says noise. So a checkpoint is asked only where its training.json
has the key "text", which says how answers were learnt. `qwen-vla init` writes it, for a release
answers; whoever trains with text_loss (answer.py) hands it to save_checkpoint in `training`, e.g.
{"weight": 0.1, "samples": 12000}; training on actions alone leaves it out.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from qwen_vla_ros.compatibility.training import learnt_answers
from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.model.answer import answer, pose
from qwen_vla_ros.model.checkpoint import from_pretrained, load_tokenizer, read_config
from qwen_vla_ros.model.config import QwenVLAConfig
from qwen_vla_ros.model.hub import find_checkpoint
from qwen_vla_ros.model.processor import CHAT_TEMPLATE, Processor
from qwen_vla_ros.patches import resize


def read_image(path: Path) -> np.ndarray:
    """Return uint8 [h, w, 3] RGB of a PNG or JPEG, turned as its EXIF says."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise QwenVlaError(f'--image {path}: {error.strerror or error}') from error
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except cv2.error as error:
        raise QwenVlaError(f'--image {path}: not readable ({error.err})') from error
    if picture is None:
        raise QwenVlaError(f'--image {path}: not an image; give a whole PNG or JPEG file')
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def near_size(height: int, width: int, unit: int, most: int) -> tuple[int, int]:
    """
    Return the size in pixels, in whole units, nearest to an image's own.

    unit: pixels an edge of one visual token. most: visual tokens; a larger image shrinks and
    keeps its shape as far as whole units can.
    """
    rows, columns = max(1, round(height / unit)), max(1, round(width / unit))
    if rows * columns > most:
        scale = (most / (height * width)) ** 0.5
        rows = min(most, max(1, int(height * scale)))
        columns = min(most // rows, max(1, int(width * scale)))
        rows = min(rows, most // columns)
    return rows * unit, columns * unit


def fit_image(
    image: np.ndarray, config: QwenVLAConfig, unit: int, view: str | None, most: int
) -> np.ndarray:
    """Return the image at its view's trained size, or near its own where no view is named."""
    sizes = config.inputs.image_sizes
    if view is not None and view not in sizes:
        raise QwenVlaError(f'--view {view}: the checkpoint has the views {sorted(sizes)}')
    return resize(image, *(sizes[view] if view else near_size(*image.shape[:2], unit, most)))


def require_text(folder: Path) -> None:
    """Raise QwenVlaError unless answers were trained."""
    if not learnt_answers(folder):
        raise QwenVlaError(
            f'{folder / "training.json"}: no key "text", so this checkpoint was trained on '
            'actions alone and its answers mean nothing; co-train it on text (text_loss; '
            'save_checkpoint then gets "text" in its training facts), or pass --untrained to ask '
            'it all the same'
        )


def _tokenizer(folder: Path, untrained: bool) -> Any:
    """Return the tokenizer; an untrained one without a chat template takes ours, said aloud."""
    tokenizer = load_tokenizer(folder)
    if untrained and not tokenizer.chat_template:
        print(
            f'{folder}: the tokenizer has no chat template; the usual one is taken',
            file=sys.stderr,
        )
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def cli_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qwen-vla ask`."""
    parser.add_argument('question', help='in words, e.g. "Which block is left?"')
    parser.add_argument(
        '--image',
        type=Path,
        action='append',
        required=True,
        metavar='FILE',
        help='PNG or JPEG; give it again for more images, in their order',
    )
    parser.add_argument(
        '--checkpoint',
        required=True,
        help='folder, or organisation/name[@revision] of the hub; one that was trained on answers',
    )
    parser.add_argument(
        '--untrained', action='store_true', help='ask one that was never trained on answers too'
    )
    parser.add_argument(
        '--view', help="resize to this view's size (default: near the image's own)"
    )
    parser.add_argument(
        '--visual-tokens',
        type=int,
        default=256,
        metavar='N',
        help='larger images shrink to so many (default: 256)',
    )
    parser.add_argument('--max-tokens', type=int, default=64, help='of the answer (default: 64)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument(
        '--dtype', choices=('auto', 'float32', 'bfloat16', 'float16'), default='auto'
    )


def run_from_arguments(args: argparse.Namespace) -> int:
    """Print the answer; whatever is wrong is told before the weights are read."""
    if args.visual_tokens < 1:
        raise QwenVlaError(f'--visual-tokens {args.visual_tokens}: at least 1')
    images = [read_image(path) for path in args.image]
    folder = find_checkpoint(args.checkpoint)
    config = read_config(folder)
    if not args.untrained:
        require_text(folder)
    processor = Processor(_tokenizer(folder, args.untrained), config)
    unit = processor.patch * processor.merge
    fitted = [fit_image(image, config, unit, args.view, args.visual_tokens) for image in images]
    pose(processor, fitted, args.question)
    model = from_pretrained(folder, args.device, args.dtype)
    print(answer(model, processor, fitted, args.question, args.max_tokens))
    return 0
