"""Quantises with transformers 5, which cannot be installed beside version 4.

    transformers5.py SOURCE TARGET BLOCK_ROWS BLOCK_COLS SCALE_FMT

SOURCE and TARGET are safetensors files; each tensor NAME.weight becomes NAME.weight and
NAME.weight_scale_inv.
"""

import sys
from types import SimpleNamespace

from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Quantize


def main():
    source, target, rows, columns, scale_fmt = sys.argv[1:]
    config = SimpleNamespace(weight_block_size=(int(rows), int(columns)), scale_fmt=scale_fmt)
    operation = Fp8Quantize(SimpleNamespace(quantization_config=config))
    result = {}
    for name, value in load_file(source).items():
        result.update(operation.convert({name: value}))
    save_file({name: value.contiguous() for name, value in result.items()}, target)


main()
