"""The adaptive residual encoder: close to the identity at first, it learns how far to leave it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

_INITIAL_MIX_LOGIT = 0.2  # m = 0.275 at the start, as in the authors' code


class AdaptiveResidualEncoder(nn.Module):
    """z = (1 - m) x + m LN(W x + b) with m = sigmoid(a) / 2; W = I and b = 0 at the start.

    The mix m is learned and stays below one half, so z keeps most of x (arXiv 2506.20040).

    Args:
        d: Width of the residual stream.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.mix_logit = nn.Parameter(torch.empty(()))
        self.linear = nn.Linear(d, d)
        self.norm = nn.LayerNorm(d)
        self.reset_()

    @torch.no_grad()
    def reset_(self) -> None:
        """Sets all weights back to the start, which is close to the identity."""
        self.mix_logit.fill_(_INITIAL_MIX_LOGIT)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.norm.reset_parameters()

    @torch.no_grad()
    def be_identity_(self) -> None:
        """Turns the learned branch off: z is x, to the last bit."""
        self.reset_()
        self.mix_logit.fill_(-torch.inf)  # the sigmoid of it is an exact zero

    @property
    def mix(self) -> Float[Tensor, ""]:
        """m, the share of the learned branch: in (0, 0.5), or 0 in a baseline."""
        return 0.5 * torch.sigmoid(self.mix_logit)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The encoder output z."""
        return torch.lerp(x, self.norm(self.linear(x)), self.mix)
