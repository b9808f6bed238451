"""Vectors in numbers of order one, and the linear map from some to others."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clvq_lens.stats.precision import in_double

_RIDGE = 1e-3  # of the mean square of the inputs; keeps unused directions of the map small
_IN_DOUBLE = 2**24  # numbers in double precision at once: 128 MB


class Units(nn.Module):
    """Mean and overall scale of vectors, so that a layer computes with numbers of order one.

    All dimensions have one scale: errors keep their proportions, and the loss stays an FVU.
    """

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, ""]

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def measure_(self, x: Float[Tensor, "n d"]) -> None:
        """Takes the mean and the root-mean-square deviation of a sample."""
        self.mean.copy_(x.mean(0))
        deviation = (x - self.mean).square().mean().sqrt()
        # A sample of equal vectors has no scale, and 0 would be divided by.
        self.scale.copy_(deviation.clamp_min(torch.finfo(torch.float32).tiny))

    def strip(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Converts vectors from the model's units to ours."""
        return (x - self.mean) / self.scale

    def restore(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Converts vectors from our units to the model's."""
        return x * self.scale + self.mean


@torch.no_grad()
def least_squares_(
    linear: nn.Linear, inputs: Float[Tensor, "n i"], outputs: Float[Tensor, "n o"]
) -> None:
    """Sets a linear map to the ridge regression of outputs on inputs."""
    mean_in, mean_out = inputs.mean(0), outputs.mean(0)
    gram = in_double(inputs.new_zeros(inputs.shape[1], inputs.shape[1]))
    products = in_double(inputs.new_zeros(inputs.shape[1], outputs.shape[1]))
    # By parts, because the sample of a wide model takes gigabytes in single precision already.
    n_rows = max(1, _IN_DOUBLE // (inputs.shape[1] + outputs.shape[1]))
    for start in range(0, len(inputs), n_rows):
        rows = slice(start, start + n_rows)
        x, y = in_double(inputs[rows] - mean_in), in_double(outputs[rows] - mean_out)
        gram += x.T @ x
        products += x.T @ y
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean().clamp_min(1e-12))
    weight = torch.linalg.solve(gram, products).T.to(linear.weight)
    linear.weight.copy_(weight)
    linear.bias.copy_(mean_out - weight @ mean_in)


@torch.no_grad()
def start_regression_(
    linear: nn.Linear,
    units: tuple[Units, Units],
    inputs: Float[Tensor, "n d_in"],
    outputs: Float[Tensor, "n d_out"],
) -> None:
    """Sets units, and a linear map between them to the ridge regression of outputs on inputs.

    Args:
        linear: The linear map.
        units: Those of the inputs and of the outputs.
        inputs: What is regressed on.
        outputs: What is predicted.
    """
    of_inputs, of_outputs = units
    of_inputs.measure_(inputs)
    of_outputs.measure_(outputs)
    least_squares_(linear, of_inputs.strip(inputs), of_outputs.strip(outputs))
