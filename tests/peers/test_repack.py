"""`dsv3-convert repack` against the published formulas in torch, bit for bit."""

import json
import math
import pathlib
import shutil
import tempfile
import unittest

import torch
from safetensors.torch import load_file

import tools

try:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
    )
except ImportError:
    BaseCompressor = None

ROWS, COLUMNS = 256, 384
SHARD = "model-00001-of-00001.safetensors"
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
EXPERT = "layers.3.ffn.experts.7"
V4_CONFIG = {
    "model_type": "deepseek_v4_of_this_test",
    "expert_dtype": "fp4",
    "quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "scale_fmt": "ue8m0", "weight_block_size": [128, 128],
    },
}


def random_bytes(shape, low, high, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator).to(torch.uint8)


def values(packed):
    codes = packed.view(torch.uint8)
    return E2M1[torch.stack((codes & 0xF, codes >> 4), -1).flatten(-2).long()]


def e8m0(scale):
    return torch.pow(2.0, scale.view(torch.uint8).double() - 127)


def mxfp4(seed, low=100, high=114):
    packed = random_bytes((ROWS, COLUMNS // 2), 0, 255, seed).view(torch.int8)
    scale = random_bytes((ROWS, COLUMNS // 32), low, high, seed + 1).view(torch.float8_e8m0fnu)
    return packed, scale


def same_bytes(got, expected):
    return got.dtype == expected.dtype and torch.equal(
        got.view(torch.uint8), expected.view(torch.uint8)
    )


class Repack(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def repack(self, tensors, config, to, side_files=(), exit_code=0):
        source, output = self.directory / "in", self.directory / to
        for directory in (source, output):
            shutil.rmtree(directory, ignore_errors=True)
        tools.write_checkpoint(source, {SHARD: tensors}, config)
        for name, text in side_files:
            (source / name).write_text(text)
        done = tools.run(
            "dsv3-convert", "repack", source, output, "--to", to, "--json", exit_code=exit_code
        )
        if exit_code:
            return done
        self.assertEqual(json.loads(done.stdout)["command"], "repack")
        return load_file(output / SHARD)

    def test_fp8_of_v4(self):
        packed, scale = mxfp4(1)
        got = self.repack(
            {f"{EXPERT}.w1.weight": packed, f"{EXPERT}.w1.scale": scale}, V4_CONFIG, "fp8"
        )
        # In tiles of 128 × 128: the largest scale becomes 2^6, and what is left goes into the codes.
        tiles = e8m0(scale).view(ROWS // 128, 128, COLUMNS // 128, 4)
        block = tiles.amax(dim=(1, 3)) / 64
        factor = (tiles / block[:, None, :, None]).view(ROWS, COLUMNS // 32)
        product = values(packed).double() * factor.repeat_interleave(32, dim=1)
        codes = product.float().to(tools.FP8)
        self.assertTrue(torch.equal(codes.double(), product), "the codes are not exact")
        self.assertTrue(same_bytes(got[f"{EXPERT}.w1.weight"], codes))
        want = block.float().to(torch.float8_e8m0fnu)
        self.assertTrue(same_bytes(got[f"{EXPERT}.w1.scale"], want))
        written = json.loads((self.directory / "fp8" / "config.json").read_text())
        self.assertEqual(written, {**V4_CONFIG, "expert_dtype": "fp8"})

    def test_fp8_refuses_what_torch_would_round(self):
        packed, scale = mxfp4(3)
        scale.view(torch.uint8)[200, 5] = 90
        packed[200, 80:96] = 0x11
        done = self.repack(
            {f"{EXPERT}.w1.weight": packed, f"{EXPERT}.w1.scale": scale}, V4_CONFIG, "fp8",
            exit_code=3,
        )
        self.assertIn("rows 128 to 255, columns 128 to 255", done.stderr)
        self.assertFalse((self.directory / "fp8").exists())

    def test_nvfp4_of_v4(self):
        parts = {name: mxfp4(seed, low, high)
                 for name, seed, low, high in (("w1", 5, 100, 112), ("w2", 7, 98, 115),
                                               ("w3", 9, 103, 117))}
        tensors = {}
        for name, (packed, scale) in parts.items():
            tensors[f"{EXPERT}.{name}.weight"] = packed
            tensors[f"{EXPERT}.{name}.scale"] = scale
        got = self.repack(tensors, V4_CONFIG, "nvfp4")
        for name, (packed, scale) in parts.items():
            shared = ("w2",) if name == "w2" else ("w1", "w3")
            largest = max(int(parts[each][1].view(torch.uint8).max()) for each in shared) - 127
            exponents = scale.view(torch.uint8).int() - 127
            groups = torch.pow(2.0, (exponents - largest + 8).double()).float().to(tools.FP8)
            groups = groups.repeat_interleave(2, dim=1)
            module = f"{EXPERT}.{name}"
            self.assertTrue(torch.equal(got[f"{module}.weight"], packed.view(torch.uint8)))
            self.assertTrue(same_bytes(got[f"{module}.weight_scale"], groups))
            of_all = got[f"{module}.weight_scale_2"]
            self.assertEqual((of_all.shape, float(of_all)), (torch.Size(), 2.0 ** (largest - 8)))
            self.assertEqual(float(got[f"{module}.input_scale"]), 1.0)
            before = values(packed).double() * e8m0(scale).repeat_interleave(32, dim=1)
            after = values(packed) * (groups.float() * of_all).repeat_interleave(16, dim=1)
            self.assertTrue(torch.equal(before, after.double()))

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_nvfp4_of_modelopt_as_compressed_tensors_reads_it(self):
        for seed in range(8):
            module = "model.layers.3.mlp.experts.7.gate_proj"
            generator = torch.Generator().manual_seed(seed)
            of_all = (torch.rand((), generator=generator) + 0.1) * 1e-4
            parts = {
                "weight": random_bytes((ROWS, COLUMNS // 2), 0, 255, seed),
                "weight_scale": random_bytes((ROWS, COLUMNS // 16), 1, 0x7E, seed).view(tools.FP8),
                "weight_scale_2": of_all,
                "input_scale": torch.tensor(0.37),
            }
            description = {"quantization": {"quant_algo": "NVFP4", "group_size": 16}}
            got = self.repack(
                {f"{module}.{part}": tensor for part, tensor in parts.items()},
                {"model_type": "unknown"}, "nvfp4-compressed-tensors",
                [("hf_quant_config.json", json.dumps(description))],
            )
            made = {name.removeprefix(module + "."): tensor for name, tensor in got.items()}
            self.assertTrue(torch.equal(made["weight_packed"], parts["weight"]))
            self.assertTrue(same_bytes(made["weight_scale"], parts["weight_scale"]))
            self.assertTrue(torch.equal(made["weight_global_scale"], (1 / of_all).reshape(1)))
            self.assertTrue(
                torch.equal(made["input_global_scale"], (1 / parts["input_scale"]).reshape(1))
            )
            scales = (parts["weight_scale"].float() * of_all).repeat_interleave(16, dim=1)
            expected = (values(parts["weight"]) * scales).to(torch.bfloat16)
            divided = made["weight_scale"].float() / made["weight_global_scale"]
            again = (values(made["weight_packed"]) * divided.repeat_interleave(16, dim=1))
            self.assertTrue(tools.same_bits(again.to(torch.bfloat16), expected))
            # The library reads the config and the tensors.
            written = json.loads(
                (self.directory / "nvfp4-compressed-tensors" / "config.json").read_text()
            )["quantization_config"]
            config = QuantizationConfig.model_validate(written)
            scheme = config.config_groups["group_0"]
            self.assertEqual(scheme.weights.group_size, 16)
            made.pop("input_global_scale")
            compressor = BaseCompressor.get_value_from_registry("nvfp4-pack-quantized")
            own = compressor.decompress(made, scheme)["weight"].detach()
            self.assertTrue(tools.same_bits(own.to(torch.bfloat16), expected))

    def test_nvfp4_of_compressed_tensors_as_modelopt_multiplies_it(self):
        module = "model.layers.3.mlp.experts.7.gate_proj"
        divisor = torch.tensor([2688 / 0.0371])
        parts = {
            "weight_packed": random_bytes((ROWS, COLUMNS // 2), 0, 255, 11),
            "weight_scale": random_bytes((ROWS, COLUMNS // 16), 1, 0x7E, 12).view(tools.FP8),
            "weight_global_scale": divisor,
        }
        group = {"targets": ["Linear"], "format": "nvfp4-pack-quantized",
                 "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group",
                             "group_size": 16, "symmetric": True}}
        config = {
            "model_type": "unknown",
            "quantization_config": {
                "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
                "config_groups": {"group_0": group}, "ignore": ["lm_head"],
            },
        }
        got = self.repack(
            {f"{module}.{part}": tensor for part, tensor in parts.items()}, config,
            "nvfp4-modelopt",
        )
        of_all = got[f"{module}.weight_scale_2"]
        self.assertEqual(of_all.shape, torch.Size())
        self.assertTrue(math.isclose(float(of_all), 1 / float(divisor), rel_tol=3e-7))
        packed = parts["weight_packed"]
        divided = (parts["weight_scale"].float() / divisor).repeat_interleave(16, dim=1)
        multiplied = (got[f"{module}.weight_scale"].float() * of_all).repeat_interleave(16, dim=1)
        self.assertTrue(
            tools.same_bits(
                (values(packed) * multiplied).to(torch.bfloat16),
                (values(packed) * divided).to(torch.bfloat16),
            )
        )


if __name__ == "__main__":
    unittest.main()
