"""BF16 to block-scaled FP8 with torch on a CPU, as a user would write it: the thing to compare with.

    quantize_torch_cpu.py IN OUT

For each shard: load it whole, take amax / 448 of each 128 × 128 block, divide, clamp, cast, save.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

source, target = map(pathlib.Path, sys.argv[1:])
target.mkdir(parents=True)
index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]

for shard in sorted(set(index.values())):
    converted = {}
    for name, weight in load_file(source / shard).items():
        if not name.endswith("_proj.weight") and not name.endswith("_with_mqa.weight"):
            converted[name] = weight
            continue
        rows, columns = weight.shape
        padded = torch.nn.functional.pad(weight.float(), (0, -columns % 128, 0, -rows % 128))
        blocks = padded.view(padded.shape[0] // 128, 128, padded.shape[1] // 128, 128)
        scale = blocks.abs().amax(dim=(1, 3)) / 448.0
        scale[scale == 0] = 1.0
        codes = (blocks / scale[:, None, :, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
        converted[name] = codes.view(padded.shape)[:rows, :columns].contiguous()
        converted[f"{name}_scale_inv"] = scale
    save_file(converted, target / shard, metadata={"format": "pt"})
