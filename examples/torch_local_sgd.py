"""DiLoCo over the internet. Start it with: torchrun --nproc-per-node 4 examples/torch_local_sgd.py"""

import torch
from sklearn.datasets import load_digits

import phloem.torch

torch.distributed.init_process_group("gloo")
rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images, labels = images[rank::ranks].float() / 16, labels[rank::ranks]

model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
local = phloem.torch.LocalSGD(model, optimizer, every=10)

for _ in range(20):
    for batch in torch.arange(len(images) // 32 * 32).split(32):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        local.step()  # after every tenth step all ranks merge what they have learned
if rank == 0:
    print(f"loss {loss.item():.3f} after {local.round} merges, {local.traffic.sent / 1e3:.0f} kB sent")
torch.distributed.destroy_process_group()
