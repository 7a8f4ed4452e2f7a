"""`dsv3-convert to-gguf` against llama.cpp's own converter.

The converter is taken from DSV3_LLAMA_CPP, a directory of llama.cpp's source. scripts/peers takes it from the source
package of llama-cpp-python; without it the comparisons are skipped.
"""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy
from safetensors.torch import load_file

import gguf_files
import tools

try:
    import gguf
except ImportError:
    gguf = None

LLAMA_CPP = os.environ.get("DSV3_LLAMA_CPP", "")
TYPES = ("f32", "f16", "bf16", "q8_0")
# What the converter derives from the name of the directory and from model cards.
NAMING = ("general.name", "general.basename", "general.finetune", "general.version")

# What the converter and to-gguf are given: the model, the tokenizer, the converter's options and ours.
CONVERSIONS = [
    *((source, "deepseek-v3", ["--outtype", kind], ["--type", kind]) for source in ("tiny", "bf16") for kind in TYPES),
    ("v2-lite", "deepseek-llm", ["--outtype", "bf16"], ["--type", "bf16"]),
    ("v2", "deepseek-llm", ["--outtype", "q8_0"], ["--type", "q8_0"]),
    ("tiny-kimi", "kimi-k2", ["--outtype", "q8_0"], ["--type", "q8_0"]),
    ("k2-int4", "kimi-k2", ["--outtype", "f16"], ["--type", "f16"]),
    ("k2.5", "kimi-k2", ["--outtype", "bf16"], ["--type", "bf16"]),
    ("moonlight", "deepseek-v3", ["--outtype", "q8_0"], ["--type", "q8_0"]),
    *(("v32", "deepseek-v3", ["--outtype", kind], ["--type", kind]) for kind in TYPES),
    ("v32", "deepseek-v3", ["--outtype", "f16", "--no-mtp"], ["--type", "f16", "--mtp", "drop"]),
    ("glm5", "glm4", ["--outtype", "q8_0"], ["--type", "q8_0"]),
    ("glm5", "glm4", ["--outtype", "bf16", "--no-mtp"], ["--type", "bf16", "--mtp", "drop"]),
    ("v4", "deepseek-v3", ["--outtype", "q8_0"], ["--type", "q8_0", "--keep-4bit"]),
]
# Where llama.cpp takes another chat template than the model has, and what to-gguf writes for its loader.
ONLY_THEIRS = {"v4": ("tokenizer.chat_template",)}
ONLY_OURS = {"moonlight": ("deepseek2.attention.q_lora_rank",), "v2-lite": ("deepseek2.attention.q_lora_rank",)}


@unittest.skipIf(gguf is None, "gguf is not installed")
@unittest.skipUnless(LLAMA_CPP, "no source of llama.cpp: DSV3_LLAMA_CPP is not set (scripts/peers downloads one)")
class LlamaConverter(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        for preset in ("tiny", "v2-lite", "tiny-kimi", "k2-int4", "k2.5", "moonlight", "v32", "glm5", "v4"):
            gguf_files.sample(cls.scratch / preset, preset)
        tools.run("dsv3-convert", "fp8-to-bf16", cls.scratch / "tiny", cls.scratch / "bf16", "--quiet")
        gguf_files.give_glm_tokens(cls.scratch / "glm5")
        cls.make_v2(cls.scratch / "bf16", cls.scratch / "v2")
        cls.make_tiktoken(cls.scratch / "tiny-kimi", cls.scratch / "tiktoken")
        cls.merges = cls.run_converter()

    @staticmethod
    def make_v2(source, directory):
        """DeepSeek-V2 has the tensors of V3 without the router's bias and the MTP layer."""
        config = json.loads((source / "config.json").read_text())
        mtp = f"model.layers.{config['num_hidden_layers']}."
        tensors = {name: tensor for file in sorted(source.glob("*.safetensors")) for name, tensor in load_file(file).items()
                   if not name.startswith(mtp) and "e_score_correction_bias" not in name}
        config |= {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "scoring_func": "softmax",
                   "topk_method": "group_limited_greedy", "norm_topk_prob": False, "num_nextn_predict_layers": 0}
        tools.write_checkpoint(directory, {"model-00001-of-00001.safetensors": tensors}, config)
        for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, directory)

    @staticmethod
    def make_tiktoken(source, directory):
        shutil.copytree(source, directory)
        (directory / "tokenizer.json").unlink()
        random = numpy.random.default_rng(1)
        tokens = [bytes([byte]) for byte in b"ab\xc3\x28 \n"]
        while len(tokens) < 120:
            pair = b"".join(tokens[i] for i in random.integers(len(tokens), size=int(random.integers(2, 4))))
            if pair not in tokens:
                tokens.append(pair)
        lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
        (directory / "tiktoken.model").write_text("".join(lines))

    @classmethod
    def run_converter(cls):
        """Has the converter make theirs-N.gguf of each conversion; returns the merges of the tiktoken file."""
        runs = []
        for number, (source, pre, theirs, _) in enumerate(CONVERSIONS):
            arguments = [str(cls.scratch / source), "--outfile", str(cls.scratch / f"theirs-{number}.gguf"), *theirs]
            runs.append({"pre": pre, "arguments": arguments})
        script = pathlib.Path(__file__).with_name("llama_converter.py")
        command = [sys.executable, script, LLAMA_CPP, cls.scratch / "tiktoken" / "tiktoken.model"]
        # The models are too small for more threads.
        done = subprocess.run(command, input=json.dumps(runs), capture_output=True, text=True,
                              env=dict(os.environ, OMP_NUM_THREADS="1"))
        if done.returncode != 0:
            raise AssertionError(done.stderr[-4000:])
        return done.stdout.splitlines()

    def test_keys_and_tensors_are_those_of_the_converter(self):
        for number, (source, _, _, ours) in enumerate(CONVERSIONS):
            with self.subTest(source=source, options=ours):
                path = self.scratch / f"ours-{number}.gguf"
                tools.run("dsv3-convert", "to-gguf", self.scratch / source, path, *ours, "--quiet")
                their_tensors, their_keys = gguf_files.read(gguf, self.scratch / f"theirs-{number}.gguf")
                tensors, keys = gguf_files.read(gguf, path)
                for name in (*NAMING, *ONLY_THEIRS.get(source, ())):
                    their_keys.pop(name, None)
                for name in (*NAMING, *ONLY_OURS.get(source, ())):
                    keys.pop(name, None)
                self.maxDiff = None
                self.assertEqual(keys, their_keys)
                self.assertEqual(set(tensors), set(their_tensors))
                for name, tensor in tensors.items():
                    self.assertEqual(tensor, their_tensors[name], name)

    def test_merges_of_tiktoken_are_those_of_the_converter(self):
        path = self.scratch / "tiktoken.gguf"
        tools.run("dsv3-convert", "to-gguf", self.scratch / "tiktoken", path, "--type", "f16", "--quiet")
        _, keys = gguf_files.read(gguf, path)
        self.assertEqual(keys["tokenizer.ggml.merges"][1], self.merges)


if __name__ == "__main__":
    unittest.main()
