"""`dsv3-convert bf16-to-fp8` against torch's arithmetic, safetensors, transformers and compressed-tensors."""

import json
import pathlib
import shutil
import tempfile
import unittest

import torch
from safetensors.torch import load_file

import models
import tools

try:
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.lifecycle.forward import dequantize as peer_dequantize
except ImportError:
    QuantizationConfig = None


def power_of_two_up(scale):
    """2^ceil(log2 s), by bits: the next exponent unless the mantissa is zero."""
    bits = scale.view(torch.int32)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).int()
    return exponent.clamp(min=1)


def quantize(weight, scale_fmt):
    """DeepSeek's formula with scales of each format; returns codes, the stored scale."""
    if scale_fmt == "f32":
        return tools.quantize(weight)
    rows, columns = weight.shape
    block = tools.BLOCK
    padded = torch.nn.functional.pad(weight.float(), (0, -columns % block, 0, -rows % block))
    tiles = padded.view(padded.shape[0] // block, block, padded.shape[1] // block, block)
    scale = tiles.abs().amax(dim=(1, 3)) / tools.FP8_MAX
    scale[scale == 0] = 1.0
    exponent = power_of_two_up(scale)
    rounded = (exponent << 23).view(torch.float32)
    codes = (tiles / rounded[:, None, :, None]).clamp(-tools.FP8_MAX, tools.FP8_MAX).to(tools.FP8)
    codes = codes.view(padded.shape)[:rows, :columns].contiguous()
    return codes, rounded if scale_fmt == "ue8m0" else exponent.to(torch.uint8)


class Bf16ToFp8(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.source = self.directory / "bf16"
        self.shards = models.build(self.source, models.config(), seed=3)

    def quantised(self, *options):
        target = self.directory / "fp8"
        shutil.rmtree(target, ignore_errors=True)
        tools.run("dsv3-convert", "bf16-to-fp8", self.source, target, "--json", *options)
        return target

    def test_every_scale_format_has_the_bytes_of_torch(self):
        for scale_fmt in ("f32", "ue8m0", "e8m0"):
            with self.subTest(scale_fmt):
                target = self.quantised("--scale-fmt", scale_fmt)
                found = 0
                for shard, tensors in self.shards.items():
                    got = load_file(target / shard)
                    for name, tensor in tensors.items():
                        if not models.QUANTISED.search(name):
                            self.assertTrue(torch.equal(got.pop(name), tensor), name)
                            continue
                        codes, scale = quantize(tensor, scale_fmt)
                        self.assertTrue(
                            torch.equal(got.pop(name).view(torch.uint8), codes.view(torch.uint8)), name
                        )
                        stored = got.pop(f"{name}_scale_inv")
                        wanted = torch.float8_e8m0fnu if scale_fmt == "e8m0" else torch.float32
                        self.assertEqual(stored.dtype, wanted)
                        if scale_fmt == "e8m0":
                            stored = stored.view(torch.uint8)
                        self.assertTrue(torch.equal(stored, scale), name)
                        found += 1
                    self.assertEqual(got, {}, f"{shard} holds more")
                self.assertGreater(found, 20)
                config = json.loads((target / "config.json").read_text())["quantization_config"]
                self.assertEqual(config.pop("scale_fmt", None), None if scale_fmt == "f32" else "ue8m0")
                self.assertEqual(config, tools.FP8_CONFIG)

    def test_transformers_computes_with_the_result(self):
        target = self.quantised()
        again = self.directory / "again"
        tools.convert(target, again)
        logits = models.logits(again, models.config().vocab_size)
        exact = models.logits(self.source, models.config().vocab_size)
        self.assertTrue(torch.isfinite(logits).all())
        error = (logits.float() - exact.float()).norm() / exact.float().norm()
        self.assertLess(error, 0.2)

    @unittest.skipIf(QuantizationConfig is None, "compressed-tensors is not installed")
    def test_compressed_tensors_reads_its_own_form(self):
        for options, strategy in (
            (("--recipe", "llm-compressor"), "block"),
            (("--recipe", "llm-compressor", "--block", "row"), "channel"),
            (("--recipe", "llm-compressor", "--block", "tensor"), "tensor"),
            (("--block", "row"), "channel"),
        ):
            with self.subTest(options):
                target = self.quantised(*options)
                raw = json.loads((target / "config.json").read_text())["quantization_config"]
                config = QuantizationConfig.model_validate(raw)
                self.assertEqual(config.quant_method, "compressed-tensors")
                weights = config.config_groups["group_0"].weights
                self.assertEqual(weights.strategy, strategy)
                # What it writes itself for the same configuration has no other members.
                written = {k: v for k, v in raw.items()}
                for added in ("version", "sparsity_config", "transform_config"):
                    written.pop(added)
                self.assertEqual(written, json.loads(json.dumps(config.model_dump())))
                self.assertIn("lm_head", config.ignore)
                for shard, tensors in self.shards.items():
                    got = load_file(target / shard)
                    for name, tensor in tensors.items():
                        if not models.QUANTISED.search(name):
                            continue
                        scale = got[f"{name}_scale"]
                        back = peer_dequantize(got[name], scale, args=weights, dtype=torch.float32)
                        error = (back - tensor.float()).norm() / tensor.float().norm()
                        self.assertLess(error, 0.04, name)


if __name__ == "__main__":
    unittest.main()
