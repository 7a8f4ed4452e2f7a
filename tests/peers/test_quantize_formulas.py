"""Every byte of codes and scales, against the tools' own Python or torch code of their formula."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize as compressed_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file

import tools

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
BLOCKS = [(128, 128), (32, 32), (1, 128), (7, 50)]
ROWS, COLUMNS = 128, 256  # whole blocks of the first three shapes
SHAPES = [(ROWS, COLUMNS), (67, 139)]
SMALLEST = 2.0**-149
torch.set_num_threads(1)  # the matrices are small


def matrices(dtype, rows=ROWS, columns=COLUMNS):
    """Named weights of all kinds: ordinary, heavy-tailed, with zero blocks, tiny, huge."""
    generator = torch.Generator().manual_seed(31)

    def normal():
        return torch.randn(rows, columns, generator=generator)

    heavy = normal() / (torch.rand(rows, columns, generator=generator) + 1e-3)
    zeros = normal()
    zeros[: rows // 2, : columns // 2] = 0
    zeros[: rows // 4, : columns // 4] = -0.0
    magnitudes = torch.pow(2.0, torch.linspace(-160, 120, rows, dtype=torch.float64))
    wide = (normal().double() * magnitudes[:, None]).float()
    tiny = normal() * 1e-39
    largest = 60000.0 if dtype == torch.float16 else 3e38
    result = {
        "ordinary": normal() * 0.02, "heavy": heavy, "zeros": zeros, "wide": wide, "tiny": tiny,
        "huge": normal() * largest / 8,
    }
    return {name: value.clamp(-largest, largest).to(dtype) for name, value in result.items()}


def tiles(values, block):
    """[block rows, rows, block columns, columns] of a weight, padded with zeros."""
    rows, columns = values.shape
    padded = torch.nn.functional.pad(values, (0, -columns % block[1], 0, -rows % block[0]))
    return padded.view(padded.shape[0] // block[0], block[0], padded.shape[1] // block[1], block[1])


def untile(codes, shape):
    across = codes.shape[2] * codes.shape[3]
    return codes.reshape(-1, across)[: shape[0], : shape[1]].contiguous()


def amax_of(tiled):
    return tiled.abs().float().amax(dim=(1, 3), keepdim=True)


def power_at_least(scale, smallest):
    """2^ceil(log2(scale)) by bits; `smallest` is the exponent of the least power."""
    bits = scale.view(torch.int32)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).int()
    power = torch.ldexp(torch.ones(scale.shape, dtype=torch.float64), exponent.double() - 127)
    if smallest == -127:  # a subnormal scale, too, may be the larger of two
        power = torch.where(scale <= 2.0**-127, torch.full_like(power, 2.0**-127), power)
    return power.clamp(min=2.0**smallest).float()


def deepseek(values, block, scale_fmt):
    tiled = tiles(values, block).float()
    amax = amax_of(tiled)
    scale = amax / 448.0
    if scale_fmt == "f32":
        scale = scale.clamp(min=SMALLEST)
    else:
        scale = power_at_least(scale, -126 if scale_fmt == "ue8m0" else -127)
    scale = torch.where(amax == 0, torch.ones_like(scale), scale)
    codes = (tiled / scale).clamp(-448.0, 448.0).to(tools.FP8)
    return untile(codes, values.shape), scale[:, 0, :, 0]


def deepgemm(values, block, scale_fmt):
    """per_block_cast_to_fp8, with the newer form of UE8M0 by bits."""
    tiled = tiles(values, block)
    scale = amax_of(tiled).clamp(1e-4) / 448.0
    if scale_fmt != "f32":
        scale = power_at_least(scale, -126)
    codes = (tiled * (1.0 / scale)).to(tools.FP8)
    return untile(codes, values.shape), scale[:, 0, :, 0]


def transformers(values, block, scale_fmt):
    """Version 5. Blocks whose factor is infinite are quantised as `deepseek` does."""
    tiled = tiles(values, block).float()
    amax = amax_of(tiled)
    factor = torch.where(amax > 0, 448.0 / torch.where(amax > 0, amax, 1.0), 1.0)
    scale = 1.0 / factor
    if scale_fmt != "f32":
        scale = power_at_least(scale, -126)
        factor = 1.0 / scale
    codes = (tiled * factor).clamp(-448.0, 448.0).to(tools.FP8)
    lost = torch.isinf(factor)
    other_codes, other_scale = deepseek(values, block, scale_fmt)
    merged = torch.where(lost, tiles(other_codes.view(torch.uint8), block), codes.view(torch.uint8))
    scale = torch.where(lost[:, 0, :, 0], other_scale, scale[:, 0, :, 0])
    return untile(merged, values.shape).view(tools.FP8), scale


def compressed_tensors(values, block, form):
    """The package's own functions, as its compressor and observers call them."""
    form = {"block": {"strategy": "block", "block_structure": list(block)},
            "row": {"strategy": "channel"}, "tensor": {"strategy": "tensor"}}[form]
    args = QuantizationArgs(num_bits=8, type="float", symmetric=True, dynamic=False, **form)
    tiled = tiles(values, block)
    low, high = tiled.amin(dim=(1, 3)), tiled.amax(dim=(1, 3))
    if form["strategy"] == "tensor":
        low, high = low.reshape(1), high.reshape(1)
    scale, _ = calculate_qparams(low, high, args)
    codes = compressed_quantize(x=values, scale=scale, zero_point=None, args=args, dtype=tools.FP8)
    return codes, scale


FORMULAS = {"deepseek": deepseek, "deepgemm": deepgemm, "transformers": transformers}
SCALE_FMTS = {"deepseek": ["f32", "ue8m0", "e8m0"], "deepgemm": ["f32", "ue8m0", "e8m0"],
              "transformers": ["f32", "e8m0"]}


def ours(recipe, scale_fmt, block, values):
    """Codes and scales, as bytes."""
    dtype = next(name for name, torch_dtype in DTYPES.items() if torch_dtype == values.dtype)
    shape = [str(size) for size in values.shape]
    command = [str(tools.BIN / "dsv3-quantize-check"), recipe, scale_fmt, *map(str, block), dtype]
    stdin = values.contiguous().view(torch.uint8).numpy().tobytes()
    done = subprocess.run(command + shape, input=stdin, capture_output=True, check=True)
    return done.stdout[: values.numel()], done.stdout[values.numel():]


def as_bytes(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


class Formulas(unittest.TestCase):
    def compare(self, recipe, scale_fmt, block, values, codes, scale, hint):
        if scale_fmt == "e8m0" and scale.dtype == torch.float32:
            # The exponent's field; 0 stands for 2^-127, a subnormal number.
            scale = (scale.contiguous().view(torch.int32) >> 23).to(torch.uint8)
        our_codes, our_scale = ours(recipe, scale_fmt, block, values)
        case = f"{recipe} {scale_fmt} {block} {values.dtype} {hint}"
        self.assertEqual(our_scale, as_bytes(scale), case)
        self.assertEqual(our_codes, as_bytes(codes), case)

    def test_torch_code_of_each_formula(self):
        for dtype in DTYPES.values():
            for shape in SHAPES:
                for hint, values in matrices(dtype, *shape).items():
                    for recipe, formula in FORMULAS.items():
                        for scale_fmt in SCALE_FMTS[recipe]:
                            for block in [*BLOCKS, (1, shape[1]), shape]:
                                codes, scale = formula(values, block, scale_fmt)
                                self.compare(recipe, scale_fmt, block, values, codes, scale, hint)

    def test_compressed_tensors(self):
        for dtype in DTYPES.values():
            for shape in SHAPES:
                forms = [(block, "block") for block in BLOCKS]
                forms += [((1, shape[1]), "row"), (shape, "tensor")]
                for hint, values in matrices(dtype, *shape).items():
                    for block, form in forms:
                        codes, scale = compressed_tensors(values, block, form)
                        self.assertEqual(scale.dtype, dtype)
                        self.compare("llm-compressor", "f32", block, values, codes, scale,
                                     f"{form} {hint}")

    def test_transformers_5(self):
        script = pathlib.Path(__file__).with_name("transformers5.py")
        library = tools.ROOT / ".venv/transformers-5"
        environment = dict(os.environ, PYTHONPATH=str(library))
        with tempfile.TemporaryDirectory(prefix="dsv3-peers-") as directory:
            source = pathlib.Path(directory, "source.safetensors")
            target = pathlib.Path(directory, "target.safetensors")
            # The smallest numbers make its scales zero and its codes NaN.
            weights = {
                f"{dtype}.{hint}.weight": values
                for dtype, torch_dtype in DTYPES.items()
                for hint, values in matrices(torch_dtype).items()
                if hint in ("ordinary", "heavy", "zeros", "huge")
            }
            save_file(weights, source)
            for block in BLOCKS[:3]:
                for scale_fmt, theirs in [("f32", "float"), ("e8m0", "ue8m0")]:
                    command = [sys.executable, script, source, target, *map(str, block), theirs]
                    subprocess.run(command, env=environment, check=True, capture_output=True)
                    result = load_file(target)
                    for name, values in weights.items():
                        self.compare("transformers", scale_fmt, block, values, result[name],
                                     result[f"{name}_scale_inv"], name)


if __name__ == "__main__":
    unittest.main()
