"""What the forward pass reads of a large model and how much memory it takes, as the kernel counts both."""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

import numpy

BIN = pathlib.Path(os.environ.get("DSV3_BIN", pathlib.Path(__file__).resolve().parents[2] / "build/release/bin"))
MIB = 1 << 20
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 1024, "hidden_size": 256,
    "intermediate_size": 704, "moe_intermediate_size": 352, "num_hidden_layers": 28, "num_attention_heads": 4,
    "num_key_value_heads": 4, "n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 6, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1, "q_lora_rank": None, "kv_lora_rank": 64,
    "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32, "num_nextn_predict_layers": 0,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True, "hidden_act": "silu",
    "tie_word_embeddings": False,
}
TOKENS = (7, 400, 1001)
EMBEDDING = "model.embed_tokens.weight"
# Runs the command in its arguments and prints what the kernel counted of it: in a process of its own, because peak
# memory begins with that of the process that starts another.
COUNT = """
import json, os, re, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
out = process.stdout.read()
os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
read = int(re.search(r"rchar: (\\d+)", open(f"/proc/{process.pid}/io").read())[1])
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps({"exit_code": status, "out": out, "read": read, "rss": usage.ru_maxrss * 1024}))
"""


def shapes():
    hidden, heads, latents = CONFIG["hidden_size"], CONFIG["num_attention_heads"], CONFIG["kv_lora_rank"]
    rope, nope, value = (CONFIG[name] for name in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"))
    result = {EMBEDDING: (CONFIG["vocab_size"], hidden), "model.norm.weight": (hidden,),
              "lm_head.weight": (CONFIG["vocab_size"], hidden)}

    def mlp(name, width):
        result[f"{name}.gate_proj.weight"] = result[f"{name}.up_proj.weight"] = (width, hidden)
        result[f"{name}.down_proj.weight"] = (hidden, width)

    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        result.update({
            f"{name}.input_layernorm.weight": (hidden,), f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.self_attn.q_proj.weight": (heads * (nope + rope), hidden),
            f"{name}.self_attn.kv_a_proj_with_mqa.weight": (latents + rope, hidden),
            f"{name}.self_attn.kv_a_layernorm.weight": (latents,),
            f"{name}.self_attn.kv_b_proj.weight": (heads * (nope + value), latents),
            f"{name}.self_attn.o_proj.weight": (hidden, heads * value),
        })
        if layer < CONFIG["first_k_dense_replace"]:
            mlp(f"{name}.mlp", CONFIG["intermediate_size"])
            continue
        result[f"{name}.mlp.gate.weight"] = (CONFIG["n_routed_experts"], hidden)
        result[f"{name}.mlp.gate.e_score_correction_bias"] = (CONFIG["n_routed_experts"],)
        for expert in range(CONFIG["n_routed_experts"]):
            mlp(f"{name}.mlp.experts.{expert}", CONFIG["moe_intermediate_size"])
        mlp(f"{name}.mlp.shared_experts", CONFIG["moe_intermediate_size"])
    return result


def num_bytes(shape):
    return 2 * int(numpy.prod(shape))


def bf16(values):
    return (values.astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes()


def write(directory):
    """BF16 zeros that take no disk, but for embeddings, norms and routers, so that tokens choose different experts."""
    header, end = {}, 0
    for name, shape in shapes().items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + num_bytes(shape)]}
        end += num_bytes(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = numpy.random.default_rng(5)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes().items():
            if "norm" not in name and "mlp.gate." not in name and name != EMBEDDING:
                continue
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(bf16(numpy.ones(shape) if "norm" in name else random.standard_normal(shape)))
        file.truncate(8 + len(text) + end)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return end


class ForwardReading(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.model = pathlib.Path(directory.name)
        cls.bytes = write(cls.model)

    def forward(self, *options):
        command = [BIN / "dsv3-verify", "forward", self.model, "--tokens", ",".join(map(str, TOKENS)), "--routing",
                   "--json", "--no-progress", *options]
        done = subprocess.run([sys.executable, "-c", COUNT, *map(str, command)], capture_output=True, text=True,
                              check=True)
        counted = json.loads(done.stdout)
        self.assertEqual(counted["exit_code"], 0)
        return json.loads(counted["out"]), counted

    def needed(self, report):
        """Bytes of the weights that the tokens met."""
        met = {layer["layer"]: {expert for token in layer["experts"] for expert in token}
               for layer in report["routing"]}
        total = 0
        for name, shape in shapes().items():
            words = name.split(".")
            if name == EMBEDDING:
                total += num_bytes(shape) // shape[0] * len(TOKENS)
            elif "experts" not in words or int(words[5]) in met[int(words[2])]:
                total += num_bytes(shape)
        return total

    def test_reads_only_what_the_tokens_meet(self):
        report, counted = self.forward()
        needed = self.needed(report)
        self.assertLess(needed, 0.3 * self.bytes)
        self.assertGreater(report["experts_read"], 27 * 6)
        self.assertEqual(report["bytes_read"], needed)
        self.assertLessEqual(counted["read"], 1.05 * needed)
        self.assertGreaterEqual(counted["read"], needed)

    def test_generated_tokens_read_weights_twice_at_most_where_memory_keeps_them(self):
        # Four tokens run after the first one, which the prompt's run gives. Weights that are read a
        # second time stay in memory; with little memory each token reads all of its weights.
        for options, reads in (((), 2), (("--memory", "1MiB"), 4)):
            with self.subTest(options=options):
                one, more = (self.forward("--generate", count, *options)[0] for count in (1, 5))
                fixed = self.needed({"routing": [{"layer": layer, "experts": []} for layer in range(28)]})
                fixed -= num_bytes((len(TOKENS) - 1, CONFIG["hidden_size"]))
                experts = 27 * 6 * 3 * num_bytes((CONFIG["moe_intermediate_size"], CONFIG["hidden_size"]))
                read = more["bytes_read"] - one["bytes_read"]
                self.assertLessEqual(read, reads * (fixed + experts))
                self.assertGreater(read, 0.99 * reads * (fixed + experts))

    def test_memory_does_not_grow_with_the_model(self):
        heads = CONFIG["num_attention_heads"] * (CONFIG["qk_nope_head_dim"] + CONFIG["qk_rope_head_dim"])
        values = CONFIG["hidden_size"] + heads + CONFIG["kv_lora_rank"] + CONFIG["qk_rope_head_dim"]
        for options in ((), ("--generate", 3), ("--attention", "absorbed")):
            with self.subTest(options=options):
                _, counted = self.forward(*options)
                self.assertLessEqual(counted["rss"], 300 * MIB + 64 * len(TOKENS) * values)


if __name__ == "__main__":
    unittest.main()
