"""llama.cpp runs what `dsv3-convert to-gguf` writes: logits against transformers, and decoding.

DSV3_XLLAMACPP names the directory where xllamacpp, llama.cpp as a package of PyPI, is installed; scripts/peers --llama
installs it. Without it the comparisons are skipped.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy

import gguf_files
import tools

XLLAMACPP = os.environ.get("DSV3_XLLAMACPP", "")
LARGEST = 3e-3
# xllamacpp's fields, for what llama.cpp does not read from a file.
RUN_WITH = {"kimi": ["yarn_beta_fast=1"]}
# What llama.cpp computes otherwise than the model, whatever a file says.
DIFFERENT = ("v2-groups", "v3-yarn-mscale", "v3-yarn-plain", "v3-yarn-untruncated")

# Loads a file in llama.cpp and prints the tokens that it gives, with their logarithmic probabilities.
DECODE = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx = params.n_batch = params.n_ubatch = 64
params.n_parallel = params.cpuparams.n_threads = 1
params.n_gpu_layers = 0
params.warmup = params.fit_params = False
request = {"prompt": [5, 17, 40, 33, 7, 80], "n_predict": 8, "temperature": 0, "n_probs": 1}
answer = xllamacpp.Server(params).handle_completions(request)
tokens = answer["choices"][0]["logprobs"]["content"]
print("DECODED", json.dumps([[token["id"], token["logprob"]] for token in tokens]))
"""


def log_softmax(logits):
    logits = logits.astype(numpy.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(-1, keepdims=True))


@unittest.skipUnless(XLLAMACPP, "no llama.cpp: DSV3_XLLAMACPP is not set (scripts/peers --llama installs it)")
class LlamaLibrary(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        for preset in ("tiny", "v2-lite", "moonlight", "v32", "glm5", "k2-int4"):
            gguf_files.sample(cls.scratch / preset, preset)
        script = pathlib.Path(__file__).with_name("llama_models.py")
        cls.python([script, cls.scratch / "models"], pathlib.Path(sys.prefix) / "transformers-5")
        cls.warned = {path.name: cls.convert(path) for path in (cls.scratch / "models").iterdir()}

    @classmethod
    def convert(cls, directory):
        """Makes the F32 file of a model; returns whether that warns of what llama.cpp computes otherwise."""
        shutil.copy(cls.scratch / "tiny" / "tokenizer.json", directory)
        report = tools.run("dsv3-convert", "to-gguf", directory, cls.scratch / f"{directory.name}.gguf", "--type", "f32",
                           "--quiet", "--json")
        return "llama-cpp-differs" in [warning["kind"] for warning in json.loads(report.stdout)["warnings"]]

    @classmethod
    def python(cls, command, packages):
        done = subprocess.run([sys.executable, *command], env=dict(os.environ, PYTHONPATH=str(packages)),
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(done.stderr[-4000:])
        return done.stdout

    def largest_difference(self, kind, *fields):
        """Between the logarithmic probabilities of llama.cpp and transformers, over tokens and vocabulary."""
        directory = self.scratch / "models" / kind
        path, out = self.scratch / f"{kind}.gguf", self.scratch / "logits.npy"
        numpy.save(self.scratch / "tokens.npy", numpy.load(directory / "tokens.npy")[0])
        script = pathlib.Path(__file__).with_name("llama_logits.py")
        self.python([script, path, self.scratch / "tokens.npy", out, *fields], XLLAMACPP)
        expected = log_softmax(numpy.load(directory / "logits.npy")[0])
        got = numpy.load(out)
        self.assertEqual(got.shape, expected.shape)
        return abs(got - expected).max()

    def test_logits_are_those_of_transformers(self):
        for kind in sorted(self.warned.keys() - set(DIFFERENT)):
            with self.subTest(kind):
                self.assertEqual(self.warned[kind], kind in RUN_WITH)
                difference = self.largest_difference(kind, *RUN_WITH.get(kind, ()))
                print(f"{kind}: {difference:.1e}")
                self.assertLessEqual(difference, LARGEST)

    def test_what_llama_cpp_computes_otherwise_is_warned_of(self):
        for kind in (*DIFFERENT, *RUN_WITH):
            with self.subTest(kind):
                self.assertTrue(self.warned[kind])
                self.assertGreater(self.largest_difference(kind), LARGEST)

    def decode(self, source, *options, kind="f32"):
        """What llama.cpp gives of the file of a model: tokens and their logarithmic probabilities."""
        directory = pathlib.Path(tempfile.mkdtemp(dir=self.scratch))
        tools.run("dsv3-convert", "to-gguf", self.scratch / source, directory / "m.gguf", "--type", kind, "--quiet", *options)
        printed = self.python(["-c", DECODE, min(directory.glob("*.gguf"))], XLLAMACPP)
        lines = [line for line in printed.splitlines() if line.startswith("DECODED ")]
        self.assertEqual(len(lines), 1, printed)
        tokens, logs = zip(*json.loads(lines[0].removeprefix("DECODED ")))
        self.assertTrue(numpy.isfinite(logs).all())
        return tokens, logs

    def test_files_load_and_decode(self):
        whole = self.decode("tiny")
        self.assertEqual(self.decode("tiny", "--mtp", "keep"), whole)
        self.assertEqual(self.decode("tiny", "--max-file-size", "2M"), whole)
        self.assertEqual(self.decode("v32", "--mtp", "drop"), self.decode("v32"))
        for source in ("v2-lite", "moonlight", "glm5"):
            with self.subTest(source=source):
                self.decode(source)
        for kind in ("f16", "bf16", "q8_0"):
            with self.subTest(kind=kind):
                # Activations are rounded to the type, too.
                numpy.testing.assert_allclose(self.decode("tiny", kind=kind)[1][0], whole[1][0], atol=0.05)
        # llama.cpp rounds activations to multiply them with Q4_0.
        tokens, logs = self.decode("k2-int4")
        kept_tokens, kept_logs = self.decode("k2-int4", "--keep-4bit")
        self.assertEqual(kept_tokens, tokens)
        numpy.testing.assert_allclose(kept_logs, logs, atol=0.01)


if __name__ == "__main__":
    unittest.main()
