"""What users run to get tensors out of a training checkpoint: training_peer.py torch|megatron IN OUT

Reads IN with the stack's own function and writes OUT with save_file, under the stack's names.
"""

import pathlib
import sys

from safetensors.torch import save_file


def with_torch(source, target):
    import torch
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    one_file = target / "state.pt"
    dcp_to_torch_save(str(source), str(one_file))
    tensors = torch.load(one_file, weights_only=True)
    save_file(tensors, target / "model.safetensors")


def with_megatron(source, target):
    import torch.distributed as dist
    from megatron.core.dist_checkpointing import load_plain_tensors

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    tensors = load_plain_tensors(str(source))
    save_file(tensors, target / "model.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    {"torch": with_torch, "megatron": with_megatron}[sys.argv[1]](*map(pathlib.Path, sys.argv[2:]))
