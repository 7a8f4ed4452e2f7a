"""The forward pass against transformers in float32, and against torch's simulation of FP8 activations."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy
from safetensors.torch import load_file, save_file

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

    def compare(self, first, second, *options):
        other = self.root / "other"
        report = tools.run("dsv3-verify", "forward", first, second, "--tokens-file", other / "tokens.npy", "--json",
                           *options, exit_code=1)
        return json.loads(report.stdout)

    def test_figures_of_two_models_are_those_of_numpy(self):
        directory, other = self.root / "5" / "v3", self.root / "other"
        other.mkdir()
        tensors = load_file(directory / "model.safetensors")
        tensors["model.layers.1.self_attn.q_b_proj.weight"] *= 1.01
        tensors["model.norm.weight"] = tensors["model.norm.weight"].flip(0).contiguous()
        save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
        shutil.copy(directory / "config.json", other)
        tokens = numpy.load(directory / "tokens.npy")[:1]
        numpy.save(other / "tokens.npy", tokens)

        def run(model):
            files = self.root / "l.npy", self.root / "h.npy"
            tools.run("dsv3-verify", "forward", model, "--tokens-file", other / "tokens.npy", "--logits-out", files[0],
                      "--hidden-out", files[1], "--quiet")
            return [numpy.load(file).astype(numpy.float64) for file in files]

        (a, hidden_a), (b, hidden_b) = run(directory), run(other)

        def cosine(x, y):
            return (x * y).sum(-1) / numpy.sqrt((x * x).sum(-1) * (y * y).sum(-1))

        def log_softmax(x):
            x = x - x.max(-1, keepdims=True)
            return x - numpy.log(numpy.exp(x).sum(-1, keepdims=True))

        def perplexity(log_p):
            return numpy.exp(-log_p[numpy.arange(len(log_p) - 1), tokens[0, 1:]].mean())

        log_p, log_q = log_softmax(a), log_softmax(b)
        kl = (numpy.exp(log_p) * (log_p - log_q)).sum(-1)
        report = self.compare(directory, other)
        expected = {"nmse": nmse(a, b), "cosine": cosine(a, b).min(), "max_abs": abs(a - b).max(), "kl_mean": kl.mean(),
                    "kl_max": kl.max(), "top1_agreement": (a.argmax(-1) == b.argmax(-1)).mean(),
                    "perplexity": perplexity(log_p), "other_perplexity": perplexity(log_q)}
        logits = report["comparison"]["logits"]
        self.assertEqual(sorted(logits), sorted(expected))
        for name, value in expected.items():
            with self.subTest(name):
                self.assertAlmostEqual(logits[name] / value, 1, delta=1e-9)
        for row in report["comparison"]["top1_differences"]:
            for name, margin, of in (("token", "margin", a), ("other_token", "other_margin", b)):
                order = numpy.sort(of[row["position"]])
                self.assertEqual(row[name], of[row["position"]].argmax())
                self.assertAlmostEqual(row[margin], order[-1] - order[-2], delta=1e-6)
        for layer, got in enumerate(report["comparison"]["layers"]):
            x, y = hidden_a[layer + 1].ravel(), hidden_b[layer + 1].ravel()
            self.assertAlmostEqual(got["nmse"], nmse(x, y), delta=1e-9 * nmse(x, y))
            self.assertAlmostEqual(got["cosine"], cosine(x, y), delta=1e-12)
        self.assertEqual([(d["tensor"], d["relation"]) for d in report["differences"]],
                         [("model.layers.1.self_attn.q_b_proj.weight", "scaled"), ("model.norm.weight", "rows-permuted")])
        self.assertEqual(report["first_difference"], report["differences"][0])
        self.assertAlmostEqual(report["first_difference"]["factor"], 1.01, delta=1e-6)
        self.assertAlmostEqual(report["first_difference"]["nmse"], 1e-4, delta=1e-8)


if __name__ == "__main__":
    unittest.main()
