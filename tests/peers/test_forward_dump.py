"""Module outputs against those that forward hooks of transformers see, by the lines of docs/forward.md."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy
from safetensors.torch import load_file, save_file

import tools

HERE = pathlib.Path(__file__).parent
# Of each version some kinds in which it is right.
KINDS = {"4": ("moonlight", "kimi", "v2-lite"), "5": ("v3-yarn", "v3-biases", "v3-tied", "moonlight", "v2", "v32", "glm")}
# Runs the lines in one directory after another: loading torch and transformers takes seconds.
IN_EACH = """
import os, sys
for place in sys.argv[2:]:
    os.chdir(place)
    exec(compile(sys.argv[1], "docs/forward.md", "exec"), {})
"""
# What hooks see beside the modules with weights.
UNKNOWN = re.compile(r"model\.rotary_emb|.*\.act_fn|model\.layers\.\d+\.self_attn\.indexer|.*\.mlp\.experts\.\d+(\..*)?")


def lines_of_the_guide():
    blocks = re.findall(r"```python\n(.*?)```", (HERE.parents[1] / "docs" / "forward.md").read_text(), re.S)
    (lines,) = [block for block in blocks if "register_forward_hook" in block]
    return lines


class ForwardDump(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.root = pathlib.Path(directory.name)
        cls.sound = {}
        for version, kinds in KINDS.items():
            cls.python(version, HERE / "forward_models.py", cls.root / version, *kinds)
            directories = [cls.root / version / kind for kind in kinds]
            cls.sound[version] = list(zip(directories, cls.dump(version, directories)))

    @staticmethod
    def python(version, *arguments):
        library = str(pathlib.Path(sys.prefix) / "transformers-5") if version == "5" else ""
        ran = subprocess.run([sys.executable, *arguments], env=dict(os.environ, PYTHONPATH=library),
                             capture_output=True, text=True)
        if ran.returncode != 0:
            raise AssertionError(ran.stderr)

    @classmethod
    def dump(cls, version, directories):
        """What the guide's lines write for each model, and its tokens."""
        places = [pathlib.Path(tempfile.mkdtemp(dir=cls.root)) for _ in directories]
        for directory, place in zip(directories, places):
            (place / "DeepSeek-V3").symlink_to(directory)
            numpy.save(place / "ids.npy", numpy.load(directory / "tokens.npy"))
        cls.python(version, "-c", IN_EACH, lines_of_the_guide(), *places)
        return [(place / "dump.safetensors", place / "ids.npy") for place in places]

    def against(self, directory, dump, tokens, *options, exit_code=0):
        report = tools.run("dsv3-verify", "forward", directory, "--tokens-file", tokens, "--against", dump, "--json",
                           *options, exit_code=exit_code)
        return json.loads(report.stdout)["against"]

    def test_a_sound_model_agrees_in_every_module(self):
        for version, models in self.sound.items():
            for directory, (dump, tokens) in models:
                with self.subTest(version=version, kind=directory.name):
                    report = self.against(directory, dump, tokens)
                    self.assertEqual((report["dtype"], report["differing"]), ("F32", 0))
                    self.assertGreater(report["compared"], 40)
                    self.assertEqual([name for name in report["unknown"] if not UNKNOWN.fullmatch(name)], [])

    def test_a_trace_has_what_hooks_see(self):
        for version, models in self.sound.items():
            for directory, (dump, tokens) in models:
                with self.subTest(version=version, kind=directory.name):
                    trace = dump.with_name("trace.safetensors")
                    tools.run("dsv3-verify", "forward", directory, "--tokens-file", tokens, "--trace", trace, "--quiet")
                    seen, written = load_file(dump), load_file(trace)
                    # Version 4 has no module of all experts, and its router gives choices.
                    missing = [name for name in written if name not in seen]
                    self.assertEqual([name for name in missing if version == "5" or
                                      not name.endswith((".mlp.experts", ".mlp.gate"))], [])
                    for name in written.keys() & seen.keys():
                        expected, got = seen[name].numpy(), written[name].numpy()
                        self.assertEqual(got.dtype, numpy.float32)
                        self.assertEqual(got.shape, (80, expected.shape[-1]))
                        largest = abs(expected).max()
                        self.assertLessEqual(abs(got - expected.reshape(got.shape)).max(), 1e-5 * largest, name)

    def changed(self, version, kind, change=None, **config):
        """A copy of a model, as torch is to load it."""
        directory, copy = self.root / version / kind, pathlib.Path(tempfile.mkdtemp(dir=self.root))
        shutil.copytree(directory, copy, dirs_exist_ok=True)
        fields = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**fields, **config}))
        if change:
            tensors = load_file(copy / "model.safetensors")
            change(tensors)
            save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        return copy

    def test_the_module_with_a_fault_is_named(self):
        def scaled(name):
            def change(tensors):
                tensors[name] = tensors[name] * 1.01
            return change

        def swapped(name):
            def change(tensors):
                tensors[name] = tensors[name].roll(40, 0).contiguous()
            return change

        def dropped(name):
            def change(tensors):
                tensors[name] = tensors[name] * 0
            return change

        def an_expert(tensors):
            name = min(name for name in tensors if re.fullmatch(r"model\.layers\.2\.mlp\.experts\..*down_proj.*", name))
            tensors[name] = tensors[name] * 1.5

        first = "model.layers.0."
        faults = (
            (scaled("model.embed_tokens.weight"), {}, "model.embed_tokens"),
            (scaled("model.layers.1.self_attn.kv_a_layernorm.weight"), {}, "model.layers.1.self_attn.kv_a_layernorm"),
            (swapped("model.layers.1.self_attn.q_b_proj.weight"), {}, "model.layers.1.self_attn.q_b_proj"),
            (dropped("model.layers.2.self_attn.o_proj.bias"), {}, "model.layers.2.self_attn.o_proj"),
            (dropped("model.layers.1.mlp.gate.e_score_correction_bias"), {}, "model.layers.1.mlp.experts"),
            (an_expert, {}, "model.layers.2.mlp.experts"),
            (scaled("lm_head.weight"), {}, "lm_head"),
            (None, {"rms_norm_eps": 1e-3}, first + "input_layernorm"),
            (None, {"rope_interleave": False}, first + "self_attn.o_proj"),
            (None, {"routed_scaling_factor": 2.4}, "model.layers.1.mlp.experts"),
        )
        sound = self.root / "5" / "v3-biases"
        dumps = self.dump("5", [self.changed("5", "v3-biases", change, **config) for change, config, _ in faults])
        for (change, config, module), (dump, tokens) in zip(faults, dumps):
            with self.subTest(module, config=config):
                report = self.against(sound, dump, tokens, exit_code=1)
                self.assertEqual(report["first_difference"]["module"], module)
                if change:
                    # The run goes on with the dump's outputs.
                    self.assertEqual(report["differing"], 1)

    def test_a_model_in_bf16(self):
        def change(tensors):
            tensors["model.layers.1.self_attn.kv_a_layernorm.weight"] *= 1.05

        sound = self.root / "5" / "moonlight"
        copies = [self.changed("5", "moonlight", each, dtype="bfloat16") for each in (None, change)]
        (same, tokens), (other, _) = self.dump("5", copies)
        for activations in ("bf16", "fp32"):
            report = self.against(sound, same, tokens, "--activations", activations)
            self.assertEqual((report["dtype"], report["differing"]), ("BF16", 0))
        report = self.against(sound, other, tokens, exit_code=1)
        self.assertEqual(report["first_difference"]["module"], "model.layers.1.self_attn.kv_a_layernorm")


if __name__ == "__main__":
    unittest.main()
