"""`dsv3-convert to-gguf` against gguf-py's reader and quantisers, llama.cpp's own converter, and llama.cpp itself.

gguf-py is a package of PyPI. The converter is taken from DSV3_LLAMA_CPP, a directory of llama.cpp's source; the source
package of llama-cpp-python has one in vendor/llama.cpp. llama.cpp itself is in xllamacpp, a package of PyPI. Without
these the comparisons are skipped.
"""

import base64
import importlib.util
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

HAS_XLLAMACPP = importlib.util.find_spec("xllamacpp") is not None
LLAMA_CPP = os.environ.get("DSV3_LLAMA_CPP", "")
TYPES = ("f32", "f16", "bf16", "q8_0")
# What the converter derives from the name of the directory and from model cards.
NAMING = ("general.name", "general.basename", "general.finetune", "general.version")

# Runs the converter on a tokenizer whose digest it does not know: of the kind argv[2].
CONVERTER = """
import sys
source, pre = sys.argv[1:3]
sys.path.insert(0, source)
sys.path.insert(0, source + "/gguf-py")
import convert_hf_to_gguf as converter
from conversion import base, deepseek
# transformers 4 has add_bos_token, which V3.2's wants to be set, of Llama's tokenizers alone.
deepseek.DeepseekV32Model.set_vocab = base.TextModel._set_vocab_gpt2
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv = ["convert", *sys.argv[3:]]
converter.main()
"""
# Prints the merges that the converter derives of a tiktoken file, a line each.
TIKTOKEN = """
import base64, sys
source, file = sys.argv[1:]
sys.path.insert(0, source)
sys.path.insert(0, source + "/gguf-py")
from conversion.qwen import QwenModel
ranks = {}
for line in open(file):
    token, rank = line.split()
    ranks[base64.b64decode(token)] = int(rank)
for token, rank in ranks.items():
    parts = QwenModel.bpe(ranks, token, max_rank=rank)
    if len(token) > 1 and len(parts) == 2:
        print(" ".join(map(QwenModel.token_bytes_to_string, parts)))
"""
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
GLM_TOKENS = ("[gMASK]", "<|user|>", "<|endoftext|>", "<|observation|>")

# What the converter and to-gguf are given: the model, the tokenizer, the converter's options and ours.
CONVERSIONS = [
    *((source, "deepseek-v3", ["--outtype", kind], ["--type", kind]) for source in ("tiny", "bf16") for kind in TYPES),
    ("tiny-kimi", "kimi-k2", ["--outtype", "q8_0"], ["--type", "q8_0"]),
    ("moonlight", "deepseek-v3", ["--outtype", "q8_0"], ["--type", "q8_0"]),
    *(("v32", "deepseek-v3", ["--outtype", kind], ["--type", kind]) for kind in TYPES),
    ("v32", "deepseek-v3", ["--outtype", "f16", "--no-mtp"], ["--type", "f16", "--mtp", "drop"]),
    ("glm5", "glm4", ["--outtype", "q8_0"], ["--type", "q8_0"]),
    ("glm5", "glm4", ["--outtype", "bf16", "--no-mtp"], ["--type", "bf16", "--mtp", "drop"]),
    ("v4", "deepseek-v3", ["--outtype", "q8_0"], ["--type", "q8_0", "--keep-4bit"]),
]
# Where llama.cpp takes another chat template than the model has, and what to-gguf writes for its loader.
ONLY_THEIRS = {"v4": ("tokenizer.chat_template",)}
ONLY_OURS = {"moonlight": ("deepseek2.attention.q_lora_rank",)}


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
        for preset in ("tiny", "tiny-kimi", "moonlight", "v2-lite", "v32", "glm5", "v4", "k2-int4"):
            tools.run("dsv3-convert", "sample", cls.scratch / preset, "--preset", preset, "--quiet")
            cls.give_merge(cls.scratch / preset)
        tools.run("dsv3-convert", "fp8-to-bf16", cls.scratch / "tiny", cls.scratch / "bf16", "--quiet")
        cls.give_tokens(cls.scratch / "glm5")

    @staticmethod
    def give_merge(directory):
        """A merge, without which llama.cpp takes no tokenizer."""
        path = directory / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        model = tokenizer["model"]
        model["vocab"]["ab"] = len(model["vocab"])
        model["merges"] = ["a b"]
        path.write_text(json.dumps(tokenizer))

    @staticmethod
    def give_tokens(directory):
        """The tokens of GLM that the converter asks for."""
        path = directory / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        for number, token in enumerate(GLM_TOKENS, len(tokenizer["model"]["vocab"])):
            tokenizer["added_tokens"].append(
                {"id": number, "content": token, "special": True, "normalized": False}
                | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            )
        path.write_text(json.dumps(tokenizer))

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

    def test_int4_keeps_its_values_as_q4_0(self):
        path = self.scratch / "kept.gguf"
        source = self.scratch / "k2-int4"
        tools.run("dsv3-convert", "to-gguf", source, path, "--type", "bf16", "--keep-4bit", "--quiet")
        held = load(source)
        reader = gguf.GGUFReader(path)
        kept = 0
        for tensor in reader.tensors:
            if "_exps." not in tensor.name:
                continue
            layer, part = int(tensor.name.split(".")[1]), tensor.name.split("_")[1]
            of = f"model.layers.{layer}.mlp.experts."
            self.assertEqual(tensor.tensor_type, gguf.GGMLQuantizationType.Q4_0)
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for expert, value in enumerate(values):
                name = f"{of}{expert}.{part}_proj.weight"
                words = held[name + "_packed"].numpy().view(numpy.uint32)
                codes = (words[:, :, None] >> (4 * numpy.arange(8, dtype=numpy.uint32)) & 15).reshape(len(words), -1)
                scales = held[name + "_scale"].float().numpy().repeat(32, axis=1)
                numpy.testing.assert_array_equal(value, (codes.astype(numpy.float32) - 8) * scales, name)
            kept += 1
        self.assertEqual(kept, 6)

    def test_fp4_keeps_its_values_as_mxfp4(self):
        path = self.scratch / "kept-v4.gguf"
        source = self.scratch / "v4"
        tools.run("dsv3-convert", "to-gguf", source, path, "--type", "q8_0", "--keep-4bit", "--quiet")
        held = load(source)
        e2m1 = numpy.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], numpy.float32)
        e2m1 = numpy.concatenate([e2m1, -e2m1])
        matrices = {"gate": "w1", "down": "w2", "up": "w3"}
        for tensor in gguf.GGUFReader(path).tensors:
            if "_exps." not in tensor.name:
                continue
            layer, part = int(tensor.name.split(".")[1]), matrices[tensor.name.split("_")[1]]
            self.assertEqual(tensor.tensor_type, gguf.GGMLQuantizationType.MXFP4)
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for expert, value in enumerate(values):
                name = f"layers.{layer}.ffn.experts.{expert}.{part}"
                codes = held[name + ".weight"].view(torch.uint8).numpy()
                codes = numpy.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1)
                scales = numpy.exp2(held[name + ".scale"].view(torch.uint8).numpy().astype(numpy.float32) - 127)
                numpy.testing.assert_array_equal(value, e2m1[codes] * scales.repeat(32, axis=1), name)

    @unittest.skipUnless(LLAMA_CPP, "DSV3_LLAMA_CPP is not set")
    def test_keys_and_tensors_are_those_of_llama_cpps_converter(self):
        for number, (source, pre, theirs, ours) in enumerate(CONVERSIONS):
            with self.subTest(source=source, options=ours):
                paths = [self.scratch / f"{who}-{number}.gguf" for who in ("theirs", "ours")]
                command = [sys.executable, "-c", CONVERTER, LLAMA_CPP, pre, self.scratch / source, "--outfile", paths[0]]
                done = subprocess.run([*command, *theirs], capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
                tools.run("dsv3-convert", "to-gguf", self.scratch / source, paths[1], *ours, "--quiet")
                their_tensors, their_keys = read(paths[0])
                tensors, keys = read(paths[1])
                for name in (*NAMING, *ONLY_THEIRS.get(source, ())):
                    their_keys.pop(name, None)
                for name in (*NAMING, *ONLY_OURS.get(source, ())):
                    keys.pop(name, None)
                self.maxDiff = None
                self.assertEqual(keys, their_keys)
                self.assertEqual(set(tensors), set(their_tensors))
                for name, tensor in tensors.items():
                    self.assertEqual(tensor, their_tensors[name], name)

    @unittest.skipUnless(LLAMA_CPP, "DSV3_LLAMA_CPP is not set")
    def test_merges_of_tiktoken_are_those_of_llama_cpps_converter(self):
        source = self.scratch / "tiktoken"
        shutil.copytree(self.scratch / "tiny-kimi", source)
        (source / "tokenizer.json").unlink()
        random = numpy.random.default_rng(1)
        tokens = [bytes([byte]) for byte in b"ab\xc3\x28 \n"]
        while len(tokens) < 120:
            pair = b"".join(tokens[i] for i in random.integers(len(tokens), size=int(random.integers(2, 4))))
            if pair not in tokens:
                tokens.append(pair)
        lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
        (source / "tiktoken.model").write_text("".join(lines))
        path = self.scratch / "tiktoken.gguf"
        tools.run("dsv3-convert", "to-gguf", source, path, "--type", "f16", "--quiet")
        command = [sys.executable, "-c", TIKTOKEN, LLAMA_CPP, source / "tiktoken.model"]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        _, keys = read(path)
        self.assertEqual(keys["tokenizer.ggml.merges"][1], done.stdout.splitlines())

    def decode(self, source, *options):
        """What llama.cpp gives of the F32 file of a model: tokens and their logarithmic probabilities."""
        directory = pathlib.Path(tempfile.mkdtemp(dir=self.scratch))
        tools.run("dsv3-convert", "to-gguf", self.scratch / source, directory / "m.gguf", "--type", "f32", "--quiet", *options)
        first = min(directory.glob("*.gguf"))
        done = subprocess.run([sys.executable, "-c", DECODE, first], capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("DECODED ")]
        self.assertEqual(len(lines), 1, done.stderr[-2000:])
        tokens, logs = zip(*json.loads(lines[0].removeprefix("DECODED ")))
        self.assertTrue(numpy.isfinite(logs).all())
        return tokens, logs

    @unittest.skipUnless(HAS_XLLAMACPP, "xllamacpp is not installed")
    def test_llama_cpp_loads_and_decodes(self):
        whole = self.decode("tiny")
        self.assertEqual(self.decode("tiny", "--mtp", "keep"), whole)
        self.assertEqual(self.decode("tiny", "--max-file-size", "2M"), whole)
        self.assertEqual(self.decode("v32", "--mtp", "drop"), self.decode("v32"))
        for source in ("v2-lite", "moonlight", "glm5"):
            with self.subTest(source=source):
                self.decode(source)
        # llama.cpp rounds activations to multiply them with Q4_0.
        tokens, logs = self.decode("k2-int4")
        kept_tokens, kept_logs = self.decode("k2-int4", "--keep-4bit")
        self.assertEqual(kept_tokens, tokens)
        numpy.testing.assert_allclose(kept_logs, logs, atol=0.01)


if __name__ == "__main__":
    unittest.main()
