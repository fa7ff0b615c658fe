"""
The supervised stages as data: T2A, CPT, SFT (paper, section 7 of its recipe; 4.1 for SFT).

What the paper says: T2A trains the decoder alone, without images, on whole trajectories, tau by
the sigmoid-normal, 2,000 steps, 80 % real and 20 % synthetic; CPT trains everything on the mixture
of Table 1, tau by Beta; SFT weighs actions 1.0 and text 0.1, balances embodiments, separate
learning rates, cosine, clipping. What it leaves open has the values of the closest published
recipes: 1e-5 for the VLM and 1e-4 for the decoder, AdamW (0.9, 0.95), clipping at 1 (StarVLA),
4 noise draws a VLM pass (2..8 there).
"""

from dataclasses import dataclass, field, replace

from qwen_vla_ros.data.mixture import TABLE_1, TEXT_TO_ACTION
from qwen_vla_ros.errors import QwenVlaError

T2A, CPT, SFT = STAGES = ('t2a', 'cpt', 'sft')
RL = 'rl'  # rl_loop.py

FROM_SCRATCH = ('tiny', 'small')


@dataclass(frozen=True)
class Recipe:
    """
    Everything but the data that decides the weights.

    batch           samples a step, over all processes; passes: in how many parts each process
                    takes its share (gradient accumulation)
    backbone_rate, decoder_rate   peaks; a warm-up, then a cosine to last_rate of them
    action_weight, text_weight    of the two losses
    draws           noise draws a sample, sharing one VLM pass
    ema             decay of the averaged weights that are saved at the end; 0: none
    dtype           what is computed in; the weights that are trained stay float32
    recompute       activation checkpointing
    adapters        rank of LoRA adapters on language and decoder; 0: the weights themselves
    quantise        'int8': the frozen weights under adapters in 8 bits
    distribution    p(tau), see FlowConfig
    images          False: without (T2A); whole: samples may be of any length (T2A)
    families        family -> weight; empty: every embodiment alike, its sets alike (SFT)
    sentences       of each drawn picture, where a set tells several (set_of_sentences); the batch
                    counts samples
    pointing_weight of the loss that teaches a readout where its points are (pointing.py); a
                    model without one, as published, has none
    told            share of samples that are told their points (readout.py)
    readout_share   of decoder_rate, for what of a readout was trained before (LEARNT_APART)
    """

    stage: str
    preset: str
    steps: int
    batch: int
    passes: int = 1
    backbone_rate: float = 1e-5
    decoder_rate: float = 1e-4
    last_rate: float = 0.1
    warm_up: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    action_weight: float = 1.0
    text_weight: float = 0.1
    draws: int = 4
    ema: float = 0.0
    dtype: str = 'float32'
    recompute: bool = False
    adapters: int = 0
    quantise: str = ''
    distribution: str = 'beta'
    images: bool = True
    whole: bool = False
    families: dict[str, float] = field(default_factory=dict)
    sentences: int = 1
    pointing_weight: float = 0.0
    told: float = 0.0
    readout_share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ('steps', 'batch', 'passes', 'draws', 'sentences'):
            if getattr(self, name) < 1:
                raise QwenVlaError(f'train {self.stage}: {name} {getattr(self, name)}: at least 1')
        if not 0 <= self.ema < 1:
            raise QwenVlaError(f'train {self.stage}: ema {self.ema}: from 0 to below 1')
        if self.quantise and not self.adapters:
            raise QwenVlaError(
                f'train {self.stage}: 8-bit weights cannot be trained; add adapters (--lora RANK)'
            )

    @property
    def trains_backbone(self) -> bool:
        """Return whether the VLM is trained; at T2A it is frozen."""
        return self.backbone_rate > 0


def t2a(preset: str) -> Recipe:
    """Return text-to-action: the decoder learns motion from words alone."""
    scratch = preset in FROM_SCRATCH
    return Recipe(
        stage=T2A,
        preset=preset,
        steps=2000,
        batch=64,
        backbone_rate=0.0,
        decoder_rate=1e-3 if scratch else 1e-4,
        dtype='float32' if scratch else 'bfloat16',
        recompute=not scratch,
        text_weight=0.0,
        warm_up=60,
        distribution='logit_normal',
        images=False,
        whole=True,
        families=dict(TEXT_TO_ACTION),
    )


def cpt(preset: str) -> Recipe:
    """Return continued pretraining: everything on the mixture; the number of steps is ours."""
    return _full(Recipe(CPT, preset, 100_000, 256, families=dict(TABLE_1), warm_up=3000))


def sft(preset: str) -> Recipe:
    """Return supervised fine-tuning, balanced over embodiments; the number of steps is ours."""
    return _full(Recipe(SFT, preset, 60_000, 256, warm_up=1800))


def _full(recipe: Recipe) -> Recipe:
    """Return the recipe for weights that start from a release, or from nothing."""
    if recipe.preset in FROM_SCRATCH:
        return replace(
            recipe, backbone_rate=1e-3, decoder_rate=1e-3, batch=32, steps=4000, warm_up=120
        )
    return replace(recipe, dtype='bfloat16', recompute=True)


RECIPES = {T2A: t2a, CPT: cpt, SFT: sft}


def demo(recipe: Recipe) -> Recipe:
    """Return the recipe cut down to minutes on two cores."""
    steps = {T2A: 150, CPT: 120, SFT: 120}[recipe.stage]
    return replace(recipe, steps=steps, batch=16, warm_up=10, draws=4, dtype='float32')
