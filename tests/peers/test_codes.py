"""Every FP8 code times many scales, through the command and through torch."""

import pathlib
import shutil
import tempfile
import unittest

import torch
from safetensors.torch import load_file

import tools

SMALLEST = 2.0**-149  # F32's least subnormal
LARGEST = torch.finfo(torch.float32).max


def f32_scales():
    """Positive finite F32 values: the edges, powers of two, and all magnitudes at random."""
    generator = torch.Generator().manual_seed(8)
    edges = torch.tensor([
        SMALLEST, 2 * SMALLEST, 3 * SMALLEST, 2.0**-126 - SMALLEST, 2.0**-126, 3.7e-38,
        1.0, 1 - 2.0**-24, 1 + 2.0**-23, 1.32288, 1 / 448, LARGEST / 448, LARGEST / 256,
        LARGEST / 2, LARGEST, 2.0**-110, 2.0**110, 2.0**-111, 2.0**111,
    ], dtype=torch.float32)
    powers = torch.pow(2.0, torch.arange(-149, 128, dtype=torch.float64)).float()
    bits = torch.randint(1, 0x7F800000, (220,), generator=generator, dtype=torch.int32)
    # Mantissas next to the middle between two BF16 values, where rounding decides.
    middles = (torch.randint(1 << 10, 0x7F00, (220,), generator=generator) << 16) | 0x8000
    middles = middles + torch.randint(-2, 3, (220,), generator=generator)
    return torch.cat([
        edges, powers, bits.view(torch.float32), middles.to(torch.int32).view(torch.float32),
        torch.rand(220, generator=generator) * 1e-3 + 1e-6,
    ])


class Codes(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def check(self, scales, block, *options, repeats=1):
        """Each scale gets a column of blocks in which all 256 codes appear."""
        rows = block[0] * repeats
        columns = block[1] * len(scales)
        codes = torch.arange(rows * columns).view(rows, columns).remainder(256).to(torch.uint8)
        if block[0] * block[1] > 256:
            # Another order of the codes in every row, so that each meets each lane of a vector.
            codes = codes + torch.arange(rows, dtype=torch.uint8)[:, None] * 37
        weight = codes.view(tools.FP8)
        scale = scales.expand(repeats, -1).contiguous()
        config = {
            "model_type": "peer_codes",
            "torch_dtype": "bfloat16",
            "quantization_config": {**tools.FP8_CONFIG, "weight_block_size": list(block)},
        }
        source, output = self.directory / "fp8", self.directory / "bf16"
        shards = {"model-1-of-1.safetensors": {"w.weight": weight, "w.weight_scale_inv": scale}}
        tools.write_checkpoint(source, shards, config)
        tools.convert(source, output, *options)
        got = load_file(output / "model-1-of-1.safetensors")["w.weight"]
        wanted = tools.dequantize(weight, scale, block)
        self.assertTrue(tools.same_bits(got, wanted), self.first_difference(got, wanted, scale, codes))
        nan = (codes & 0x7F) == 0x7F
        self.assertTrue((got.view(torch.int16)[nan] & 0x7FFF == 0x7FC0).all(), "a NaN is not 0x7FC0")

    @staticmethod
    def first_difference(got, wanted, scale, codes):
        bits, expected = got.view(torch.int16), wanted.view(torch.int16)
        differ = (bits != expected) & ~(torch.isnan(got) & torch.isnan(wanted))
        if not differ.any():
            return "equal"
        row, column = differ.nonzero()[0].tolist()
        block = got.shape[1] // scale.shape[1]
        return (
            f"{int(differ.sum())} differ; first: code {int(codes[row, column]):#04x} times "
            f"{float(scale[0, column // block])!r} gave {int(bits[row, column]) & 0xFFFF:#06x}, "
            f"torch {int(expected[row, column]) & 0xFFFF:#06x}"
        )

    def test_f32_scales_in_blocks_of_128(self):
        self.check(f32_scales(), (128, 128))

    def test_f32_scales_in_blocks_of_one_row(self):
        self.check(f32_scales(), (1, 256))

    def test_f32_scales_in_blocks_narrower_than_a_vector(self):
        self.check(f32_scales(), (86, 3))

    def test_bf16_scales(self):
        bits = torch.arange(1, 0x7F80, dtype=torch.int32).to(torch.int16)
        self.check(bits.view(torch.bfloat16), (8, 32))

    def test_e8m0_scales(self):
        bits = torch.arange(0, 255, dtype=torch.int32).to(torch.uint8)
        self.check(bits.view(torch.float8_e8m0fnu), (128, 128))
        shutil.rmtree(self.directory / "bf16")
        self.check(bits.view(torch.float8_e8m0fnu), (32, 32), repeats=2)

    def test_bad_scales_when_they_are_allowed(self):
        bad = [0.0, -0.0, -1.0, -3.3e-5, float("inf"), -float("inf"), float("nan"), -SMALLEST]
        self.check(torch.tensor(bad), (128, 128), "--allow-bad-scales")


if __name__ == "__main__":
    unittest.main()
