"""`dsv3-convert dequantize` against compressed-tensors, bit for bit, and of other tools' forms against torch."""

import json
import pathlib
import shutil
import tempfile
import unittest

import torch
from safetensors.torch import load_file

import tools

try:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
except ImportError:
    BaseCompressor = None

ROWS, COLUMNS = 48, 256
MODULE = "model.layers.3.mlp.experts.7.gate_proj"
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def weights(seed, rows=ROWS, columns=COLUMNS):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((rows, columns), generator=generator) * 0.02
    values[0, :32] = 0  # a group of zeros
    return values.to(torch.bfloat16)


def group_amax(values, group):
    return values.float().view(values.shape[0], -1, group).abs().amax(-1)


def random_bytes(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def nibbles(codes):
    """The codes of packed bytes, the low half first."""
    return torch.stack((codes & 0xF, codes >> 4), -1).flatten(-2).long()


def spread(scale, group):
    return scale.repeat_interleave(group, dim=-1)


def compressed(form, **members):
    group = {"targets": ["Linear"], "format": form, "weights": {"symmetric": True, **members}}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


class Dequantize(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def check(self, parts, expected, quantization=None, side_files=(), name="weight"):
        """Converts the tensors `parts` of a module, and compares each bit of the weight."""
        source, output = self.directory / "in", self.directory / "bf16"
        for directory in (source, output):
            shutil.rmtree(directory, ignore_errors=True)
        norm = torch.ones(8, dtype=torch.bfloat16)
        tensors = {f"{MODULE}.{part}": tensor for part, tensor in parts.items()}
        config = {"model_type": "unknown"}
        if quantization:
            config["quantization_config"] = quantization
        tools.write_checkpoint(
            source, {"model-00001-of-00001.safetensors": {"norm.weight": norm, **tensors}}, config
        )
        for file, text in side_files:
            (source / file).write_text(text)
        report = json.loads(tools.run("dsv3-convert", "dequantize", source, output, "--json").stdout)
        self.assertEqual(report["command"], "dequantize")
        got = load_file(output / "model-00001-of-00001.safetensors")
        self.assertEqual(sorted(got), sorted([f"{MODULE}.{name}", "norm.weight"]))
        self.assertTrue(tools.same_bits(got[f"{MODULE}.{name}"], expected), "the weight differs")
        written = json.loads((output / "config.json").read_text())
        self.assertNotIn("quantization_config", written)
        for file, _ in side_files:
            self.assertFalse((output / file).exists(), file)

    def compress(self, form, state, **members):
        """What compressed-tensors' own compressor writes and reads."""
        scheme = QuantizationScheme(
            targets=["Linear"], weights=QuantizationArgs(**{"symmetric": True, **members})
        )
        compressor = BaseCompressor.get_value_from_registry(form)
        parts = compressor.compress(state, scheme)
        parts = {part: tensor.detach() for part, tensor in parts.items() if tensor is not None}
        return parts, compressor.decompress(dict(parts), scheme)["weight"].detach()

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_packed_int4(self):
        for group in (32, 128):
            values = weights(group)
            scale = (group_amax(values, group) / 7.5).to(torch.bfloat16)
            scale[scale == 0] = torch.finfo(torch.bfloat16).eps
            members = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group}
            parts, expected = self.compress(
                "pack-quantized", {"weight": values, "weight_scale": scale}, **members
            )
            self.assertEqual(
                sorted(parts), ["weight_packed", "weight_scale", "weight_shape"]
            )
            self.check(parts, expected.to(torch.bfloat16), compressed("pack-quantized", **members))
            # Kimi writes the shape as I32.
            parts["weight_shape"] = parts["weight_shape"].to(torch.int32)
            self.check(parts, expected.to(torch.bfloat16), compressed("pack-quantized", **members))

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_packed_int4_with_zero_points(self):
        for rows in (48, 44):
            values = weights(3, rows=rows)
            scale = (group_amax(values, 32) / 7.5 + 1e-3).to(torch.bfloat16)
            generator = torch.Generator().manual_seed(4)
            zero = torch.randint(-8, 8, scale.shape, generator=generator).to(torch.int8)
            members = {
                "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
                "symmetric": False,
            }
            state = {"weight": values, "weight_scale": scale, "weight_zero_point": zero}
            parts, expected = self.compress("pack-quantized", state, **members)
            self.assertEqual(parts["weight_zero_point"].dtype, torch.int32)
            self.check(parts, expected.to(torch.bfloat16), compressed("pack-quantized", **members))

    def test_awq(self):
        """The formula of AutoAWQ's gemm kernel, (q - z) * s, from codes to words and back."""
        order = (0, 2, 4, 6, 1, 3, 5, 7)  # the column of each four bits of a word, the lowest first

        def pack(codes):
            words = torch.zeros(codes.shape[0], codes.shape[1] // 8, dtype=torch.int64)
            for place, column in enumerate(order):
                words |= codes[:, column::8] << (4 * place)
            return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)

        for group, version in ((128, "gemm"), (64, "GEMM"), (32, None)):
            generator = torch.Generator().manual_seed(group)
            codes = torch.randint(0, 16, (COLUMNS, ROWS), generator=generator)
            zeros = torch.randint(0, 16, (COLUMNS // group, ROWS), generator=generator)
            scales = (torch.rand(COLUMNS // group, ROWS, generator=generator) + 0.01).half()
            spread_zeros = zeros.repeat_interleave(group, 0)
            spread_scales = scales.float().repeat_interleave(group, 0)
            expected = ((codes - spread_zeros).float() * spread_scales).T.to(torch.bfloat16)
            config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True}
            if version:
                config["version"] = version
            self.check(
                {"qweight": pack(codes), "qzeros": pack(zeros), "scales": scales},
                expected.contiguous(), config,
            )

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_int8(self):
        for strategy in ("channel", "tensor"):
            values = weights(5)
            amax = values.float().abs()
            amax = amax.amax(-1, keepdim=True) if strategy == "channel" else amax.max().reshape(1)
            scale = (amax / 127.5).to(torch.bfloat16)
            members = {"num_bits": 8, "type": "int", "strategy": strategy}
            state = {"weight": values, "weight_scale": scale}
            parts, expected = self.compress("int-quantized", state, **members)
            self.assertEqual(parts["weight"].dtype, torch.int8)
            self.check(parts, expected.to(torch.bfloat16), compressed("int-quantized", **members))

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_w4afp8_one_value_a_byte(self):
        values = weights(6)
        scale = (group_amax(values, 128) / 7.5).to(torch.bfloat16)
        members = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
        state = {"weight": values, "weight_scale": scale}
        parts, expected = self.compress("int-quantized", state, **members)
        self.check(parts, expected.to(torch.bfloat16), compressed("int-quantized", **members))

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_nvfp4(self):
        members = {
            "num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
            "scale_dtype": torch.float8_e4m3fn,
        }
        values = weights(7)
        scale_of_all = torch.tensor([448 * 6 / values.float().abs().max()])
        scale = (scale_of_all * group_amax(values, 16) / 6).clamp(max=448).to(tools.FP8).float()
        scale[scale == 0] = 0.125
        state = {"weight": values, "weight_scale": scale, "weight_global_scale": scale_of_all}
        parts, own = self.compress("nvfp4-pack-quantized", state, **members)
        self.assertEqual(parts["weight_scale"].dtype, tools.FP8)
        codes = E2M1[nibbles(parts["weight_packed"])]
        expected = codes * spread(parts["weight_scale"].float() / scale_of_all, 16)
        self.assertTrue(tools.same_bits(own, expected.to(torch.bfloat16)))
        parts["input_global_scale"] = torch.tensor([3.0])
        members["scale_dtype"] = "torch.float8_e4m3fn"
        self.check(
            parts, expected.to(torch.bfloat16), compressed("nvfp4-pack-quantized", **members)
        )

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_mxfp4(self):
        members = {
            "num_bits": 4, "type": "float", "strategy": "group", "group_size": 32,
            "scale_dtype": torch.uint8,
        }
        values = weights(8)
        scale = torch.exp2((group_amax(values, 32) / 6 + 1e-6).log2().ceil()).to(torch.bfloat16)
        state = {"weight": values, "weight_scale": scale}
        parts, expected = self.compress("mxfp4-pack-quantized", state, **members)
        self.assertEqual(parts["weight_scale"].dtype, torch.uint8)
        members["scale_dtype"] = "torch.uint8"
        self.check(
            parts, expected.to(torch.bfloat16), compressed("mxfp4-pack-quantized", **members)
        )
        # V4 keeps the same bytes under other names and dtypes.
        v4 = {
            "weight": parts["weight_packed"].view(torch.int8),
            "scale": parts["weight_scale"].view(torch.float8_e8m0fnu),
        }
        self.check(v4, expected.to(torch.bfloat16))

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_mxfp8(self):
        members = {
            "num_bits": 8, "type": "float", "strategy": "group", "group_size": 32,
            "scale_dtype": torch.uint8,
        }
        values = weights(9)
        scale = torch.exp2((group_amax(values, 32) / 448 + 1e-9).log2().ceil()).to(torch.bfloat16)
        state = {"weight": values, "weight_scale": scale}
        parts, expected = self.compress("mxfp8-quantized", state, **members)
        members["scale_dtype"] = "torch.uint8"
        self.check(parts, expected.to(torch.bfloat16), compressed("mxfp8-quantized", **members))
        # transformers' names.
        parts["weight_scale_inv"] = parts.pop("weight_scale")
        self.check(parts, expected.to(torch.bfloat16), {"quant_method": "mxfp8"})

    def test_nvfp4_of_every_code(self):
        scale = torch.tensor([0x01, 0x38, 0x7E, 0x45], dtype=torch.uint8).view(tools.FP8)
        scale = scale.repeat(ROWS, COLUMNS // 64)
        self.check_modelopt_nvfp4(random_bytes((ROWS, COLUMNS // 2), 1), scale, torch.tensor(1.7e-4))

    def check_modelopt_nvfp4(self, packed, scale, scale_of_all):
        expected = E2M1[nibbles(packed)] * spread(scale.float() * scale_of_all, 16)
        parts = {
            "weight": packed, "weight_scale": scale, "input_scale": torch.tensor(1.0),
            "weight_scale_2": scale_of_all,
        }
        description = {"quantization": {"quant_algo": "NVFP4", "group_size": 16}}
        side_files = [("hf_quant_config.json", json.dumps(description))]
        self.check(parts, expected.to(torch.bfloat16), side_files=side_files)

    def test_int8_of_ascend(self):
        codes = random_bytes((ROWS, COLUMNS), 2).view(torch.int8)
        generator = torch.Generator().manual_seed(3)
        scale = torch.rand((ROWS, 1), generator=generator) * 0.01 + 1e-4
        for offset in (torch.zeros((ROWS, 1)), torch.randint(-9, 9, (ROWS, 1)).float()):
            self.check(
                {"weight": codes, "weight_scale": scale, "weight_offset": offset},
                ((codes.float() - offset) * scale).to(torch.bfloat16),
                side_files=[("quant_model_description.json", '{"a.weight": "W8A8_DYNAMIC"}')],
            )

    def test_int8_blocks(self):
        rows, columns = 200, 300
        codes = random_bytes((rows, columns), 4).view(torch.int8)
        generator = torch.Generator().manual_seed(5)
        scale = torch.rand((2, 3), generator=generator) * 0.01 + 1e-4
        expected = codes.float() * tools.spread(scale, rows, columns, (128, 128))
        self.check(
            {"weight": codes, "weight_scale_inv": scale},
            expected.to(torch.bfloat16),
            {"quant_method": "blockwise_int8", "weight_block_size": [128, 128]},
        )

    def test_w4afp8_of_tensorrt(self):
        packed = random_bytes((ROWS, COLUMNS // 2), 6)
        generator = torch.Generator().manual_seed(7)
        scale = torch.rand((ROWS, COLUMNS // 128), generator=generator) * 0.01 + 1e-4
        codes = nibbles(packed)
        codes = torch.where(codes < 8, codes, codes - 16).float()
        description = {"quantization": {"quant_algo": "MIXED_PRECISION"}}
        self.check(
            {"weight": packed.view(torch.int8), "weight_scale_inv": scale},
            (codes * spread(scale, 128)).to(torch.bfloat16),
            side_files=[
                ("hf_quant_config.json", json.dumps(description)),
                ("quant_cfg.json", json.dumps({"quant_algo": "MIXED_PRECISION"})),
            ],
        )

    def test_fp8_of_modelopt(self):
        codes = (random_bytes((ROWS, COLUMNS), 8) & 0xBF).view(tools.FP8)
        generator = torch.Generator().manual_seed(9)
        for shape in ((), (1,), (ROWS,), (ROWS, 1)):
            scale = torch.rand(shape, generator=generator) * 0.01 + 1e-4
            by_row = scale.reshape(-1, 1)
            self.check(
                {"weight": codes, "weight_scale": scale, "input_scale": torch.tensor(1.0)},
                (codes.float() * by_row).to(torch.bfloat16),
                {"quant_method": "modelopt", "quant_algo": "FP8"},
            )


if __name__ == "__main__":
    unittest.main()
