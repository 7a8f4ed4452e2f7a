"""`dsv3-convert fp8-to-bf16` of every scale form against torch, and compressed-tensors itself."""

import json
import pathlib
import shutil
import tempfile
import unittest

import torch
from safetensors.torch import load_file

import tools

try:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize as peer_dequantize
except ImportError:
    peer_dequantize = None

E5M2 = torch.float8_e5m2


def codes(shape, seed, dtype=tools.FP8):
    """Every code but the NaNs and infinities."""
    generator = torch.Generator().manual_seed(seed)
    largest = 0x7F if dtype == tools.FP8 else 0x7C
    magnitude = torch.randint(0, largest, shape, generator=generator)
    sign = torch.randint(0, 2, shape, generator=generator) * 0x80
    return (magnitude + sign).to(torch.uint8).view(dtype)


def scales(shape, seed, dtype=torch.float32):
    """Positive scales; E8M0 where `dtype` is torch.uint8."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(100, 140, shape, generator=generator).to(torch.uint8)
    return (torch.rand(shape, generator=generator) * 0.01 + 1e-5).to(dtype)


def value(scale):
    if scale.dtype != torch.uint8:
        return scale.float()
    return torch.ldexp(torch.ones(scale.shape), scale.int() - 127)


def fp8(**members):
    return {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", **members}


def compressed(form="float-quantized", **weights):
    weights = {"num_bits": 8, "type": "float", "symmetric": True, **weights}
    group = {"targets": ["Linear"], "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


class ScaleForms(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def check(self, quantization, weights, **pairs):
        """Converts `weights` with their scales and compares each bit with `pairs`."""
        source, output = self.directory / "fp8", self.directory / "bf16"
        tools.write_checkpoint(
            source,
            {"model-00001-of-00001.safetensors": weights},
            {"model_type": "unknown", "quantization_config": quantization},
        )
        tools.convert(source, output)
        got = load_file(output / "model-00001-of-00001.safetensors")
        self.assertEqual(sorted(got), sorted(pairs))
        for name, expected in pairs.items():
            self.assertTrue(tools.same_bits(got[name], expected), f"{name} differs")
        self.assertNotIn("quantization_config", json.loads((output / "config.json").read_text()))

    def check_blocks(self, quantization, suffix, block, dtype=torch.float32, weight_dtype=tools.FP8):
        rows, columns = 200, 300
        shape = (-(-rows // block[0]), -(-columns // block[1]))
        w, s = codes((rows, columns), 1, weight_dtype), scales(shape, 2, dtype)
        stem = "layer.proj"
        name = f"{stem}.scale" if suffix == ".scale" else f"{stem}.weight{suffix}"
        self.check(
            quantization,
            {f"{stem}.weight": w, name: s},
            **{f"{stem}.weight": tools.dequantize(w, value(s), block)},
        )

    def test_blocks(self):
        for block in ((128, 128), (32, 32), (1, 128)):
            for dtype in (torch.float32, torch.bfloat16):
                with self.subTest(block=block, dtype=dtype):
                    quantization = fp8(weight_block_size=list(block))
                    self.check_blocks(quantization, "_scale_inv", block, dtype)
                    shutil.rmtree(self.directory)

    def test_e8m0(self):
        block, rows, columns = (128, 128), 200, 300
        w, s = codes((rows, columns), 1), scales((2, 3), 2, torch.uint8)
        self.check(
            fp8(weight_block_size=list(block), scale_fmt="ue8m0"),
            {"a.weight": w, "a.scale": s.view(torch.float8_e8m0fnu)},
            **{"a.weight": tools.dequantize(w, value(s), block)},
        )

    def test_e5m2(self):
        self.check_blocks(fp8(weight_block_size=[64, 64]), "_scale_inv", (64, 64), weight_dtype=E5M2)

    def test_compressed_blocks(self):
        quantization = compressed(strategy="block", block_structure=[128, 128])
        self.check_blocks(quantization, "_scale", (128, 128), torch.bfloat16)

    def test_mxfp8(self):
        quantization = compressed("mxfp8-quantized", strategy="group", group_size=32)
        self.check_blocks(quantization, "_scale", (1, 32), torch.uint8)

    def test_compressed_channels(self):
        w, s = codes((50, 70), 1), scales((50, 1), 2, torch.bfloat16)
        expected = (w.float() * s.float()).to(torch.bfloat16)
        self.check(compressed(strategy="channel"), {"a.weight": w, "a.weight_scale": s}, **{"a.weight": expected})

    def test_fbgemm(self):
        """One scale a row, times the codes; the bound of the activations' scales goes."""
        weight, scale = codes((48, 80), 21), scales((48, 1), 22)
        self.check(
            {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
            {"a.weight": weight, "a.weight_scale": scale, "a.input_scale_ub": torch.tensor([1200.0])},
            **{"a.weight": (weight.float() * scale).to(torch.bfloat16)},
        )

    def test_compressed_tensors(self):
        w, s = codes((50, 70), 1), scales((1,), 2)
        expected = (w.float() * s).to(torch.bfloat16)
        self.check(compressed(strategy="tensor"), {"a.weight": w, "a.weight_scale": s}, **{"a.weight": expected})

    def test_fused_experts(self):
        w, s = codes((3, 40, 20), 1), scales((3, 3, 2), 2)
        expected = torch.stack([tools.dequantize(w[e], s[e], (16, 16)) for e in range(3)])
        self.check(
            fp8(weight_block_size=[16, 16]),
            {"experts.gate_up_proj": w, "experts.gate_up_proj_scale_inv": s},
            **{"experts.gate_up_proj": expected},
        )

    @unittest.skipIf(peer_dequantize is None, "compressed-tensors is not installed")
    def test_compressed_tensors_own_decompression(self):
        """float32 scales, so that the library computes in float32 like the formula."""
        for strategy, shape, extra in (
            ("tensor", (1,), {}),
            ("channel", (256, 1), {}),
            ("block", (2, 3), {"block_structure": [128, 128]}),
        ):
            with self.subTest(strategy=strategy):
                w, s = codes((256, 384), 1), scales(shape, 2)
                args = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy=strategy, **extra)
                expected = peer_dequantize(w, s, args=args, dtype=torch.float32).to(torch.bfloat16)
                self.check(
                    compressed(strategy=strategy, **extra),
                    {"a.weight": w, "a.weight_scale": s},
                    **{"a.weight": expected},
                )
                shutil.rmtree(self.directory)


if __name__ == "__main__":
    unittest.main()
