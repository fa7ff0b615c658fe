"""The few layers of which a readout (readout.py) is made."""

from torch import Tensor, nn
from torch.nn import functional

DRAFT, DRAFT_LAYERS = 768, 4


class Draft(nn.Module):
    """Rows that know all of a scene -> a chunk, in a few layers that add to each other."""

    def __init__(self, inside: int, outside: int) -> None:
        """Build it."""
        super().__init__()
        self.first = nn.Linear(inside, DRAFT)
        self.layers = nn.ModuleList(nn.Linear(DRAFT, DRAFT) for _ in range(DRAFT_LAYERS))
        self.last = nn.Linear(DRAFT, outside)

    def forward(self, known_BG: Tensor) -> Tensor:
        """Return [B, outside]."""
        x = functional.silu(self.first(known_BG))
        for layer in self.layers:
            x = x + functional.silu(layer(functional.layer_norm(x, x.shape[-1:])))
        return self.last(functional.layer_norm(x, x.shape[-1:]))


def layers(inside: int, hidden: int, outside: int) -> nn.Sequential:
    """Return two hidden layers."""
    return nn.Sequential(
        nn.Linear(inside, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outside),
    )


def mlp(inside: int, hidden: int, outside: int) -> nn.Sequential:
    """Return one hidden layer."""
    return nn.Sequential(nn.Linear(inside, hidden), nn.SiLU(), nn.Linear(hidden, outside))
