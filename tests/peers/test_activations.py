"""Activations as engines quantise them: every value and scale, against the formula in torch."""

import subprocess
import unittest

import numpy
import torch

import tools

GROUP = 128


def quantize(x, ue8m0):
    """One row. x / s with s = amax / 448, cast by torch; a zero group has the scale 1."""
    padded = torch.nn.functional.pad(x, (0, -x.numel() % GROUP)).view(-1, GROUP)
    scales = padded.abs().amax(dim=1) / 448.0
    scales[scales == 0] = 1.0
    if ue8m0:
        exponents = torch.ceil(torch.log2(scales.double()))
        scales = torch.pow(torch.tensor(2.0, dtype=torch.float64), exponents).float()
    codes = (padded / scales[:, None]).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
    return codes.float().flatten()[: x.numel()], scales


class Activations(unittest.TestCase):
    def rows(self, columns):
        generator = torch.Generator().manual_seed(columns)
        normal = torch.randn(64, columns, generator=generator)
        heavy = normal / (torch.rand(64, columns, generator=generator) + 1e-3)
        zeros = normal.clone()
        zeros[:, :GROUP] = 0
        wide = normal * torch.pow(2.0, torch.linspace(-90, 90, 64))[:, None]
        powers = torch.pow(2.0, torch.randint(-30, 30, (64, columns), generator=generator).float())
        return torch.cat([normal, heavy, zeros, wide, powers * 448])

    def check(self, ue8m0, columns):
        x = self.rows(columns)
        command = [str(tools.BIN / "dsv3-activations-check"), "ue8m0" if ue8m0 else "f32"]
        done = subprocess.run(command + [str(columns)], input=x.numpy().tobytes(),
                              capture_output=True, check=True)
        got = torch.from_numpy(numpy.frombuffer(done.stdout, numpy.float32).copy())
        got = got.view(x.shape[0], -1)
        expected = torch.stack([torch.cat(quantize(row, ue8m0)) for row in x])
        self.assertTrue(torch.equal(got.view(torch.int32), expected.view(torch.int32)))

    def test_every_value_and_scale(self):
        for ue8m0 in (False, True):
            for columns in (1, 100, 128, 129, 704, 2048):
                with self.subTest(ue8m0=ue8m0, columns=columns):
                    self.check(ue8m0, columns)


if __name__ == "__main__":
    unittest.main()
