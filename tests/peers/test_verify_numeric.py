"""`dsv3-verify numeric` and `compare` against torch in double precision."""

import json
import pathlib
import shutil
import tempfile
import unittest

import torch
from safetensors import safe_open

import tools


class VerifyNumeric(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.sample = self.directory / "fp8"
        tools.run("dsv3-convert", "sample", self.sample, "--preset", "tiny")
        self.tensors = {}
        for path in self.sample.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    self.tensors[name] = file.get_tensor(name)

    def values(self, name):
        """What a tensor's values are, as float32."""
        tensor = self.tensors[name]
        scale = self.tensors.get(name + "_scale_inv")
        if scale is None:
            return tensor.float()
        rows, columns = tensor.shape
        block = (tools.BLOCK, tools.BLOCK)
        return tensor.float() * tools.spread(scale, rows, columns, block)

    def test_absmax_and_rms_are_those_of_torch(self):
        report = json.loads(tools.run("dsv3-verify", "numeric", self.sample, "--json").stdout)
        self.assertEqual(sorted(t["name"] for t in report["tensors"]), sorted(self.tensors))
        self.assertEqual(report["findings"], [])
        for tensor in report["tensors"]:
            values = self.values(tensor["name"]).double()
            rms = values.square().mean().sqrt().item()
            self.assertEqual(tensor["absmax"], values.abs().max().item(), tensor["name"])
            self.assertAlmostEqual(tensor["rms"] / rms, 1, delta=1e-5, msg=tensor["name"])

    def test_the_dequantised_checkpoint_has_the_same_values(self):
        output = self.directory / "bf16"
        tools.convert(self.sample, output)
        tools.run("dsv3-verify", "compare", self.sample, output)
        tools.run("dsv3-verify", "compare", output, self.sample)


if __name__ == "__main__":
    unittest.main()
