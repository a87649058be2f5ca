"""Phloem in torch.distributed: compressed gradients under DDP, compressed rounds of local steps.

Every step:       compressed = phloem.torch.compress_ddp(DDP(model), bits=0.5)
Every n steps:    local = phloem.torch.LocalSGD(model, optimizer, every=30)
"""

from __future__ import annotations

from phloem.engines.torch.choosing import Choice
from phloem.engines.torch.compress import compress_ddp
from phloem.engines.torch.ddp import Compressed
from phloem.engines.torch.local_sgd import LocalSGD, Merged
from phloem.engines.torch.peers import Traffic

__all__ = ["Choice", "Compressed", "LocalSGD", "Merged", "Traffic", "compress_ddp"]
