"""The forward pass against transformers in float32, and against torch's simulation of FP8 activations."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy

import tools

# transformers' own float32 differs from a forward pass in float64 by 2.5e-6.
LARGEST = 1e-5


def nmse(expected, got):
    expected, got = expected.astype(numpy.float64), got.astype(numpy.float64)
    return ((got - expected) ** 2).sum() / (expected**2).sum()


class Forward(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.root = pathlib.Path(directory.name)
        script = pathlib.Path(__file__).with_name("forward_models.py")
        library = pathlib.Path(sys.prefix) / "transformers-5"
        for version, path in (("4", ""), ("5", str(library))):
            environment = dict(os.environ, PYTHONPATH=path)
            made = subprocess.run([sys.executable, script, cls.root / version], env=environment,
                                  capture_output=True, text=True)
            if made.returncode != 0:
                raise AssertionError(made.stderr)

    def forward(self, directory, *options):
        """Logits and hidden states."""
        logits, hidden = self.root / "logits.npy", self.root / "hidden.npy"
        tools.run("dsv3-verify", "forward", directory, "--tokens-file", directory / "tokens.npy",
                  "--logits-out", logits, "--hidden-out", hidden, "--quiet", *options)
        return numpy.load(logits), numpy.load(hidden)

    def close(self, expected, got):
        self.assertEqual(got.dtype, numpy.float32)
        expected = expected.reshape(got.shape)
        self.assertLessEqual(abs(got - expected).max(), LARGEST * abs(expected).max())

    def test_every_relative_gives_the_logits_of_transformers(self):
        for version, least in (("4", 5), ("5", 15)):
            kinds = sorted(path for path in (self.root / version).iterdir())
            self.assertGreaterEqual(len(kinds), least)
            for directory in kinds:
                for form in ("naive", "absorbed"):
                    with self.subTest(version=version, kind=directory.name, attention=form):
                        logits, hidden = self.forward(directory, "--attention", form)
                        self.close(numpy.load(directory / "logits.npy"), logits)
                        if (directory / "hidden.npy").exists():
                            # transformers gives what the last layer adds behind the final norm only.
                            self.close(numpy.load(directory / "hidden.npy"), hidden[:-1])

    def test_an_mtp_layer_takes_what_the_final_norm_gives(self):
        directory, out = self.root / "5" / "mtp", self.root / "mtp.npy"
        tools.run("dsv3-verify", "forward", directory, "--tokens-file", directory / "tokens.npy",
                  "--mtp-logits-out", out, "--quiet")
        self.close(numpy.load(directory / "mtp_logits.npy"), numpy.load(out))

    def test_activations_in_fp8(self):
        directory = self.root / "4" / "fp8"
        plain = numpy.load(directory / "logits.npy")
        for form in ("fp8", "fp8-ue8m0"):
            with self.subTest(form=form):
                logits, _ = self.forward(directory, "--activations", form)
                expected = numpy.load(directory / f"{form}.npy").reshape(logits.shape)
                # A value in the middle of two codes may be rounded either way.
                self.assertLess(nmse(expected, logits), 1e-5)
                self.assertGreater(nmse(plain.reshape(logits.shape), logits), 1e-4)


if __name__ == "__main__":
    unittest.main()
