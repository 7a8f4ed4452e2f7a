"""`dsv3-convert to-gguf` against gguf-py's reader and quantisers, and against llama.cpp's own converter.

gguf-py is a package of PyPI. The converter is taken from DSV3_LLAMA_CPP, a directory of llama.cpp's source; the source
package of llama-cpp-python has one in vendor/llama.cpp. Without it that comparison is skipped.
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
import torch
from safetensors.torch import load_file

import tools

try:
    import gguf
except ImportError:
    gguf = None

LLAMA_CPP = os.environ.get("DSV3_LLAMA_CPP", "")
TYPES = ("f32", "f16", "bf16", "q8_0")
# What the converter derives from the name of the directory and from model cards.
NAMING = ("general.name", "general.basename", "general.finetune", "general.size_label", "general.version")

# Runs the converter on a tokenizer whose digest it does not know.
CONVERTER = """
import sys
sys.path.insert(0, sys.argv[1])
sys.path.insert(0, sys.argv[1] + "/gguf-py")
import convert_hf_to_gguf as converter
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "deepseek-v3"
sys.argv = ["convert", *sys.argv[2:]]
converter.main()
"""


def load(directory):
    tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def products(directory):
    """The values in float32: FP8 codes times their scales, not rounded."""
    tensors = load(directory)
    values = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        value = tensor.float()
        scale = tensors.get(name + "_scale_inv")
        if scale is not None:
            value = value * tools.spread(scale.float(), *value.shape, (tools.BLOCK, tools.BLOCK))
        values[name] = value
    return values


def read(path):
    """Tensors by name as (type, bytes), and keys as (types, values)."""
    reader = gguf.GGUFReader(path)
    tensors = {each.name: (each.tensor_type, tuple(each.shape), each.data.tobytes()) for each in reader.tensors}
    keys = {
        name: (field.types, field.contents())
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    return tensors, keys


@unittest.skipIf(gguf is None, "gguf is not installed")
class ToGguf(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        for preset in ("tiny", "tiny-kimi"):
            tools.run("dsv3-convert", "sample", cls.scratch / preset, "--preset", preset, "--quiet")
        tools.run("dsv3-convert", "fp8-to-bf16", cls.scratch / "tiny", cls.scratch / "bf16", "--quiet")

    def convert(self, source, kind):
        path = self.scratch / f"{source}-{kind}.gguf"
        if not path.exists():
            tools.run("dsv3-convert", "to-gguf", self.scratch / source, path, "--type", kind, "--quiet")
        return path

    def expected(self, name, value, kind):
        """The bytes that gguf-py makes of a value."""
        wanted = {
            "f32": gguf.GGMLQuantizationType.F32,
            "f16": gguf.GGMLQuantizationType.F16,
            "bf16": gguf.GGMLQuantizationType.BF16,
            "q8_0": gguf.GGMLQuantizationType.Q8_0,
        }[kind]
        always = value.ndim < 2 or not name.endswith(".weight") or name.endswith(("_norm.weight", "ffn_gate_inp.weight"))
        if always:
            wanted = gguf.GGMLQuantizationType.F32
        elif kind == "q8_0" and value.shape[-1] % 32:
            wanted = gguf.GGMLQuantizationType.F16
        with numpy.errstate(over="ignore"):
            return wanted, gguf.quants.quantize(value.numpy(), wanted).tobytes()

    def values(self, source):
        """The values of the file's tensors by llama.cpp's names."""
        directory = self.scratch / source
        config = json.loads((directory / "config.json").read_text())
        held = products(directory)
        made = {
            "token_embd.weight": held["model.embed_tokens.weight"],
            "output_norm.weight": held["model.norm.weight"],
            "output.weight": held["lm_head.weight"],
        }
        names = {
            "input_layernorm.weight": "attn_norm.weight",
            "post_attention_layernorm.weight": "ffn_norm.weight",
            "self_attn.q_proj.weight": "attn_q.weight",
            "self_attn.q_a_proj.weight": "attn_q_a.weight",
            "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
            "self_attn.q_b_proj.weight": "attn_q_b.weight",
            "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
            "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
            "self_attn.o_proj.weight": "attn_output.weight",
            "mlp.gate.weight": "ffn_gate_inp.weight",
            "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
        }
        for part in ("gate", "up", "down"):
            names[f"mlp.{part}_proj.weight"] = f"ffn_{part}.weight"
            names[f"mlp.shared_experts.{part}_proj.weight"] = f"ffn_{part}_shexp.weight"
        heads, nope, v = config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]
        for layer in range(config["num_hidden_layers"]):
            of = f"model.layers.{layer}."
            for name, short in names.items():
                if of + name in held:
                    made[f"blk.{layer}.{short}"] = held[of + name]
            kv_b = held[of + "self_attn.kv_b_proj.weight"].view(heads, nope + v, -1)
            made[f"blk.{layer}.attn_k_b.weight"] = kv_b[:, :nope].transpose(1, 2).contiguous()
            made[f"blk.{layer}.attn_v_b.weight"] = kv_b[:, nope:].contiguous()
            for part in ("gate", "up", "down"):
                experts = [
                    held[f"{of}mlp.experts.{expert}.{part}_proj.weight"]
                    for expert in range(config["n_routed_experts"])
                    if f"{of}mlp.experts.{expert}.{part}_proj.weight" in held
                ]
                if experts:
                    made[f"blk.{layer}.ffn_{part}_exps.weight"] = torch.stack(experts)
        return made

    def test_every_tensor_is_what_gguf_py_makes_of_the_values(self):
        for source in ("tiny", "bf16", "tiny-kimi"):
            values = self.values(source)
            for kind in TYPES:
                tensors, _ = read(self.convert(source, kind))
                self.assertEqual(set(tensors), set(values))
                for name, value in values.items():
                    with self.subTest(source=source, kind=kind, name=name):
                        wanted, content = self.expected(name, value, kind)
                        self.assertEqual(tensors[name][0], wanted)
                        self.assertEqual(tensors[name][1], tuple(reversed(value.shape)))
                        self.assertEqual(tensors[name][2], content)

    @unittest.skipUnless(LLAMA_CPP, "DSV3_LLAMA_CPP is not set")
    def test_keys_and_tensors_are_those_of_llama_cpps_converter(self):
        for source in ("tiny", "bf16"):
            for kind in TYPES:
                theirs = self.scratch / f"theirs-{source}-{kind}.gguf"
                command = [sys.executable, "-c", CONVERTER, LLAMA_CPP, self.scratch / source]
                command += ["--outtype", kind, "--outfile", theirs]
                done = subprocess.run(command, capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
                with self.subTest(source=source, kind=kind):
                    tensors, keys = read(self.convert(source, kind))
                    their_tensors, their_keys = read(theirs)
                    for name in NAMING:
                        keys.pop(name, None)
                        their_keys.pop(name, None)
                    self.maxDiff = None
                    self.assertEqual(keys, their_keys)
                    self.assertEqual(set(tensors), set(their_tensors))
                    for name, tensor in tensors.items():
                        self.assertEqual(tensor, their_tensors[name], name)


if __name__ == "__main__":
    unittest.main()
