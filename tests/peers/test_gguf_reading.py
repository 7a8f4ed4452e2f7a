"""`dsv3-inspect`, `dsv3-verify compare` and `numeric` on GGUF files that gguf-py writes and reads.

gguf-py quantises the values of a small model, in the types that are decoded, and writes them, also in splits. What the
tools say of them is held against what its own reader and dequantisers give.
"""

import json
import pathlib
import shutil
import tempfile
import unittest

import numpy
from safetensors.torch import load_file

import tools

try:
    import gguf
except ImportError:
    gguf = None

ALONE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
OF_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
}


@unittest.skipIf(gguf is None, "gguf is not installed")
class FromGguf(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        tools.run("dsv3-convert", "sample", cls.scratch / "fp8", "--preset", "tiny", "--quiet")
        cls.model = cls.scratch / "bf16"
        tools.run("dsv3-convert", "fp8-to-bf16", cls.scratch / "fp8", cls.model, "--quiet")
        cls.config = json.loads((cls.model / "config.json").read_text())
        held = {}
        for file in sorted(cls.model.glob("*.safetensors")):
            held.update(load_file(file))
        last = f"model.layers.{cls.config['num_hidden_layers']}."
        cls.held = {name: tensor.float().numpy() for name, tensor in held.items() if not name.startswith(last)}

    def parts(self):
        """The file's tensors: name, values, and which of the model's tensors they are, with a way to their values."""
        config, held = self.config, self.held
        heads, nope, v = config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]
        made = {short: held[name] for name, short in ALONE.items()}
        for layer in range(config["num_hidden_layers"]):
            of, to = f"model.layers.{layer}.", f"blk.{layer}."
            made.update({to + short: held[of + name] for name, short in OF_LAYER.items() if of + name in held})
            kv_b = held[of + "self_attn.kv_b_proj.weight"].reshape(heads, nope + v, -1)
            made[to + "attn_k_b.weight"] = numpy.ascontiguousarray(kv_b[:, :nope].transpose(0, 2, 1))
            made[to + "attn_v_b.weight"] = numpy.ascontiguousarray(kv_b[:, nope:])
            for part in ("gate", "up", "down"):
                name = of + "mlp.experts.{}." + part + "_proj.weight"
                experts = range(config["n_routed_experts"])
                if name.format(0) in held:
                    made[f"{to}ffn_{part}_exps.weight"] = numpy.stack([held[name.format(e)] for e in experts])
        return made

    def write(self, path, kind, **options):
        """Writes the model with gguf-py; matrices in `kind` where blocks fill their rows, else in F16."""
        writer = gguf.GGUFWriter(path, "deepseek2", **options)
        writer.add_block_count(self.config["num_hidden_layers"])
        writer.add_expert_count(self.config["n_routed_experts"])
        writer.add_expert_used_count(self.config["num_experts_per_tok"])
        writer.add_token_list(["a", "b", "c", "d"])
        for name, values in self.parts().items():
            wanted = kind
            if values.ndim < 2:
                wanted = gguf.GGMLQuantizationType.F32
            elif values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
                wanted = gguf.GGMLQuantizationType.F16
            writer.add_tensor(name, gguf.quants.quantize(values, wanted), raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def values(self, paths):
        """The values of the model's tensors by their Hugging Face names, as gguf-py reads them."""
        stored = {}
        for path in paths:
            for tensor in gguf.GGUFReader(path).tensors:
                shape = tuple(int(size) for size in reversed(tensor.shape))
                stored[tensor.name] = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        values = {name: stored[short] for name, short in ALONE.items()}
        for layer in range(self.config["num_hidden_layers"]):
            of, to = f"model.layers.{layer}.", f"blk.{layer}."
            values.update({of + name: stored[to + short] for name, short in OF_LAYER.items() if to + short in stored})
            keys = stored[to + "attn_k_b.weight"].transpose(0, 2, 1)
            both = numpy.concatenate([keys, stored[to + "attn_v_b.weight"]], axis=1)
            values[of + "self_attn.kv_b_proj.weight"] = both.reshape(-1, both.shape[-1])
            for part in ("gate", "up", "down"):
                for expert, matrix in enumerate(stored.get(f"{to}ffn_{part}_exps.weight", ())):
                    values[f"{of}mlp.experts.{expert}.{part}_proj.weight"] = matrix
        return values

    def check(self, named, paths):
        values = self.values(paths)
        self.assertEqual(set(values), set(self.held))
        checked = json.loads(tools.run("dsv3-verify", "numeric", named, "--json").stdout)
        self.assertEqual({each["name"] for each in checked["tensors"]}, set(values))
        for each in checked["tensors"]:
            expected = values[each["name"]].astype(numpy.float64)
            with self.subTest(name=each["name"]):
                self.assertEqual(tuple(each["shape"]), expected.shape)
                self.assertEqual(each["absmax"], numpy.abs(expected).max())
                self.assertLess(abs(each["rms"] - numpy.sqrt(numpy.mean(expected**2))), 1e-5 * each["rms"])
        return values

    def compare(self, named, values, exit_code):
        done = tools.run("dsv3-verify", "compare", self.model, named, "--json", exit_code=exit_code)
        for each in json.loads(done.stdout)["tensors"]:
            if each["b"] is None:
                continue
            a = self.held[each["name"]].astype(numpy.float64)
            b = values[each["name"]].astype(numpy.float64)
            statistics = each["statistics"]
            with self.subTest(name=each["name"]):
                self.assertEqual(statistics["differing"], int((a != b).sum()))
                self.assertEqual(statistics["max_abs"], numpy.abs(a - b).max())
                rmse = numpy.sqrt(numpy.mean((a - b) ** 2))
                self.assertLessEqual(abs(statistics["rmse"] - rmse), 1e-9 * max(rmse, 1e-30))

    def test_values_of_every_type_are_gguf_pys(self):
        for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "MXFP4"):
            path = self.scratch / f"{kind}.gguf"
            self.write(path, gguf.GGMLQuantizationType[kind])
            values = self.check(path, [path])
            self.compare(path, values, 0 if kind in ("F32", "BF16") else 1)

    def test_splits_are_read_by_the_name_of_any(self):
        self.write(self.scratch / "split.gguf", gguf.GGMLQuantizationType.Q8_0, split_max_tensors=30)
        paths = sorted(self.scratch.glob("split-*.gguf"))
        self.assertGreater(len(paths), 2)
        for named in (paths[0], paths[-1]):
            self.check(named, paths)
        shown = json.loads(tools.run("dsv3-inspect", paths[1], "--json").stdout)
        self.assertEqual(shown["files"], len(paths))
        self.assertEqual(shown["tensors"], len(self.parts()))
        paths[1].unlink()
        self.assertIn(paths[1].name, tools.run("dsv3-verify", "numeric", paths[0], exit_code=3).stderr)

    def test_inspect_shows_what_gguf_py_reads(self):
        path = self.scratch / "inspected.gguf"
        self.write(path, gguf.GGMLQuantizationType.Q4_0)
        reader = gguf.GGUFReader(path)
        shown = json.loads(tools.run("dsv3-inspect", path, "--json").stdout)
        keys = {each["key"]: each for each in shown["keys"]}
        fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        self.assertEqual(set(keys), set(fields))
        for name, field in fields.items():
            content = field.contents()
            if isinstance(content, list):
                self.assertEqual((keys[name]["count"], keys[name]["first"]), (len(content), content[:3]))
            else:
                self.assertEqual(keys[name]["value"], content)
        listed = json.loads(tools.run("dsv3-inspect", path, "--list", "--json").stdout)["tensors"]
        expected = [
            (each.name, each.tensor_type.name, [int(size) for size in reversed(each.shape)], each.data_offset, each.n_bytes)
            for each in reader.tensors
        ]
        self.assertEqual([(t["name"], t["dtype"], t["shape"], t["offset"], t["bytes"]) for t in listed], expected)
        self.assertEqual(shown["parameters"], sum(int(each.n_elements) for each in reader.tensors))


if __name__ == "__main__":
    unittest.main()
