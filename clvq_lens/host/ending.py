"""What a model does after its last block."""

from torch import nn

from clvq_lens.host.host import Host


def ends_plainly(host: Host, target: str) -> bool:
    """Whether logits follow from the residual stream after the last block, token by token.

    Then `Host.unembed` gives the same logits from any of its rows. A hook after the last block has
    to see the whole pass, and a target there comes too late to be part of that residual stream.

    Args:
        host: The model.
        target: Hook point of the activations that are replaced.
    """
    if host.depth(target)[0] >= host.n_layers:
        return False
    for name in ("ln_final", "unembed"):
        part = getattr(host.model, name, None)
        if isinstance(part, nn.Module) and any(map(_has_hooks, part.modules())):
            return False
    return True


def _has_hooks(module: nn.Module) -> bool:
    """Whether something listens to a module; hook points keep their hooks in the same place."""
    before = module._forward_pre_hooks or module._backward_pre_hooks
    return bool(before or module._forward_hooks or module._backward_hooks)
