"""The published cast on a CPU, as a user would write it with torch: the thing to compare with.

    official_torch_cpu.py IN OUT

For each shard: load it whole, compute float32(w) * float32(scale) per block, round to bfloat16,
save. Scales in other shards are loaded when they are needed.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

source, target = map(pathlib.Path, sys.argv[1:])
target.mkdir(parents=True)
index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
config = json.loads((source / "config.json").read_text())
rows, columns = config["quantization_config"]["weight_block_size"]

for shard in sorted(set(index.values())):
    tensors = load_file(source / shard)
    converted = {}
    for name, weight in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        if weight.dtype == torch.float8_e4m3fn:
            scale_name = f"{name}_scale_inv"
            scale = tensors.get(scale_name)
            if scale is None:
                scale = load_file(source / index[scale_name])[scale_name]
            spread = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
            spread = spread[: weight.shape[0], : weight.shape[1]]
            weight = (weight.float() * spread).to(torch.bfloat16)
        converted[name] = weight
    if converted:
        save_file(converted, target / shard, metadata={"format": "pt"})
