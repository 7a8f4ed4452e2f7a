"""`dsv3-convert to-gguf` against the reader and the quantisers of gguf-py, a package of PyPI."""

import json
import pathlib
import shutil
import tempfile
import unittest

import numpy
import torch
from safetensors.torch import load_file

import gguf_files
import tools

try:
    import gguf
except ImportError:
    gguf = None

TYPES = ("f32", "f16", "bf16", "q8_0")


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


@unittest.skipIf(gguf is None, "gguf is not installed")
class ToGguf(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        for preset in ("tiny", "tiny-kimi", "v4", "k2-int4"):
            gguf_files.sample(cls.scratch / preset, preset)
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
                tensors, _ = gguf_files.read(gguf, self.convert(source, kind))
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


if __name__ == "__main__":
    unittest.main()
