import torch

from clvq_lens.stats.precision import best_float, in_double


def test_a_device_without_double_precision_gets_none():
    assert best_float(torch.device("mps")) == torch.float32
    assert best_float(torch.device("cpu")) == best_float(torch.device("cuda")) == torch.float64
    assert in_double(torch.ones(2)).dtype == torch.float64
