"""`dsv3-convert quantize` to NVFP4, MXFP4 and MXFP8 against compressed-tensors, and against ModelOpt or its formula in torch."""

import json
import pathlib
import shutil
import sys
import tempfile
import unittest

import torch
from safetensors.torch import load_file, save_file

import test_quantize
import tools

try:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
except ImportError:
    BaseCompressor = None
sys.path.append(str(pathlib.Path(sys.prefix) / "modelopt"))
try:
    from modelopt.torch.quantization.qtensor import MXFP4QTensor, MXFP8QTensor, NVFP4QTensor
except ImportError:
    NVFP4QTensor = None

BOUNDS = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5])


def pack(codes):
    return (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)


def same_bytes(got, expected):
    return (
        got.dtype == expected.dtype
        and got.shape == expected.shape
        and torch.equal(got.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8))
    )


def nvfp4(weight, amax):
    """ModelOpt 0.47's NVFP4: ties to even, the sign of negative values alone."""
    of_all = amax.float() / 2688
    groups = weight.unflatten(-1, (-1, 16)).float()
    scale = groups.abs().amax(-1) / (6 * of_all)
    scale[scale == 0] = 1
    scale = scale.clamp(2**-9, 448).to(tools.FP8)
    quotient = groups / (scale.float() * of_all).unsqueeze(-1)
    magnitude = quotient.abs().contiguous()
    code = torch.searchsorted(BOUNDS, magnitude)
    code += (magnitude.unsqueeze(-1) == BOUNDS[[1, 3, 5]]).any(-1)
    return pack((code + 8 * (quotient < 0)).flatten(-2)), scale, of_all


def mx_scale(groups, largest):
    amax = groups.float().abs().amax(-1)
    exponent = (amax / largest).log2().ceil().clamp(min=-127)
    return exponent


def mxfp4(weight):
    """ModelOpt 0.47's MXFP4: ties down, zeros of either sign become code 8."""
    groups = weight.unflatten(-1, (-1, 32))
    exponent = mx_scale(groups, 6)
    quotient = groups / exponent.exp2().unsqueeze(-1)
    code = (quotient.abs().unsqueeze(-1) > BOUNDS).sum(-1) + 8 * (quotient <= 0)
    return pack(code.flatten(-2)), (exponent + 127).to(torch.uint8)


def mxfp8(weight):
    groups = weight.unflatten(-1, (-1, 32))
    exponent = mx_scale(groups, 448).clamp(max=127)
    quotient = groups * (-exponent).exp2().unsqueeze(-1)
    return quotient.clamp(-448, 448).to(tools.FP8).flatten(-2), (exponent + 127).to(torch.uint8)


class QuantizeFloats(tools.SmallModel):
    preset = "tiny-tp"  # whole groups of 32 columns

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        test_quantize.spoil(cls.source)
        for path in cls.source.glob("*.safetensors"):
            tensors = load_file(path)
            for tensor in tensors.values():
                # From 1.75 · 2^127 on compressed-tensors' MX scales are infinite.
                tensor[tensor > 2e38] = 2e38
            save_file(tensors, path, metadata={"format": "pt"})
        cls.weights = test_quantize.tensors_of(cls.source)

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def quantised(self, to, *options):
        target = self.directory / "out"
        shutil.rmtree(target, ignore_errors=True)
        done = tools.run(
            "dsv3-convert", "quantize", self.source, target, "--json", "--to", to, *options
        )
        names = [each["tensor"] for each in json.loads(done.stdout)["quality"]["tensors"]]
        self.assertGreater(len(names), 20)
        modules = [name.rsplit(".", 1)[0] for name in names]
        return test_quantize.tensors_of(target), target, modules

    def as_the_library(self, to, codes, *options):
        got, target, modules = self.quantised(to, *options)
        raw = json.loads((target / "config.json").read_text())["quantization_config"]
        config = QuantizationConfig.model_validate(raw)
        for added in ("version", "sparsity_config", "transform_config"):
            raw.pop(added)
        self.assertEqual(raw, json.loads(json.dumps(config.model_dump(), default=str)))
        scheme = config.config_groups["group_0"]
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        for module in modules:
            weight = self.weights[f"{module}.weight"]
            groups = weight.unflatten(-1, (-1, scheme.weights.group_size))
            state = {"weight": weight.clone()}
            of_all = None
            if to == "nvfp4":
                of_all = generate_gparam(weight.amin(), weight.amax())
                state["weight_global_scale"] = of_all
            scale, _ = calculate_qparams(
                groups.amin(-1), groups.amax(-1), scheme.weights, global_scale=of_all
            )
            state["weight_scale"] = scale
            parts = compressor.compress(state, scheme)
            parts = {part: tensor for part, tensor in parts.items() if tensor is not None}
            self.assertIn(codes, parts)
            for part, tensor in parts.items():
                self.assertTrue(same_bytes(got[f"{module}.{part}"], tensor), f"{module}.{part}")

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_mxfp4_is_that_of_compressed_tensors(self):
        self.as_the_library("mxfp4", "weight_packed")

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_mxfp8_is_that_of_compressed_tensors(self):
        self.as_the_library("mxfp8", "weight")

    @unittest.skipIf(BaseCompressor is None, "compressed-tensors is not installed")
    def test_nvfp4_is_that_of_compressed_tensors(self):
        self.as_the_library("nvfp4", "weight_packed", "--recipe", "llm-compressor")

    def description(self, target):
        self.assertNotIn(
            "quantization_config", json.loads((target / "config.json").read_text())
        )
        written = json.loads((target / "hf_quant_config.json").read_text())
        self.assertEqual(written["producer"]["name"], "modelopt")
        return written["quantization"]

    def test_nvfp4_is_modelopts(self):
        got, target, modules = self.quantised("nvfp4")
        self.assertEqual(self.description(target)["quant_algo"], "NVFP4")
        for module in modules:
            weight = self.weights[f"{module}.weight"]
            amax = weight.abs().max()
            for one, other in (("gate_proj", "up_proj"), ("up_proj", "gate_proj")):
                if module.endswith(one):
                    beside = self.weights[f"{module.removesuffix(one)}{other}.weight"]
                    amax = torch.maximum(amax, beside.abs().max())
            packed, scale, of_all = nvfp4(weight, amax)
            self.assertTrue(same_bytes(got[f"{module}.weight"], packed), module)
            self.assertTrue(same_bytes(got[f"{module}.weight_scale"], scale), module)
            self.assertTrue(torch.equal(got[f"{module}.weight_scale_2"], of_all), module)
            self.assertTrue(torch.equal(got[f"{module}.input_scale"], torch.tensor(1.0)), module)
            if NVFP4QTensor is None:
                continue
            own, own_scale, _ = NVFP4QTensor.quantize(weight, 16, None, of_all)
            self.assertTrue(same_bytes(own._quantized_data, packed), module)
            self.assertTrue(same_bytes(own_scale, scale), module)

    def test_mxfp4_is_modelopts(self):
        got, target, modules = self.quantised("mxfp4", "--recipe", "modelopt")
        self.assertEqual(self.description(target)["quant_algo"], "mxfp4")
        for module in modules:
            weight = self.weights[f"{module}.weight"]
            packed, scale = mxfp4(weight)
            self.assertTrue(same_bytes(got[f"{module}.weight"], packed), module)
            self.assertTrue(same_bytes(got[f"{module}.weight_scale"], scale), module)
            if NVFP4QTensor is None:
                continue
            own, own_scale = MXFP4QTensor.quantize(weight, 32)
            self.assertTrue(same_bytes(own._quantized_data, packed), module)
            self.assertTrue(same_bytes(own_scale.reshape(scale.shape), scale), module)

    def test_mxfp8_is_modelopts(self):
        got, target, modules = self.quantised("mxfp8", "--recipe", "modelopt")
        self.assertEqual(self.description(target)["quant_algo"], "MXFP8")
        for module in modules:
            weight = self.weights[f"{module}.weight"]
            codes, scale = mxfp8(weight)
            self.assertTrue(same_bytes(got[f"{module}.weight"], codes), module)
            self.assertTrue(same_bytes(got[f"{module}.weight_scale"], scale), module)
            if NVFP4QTensor is None:
                continue
            own, own_scale = MXFP8QTensor.quantize(weight)
            self.assertTrue(same_bytes(own._quantized_data, codes), module)
            self.assertTrue(same_bytes(own_scale, scale), module)


if __name__ == "__main__":
    unittest.main()
