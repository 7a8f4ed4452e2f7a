"""Saves a Hugging Face checkpoint as training stacks do: training_save.py SOURCE DCP TORCH_DIST

DCP gets torchtitan's names, TORCH_DIST Megatron's and the files beside them that megatron-core looks for.
"""

import json
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "peers"))

import torch
import torch.distributed.checkpoint as dcp

import training_saves


def save(tensors, target):
    # Several files, as several ranks write them.
    dcp.save(tensors, storage_writer=dcp.FileSystemWriter(str(target), thread_count=4), no_dist=True)


def main():
    source, by_torch, by_megatron = map(pathlib.Path, sys.argv[1:])
    tensors = training_saves.load(source)
    config = training_saves.config_of(source)
    for target in (by_torch, by_megatron):
        training_saves.copy_config(source, target)
    save(training_saves.torchtitan(tensors, config), by_torch)
    iteration = by_megatron / "iter_0000001"
    iteration.mkdir()
    save(training_saves.megatron(tensors, config), iteration)
    torch.save({}, iteration / "common.pt")
    (iteration / "metadata.json").write_text(json.dumps({
        "sharded_backend": "torch_dist", "sharded_backend_version": 1,
        "common_backend": "torch", "common_backend_version": 1}))
    (by_megatron / "latest_checkpointed_iteration.txt").write_text("1")


if __name__ == "__main__":
    main()
