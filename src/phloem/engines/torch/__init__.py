"""torch.distributed as an engine: gradients under DDP, rounds of local steps, whole recipes under `torchrun`."""
