"""Whether somebody listens to a module: fast paths that go around modules step aside then."""

from __future__ import annotations

import torch
from torch import nn


def is_watched(*modules: nn.Module) -> bool:
    """Whether one of them has forward hooks, which only run when the module does, or torch records its operations."""
    if torch.compiler.is_compiling():
        return True
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)
