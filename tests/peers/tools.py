"""What the comparisons share: running the command, and the published formula in torch."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest

import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("DSV3_BIN", ROOT / "build/release/bin"))
INDEX = "model.safetensors.index.json"
BLOCK = 128
FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
FP8_CONFIG = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [BLOCK, BLOCK],
}


def run(tool, *arguments, exit_code=0):
    """Runs a tool of this project; fails unless it ends with `exit_code`."""
    command = [str(BIN / tool), *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != exit_code:
        raise AssertionError(
            f"{' '.join(command)}\nended with {done.returncode}, expected {exit_code}\n{done.stderr}"
        )
    return done


class SmallModel(unittest.TestCase):
    """Has a small BF16 checkpoint, `source`, in `scratch`, a directory that goes with the tests."""

    preset = "tiny"

    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        run("dsv3-convert", "sample", cls.scratch / "fp8", "--preset", cls.preset, "--quiet")
        cls.source = cls.scratch / "bf16"
        run("dsv3-convert", "fp8-to-bf16", cls.scratch / "fp8", cls.source, "--quiet")


def convert(source, target, *options):
    """Runs fp8-to-bf16 and returns its JSON report."""
    return json.loads(run("dsv3-convert", "fp8-to-bf16", source, target, "--json", *options).stdout)


def spread(scale, rows, columns, block):
    """The scale of every element of a [rows, columns] weight; the last blocks may be ragged."""
    full = scale.repeat_interleave(block[0], dim=0).repeat_interleave(block[1], dim=1)
    return full[:rows, :columns]


def dequantize(weight, scale, block=(BLOCK, BLOCK)):
    """The formula of the published cast: float32(w) * float32(scale), rounded to bfloat16."""
    rows, columns = weight.shape
    return (weight.float() * spread(scale.float(), rows, columns, block)).to(torch.bfloat16)


def quantize(weight, block=(BLOCK, BLOCK)):
    """Block-quantises with torch's own cast: scale = amax / 448, codes = w / scale."""
    rows, columns = weight.shape
    down = -rows % block[0]
    right = -columns % block[1]
    padded = torch.nn.functional.pad(weight.float(), (0, right, 0, down))
    tiles = padded.view((rows + down) // block[0], block[0], (columns + right) // block[1], block[1])
    scale = tiles.abs().amax(dim=(1, 3)) / FP8_MAX
    scale[scale == 0] = 1.0
    codes = (tiles / scale[:, None, :, None]).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    return codes.view(padded.shape)[:rows, :columns].contiguous(), scale


def save(tensors, path):
    """Writes one file as the Python library does for transformers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})


def write_index(directory, shards):
    """Writes the index of `shards`, a map from file name to tensors."""
    total = sum(t.nbytes for tensors in shards.values() for t in tensors.values())
    names = {name: shard for shard, tensors in shards.items() for name in tensors}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def write_checkpoint(directory, shards, config):
    """Writes a sharded checkpoint; a shard without tensors is left out."""
    shards = {name: tensors for name, tensors in shards.items() if tensors}
    directory.mkdir(parents=True, exist_ok=True)
    for name, tensors in shards.items():
        save(tensors, directory / name)
    write_index(directory, shards)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_header(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def same_bits(got, expected):
    """True when two BF16 tensors agree bit for bit. NaNs need not: the bits of torch's vary."""
    nan = torch.isnan(expected)
    bits, wanted = got.view(torch.int16), expected.view(torch.int16)
    return bool((torch.isnan(got) == nan).all() and (bits == wanted)[~nan].all())
