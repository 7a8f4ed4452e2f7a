"""`dsv3-convert quantize` against compressed-tensors' own scales, codes and config, and torch's formula of INT8 blocks."""

import json
import pathlib
import shutil
import tempfile
import unittest

import torch
from safetensors.torch import load_file, save_file

import tools

try:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams
except ImportError:
    BaseCompressor = None


def tensors_of(directory):
    """All tensors of a checkpoint, by name."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        found.update(load_file(path))
    return found


def spoil(directory):
    """Puts zeros of both signs, subnormals, ties and large values into some weights."""
    for path in sorted(directory.glob("*.safetensors")):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if tensor.ndim != 2 or tensor.dtype != torch.bfloat16:
                continue
            tensor[0] = 0
            tensor[1, ::2] = -0.0
            tensor[2] = tensor[2] * 2.0**-120
            tensor[3] = torch.finfo(torch.bfloat16).smallest_normal / 64
            tensor[4] = (torch.arange(tensor.shape[1]) % 256 - 127).to(torch.bfloat16) / 2
            tensor[5, 7] = 3.0e38
        save_file(tensors, path, metadata={"format": "pt"})


class Quantize(tools.SmallModel):
    preset = "tiny-tp"  # whole groups of 32 columns

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        spoil(cls.source)

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def quantised(self, *options):
        target = self.directory / "out"
        shutil.rmtree(target, ignore_errors=True)
        report = json.loads(
            tools.run("dsv3-convert", "quantize", self.source, target, "--json", *options).stdout
        )
        self.assertEqual(report["command"], "quantize")
        config = json.loads((target / "config.json").read_text())["quantization_config"]
        return tensors_of(target), config, [each["tensor"] for each in report["quality"]["tensors"]]

    def as_the_library(self, to, weight_parts):
        """Compares every quantised weight with what compressed-tensors makes of it."""
        got, raw, quantised = self.quantised("--to", to)
        config = QuantizationConfig.model_validate(raw)
        for added in ("version", "sparsity_config", "transform_config"):
            raw.pop(added)
        self.assertEqual(raw, json.loads(json.dumps(config.model_dump())))
        scheme = config.config_groups["group_0"]
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        compared = 0
        for name, weight in tensors_of(self.source).items():
            module = name.removesuffix(".weight")
            if f"{module}.{weight_parts[0]}" not in quantised:
                self.assertTrue(tools.same_bits(got[name], weight), name) if weight.dtype == torch.bfloat16 else None
                continue
            self.assertNotIn(module, config.ignore)
            group = scheme.weights.group_size or weight.shape[1]
            groups = weight.unflatten(-1, (-1, group))
            scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
            parts = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
            parts = {part: tensor for part, tensor in parts.items() if tensor is not None}
            self.assertEqual(sorted(parts), sorted(weight_parts))
            for part, tensor in parts.items():
                ours = got[f"{module}.{part}"]
                self.assertEqual((ours.dtype, ours.shape), (tensor.dtype, tensor.shape), f"{module}.{part}")
                self.assertTrue(torch.equal(ours, tensor), f"{module}.{part}")
            compared += 1
        self.assertEqual(compared, len(quantised))
        self.assertGreater(compared, 20)

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_int8_is_that_of_compressed_tensors(self):
        self.as_the_library("int8", ["weight", "weight_scale"])

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_int4_is_that_of_compressed_tensors(self):
        self.as_the_library("int4", ["weight_packed", "weight_scale", "weight_shape"])

    def test_int8_blocks_are_torchs(self):
        got, _, quantised = self.quantised("--to", "int8-block")
        block = tools.BLOCK
        source = tensors_of(self.source)
        for name in quantised:
            weight = source[name].float()
            rows, columns = weight.shape
            padded = torch.nn.functional.pad(weight, (0, -columns % block, 0, -rows % block))
            tiles = padded.view(padded.shape[0] // block, block, padded.shape[1] // block, block)
            scale = tiles.abs().amax(dim=(1, 3)) / 127
            scale[scale == 0] = 1.0
            codes = (tiles / scale[:, None, :, None]).round().clamp(-128, 127).to(torch.int8)
            codes = codes.view(padded.shape)[:rows, :columns]
            self.assertTrue(torch.equal(got[f"{name}_scale_inv"], scale), name)
            self.assertTrue(torch.equal(got[name], codes), name)
        self.assertGreater(len(quantised), 20)


if __name__ == "__main__":
    unittest.main()
