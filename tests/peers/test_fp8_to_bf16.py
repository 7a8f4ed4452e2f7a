"""`dsv3-convert fp8-to-bf16` against transformers, torch and the Python safetensors library."""

import json
import pathlib
import shutil
import tempfile
import unittest

import torch
from safetensors.torch import load_file

import models
import tools


class Case(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.source = self.directory / "fp8"
        self.output = self.directory / "bf16"
        self.expected = self.directory / "expected"

    def check(self, fp8, bf16, config, *options):
        """Converts `fp8` and compares every output file with what torch and safetensors write."""
        tools.write_checkpoint(self.source, fp8, config)
        report = tools.convert(self.source, self.output, *options)
        expected_config = {k: v for k, v in config.items() if k != "quantization_config"}
        tools.write_checkpoint(self.expected, bf16, expected_config)

        names = sorted(p.name for p in self.expected.glob("*.safetensors"))
        self.assertEqual(names, sorted(p.name for p in self.output.glob("*.safetensors")))
        for name in names:
            got, wanted = (d / name for d in (self.output, self.expected))
            self.assertEqual(got.read_bytes(), wanted.read_bytes(), f"{name} differs")
        self.assertEqual(
            json.loads((self.output / tools.INDEX).read_text()),
            json.loads((self.expected / tools.INDEX).read_text()),
        )
        got_config = json.loads((self.output / "config.json").read_text())
        self.assertEqual(list(got_config.items()), list(expected_config.items()))
        return report

    def check_logits(self, vocabulary, unused=None):
        """transformers loads the output without a warning, and it computes the same logits."""
        got = models.logits(self.output, vocabulary, unused)
        wanted = models.logits(self.expected, vocabulary, unused)
        self.assertTrue(torch.isfinite(wanted).all())
        self.assertTrue(torch.equal(got, wanted), "the logits differ")


class TransformersModel(Case):
    def test_scales_beside_their_weights(self):
        config = models.config()
        shards = models.build(self.directory / "model", config, seed=1)
        self.assertGreater(len(shards), 2)
        fp8, bf16 = models.quantise(shards)
        self.check(fp8, bf16, models.fp8_config(self.directory / "model"))
        self.check_logits(config.vocab_size)

    def test_scales_in_the_next_shard(self):
        config = models.config(q_lora_rank=None)
        shards = models.build(self.directory / "model", config, seed=2)
        names = list(shards)

        def scale_shard(name, shard):
            moved = "o_proj" in name or "experts.3." in name
            return names[(names.index(shard) + 1) % len(names)] if moved else shard

        fp8, bf16 = models.quantise(shards, scale_shard)
        self.check(fp8, bf16, models.fp8_config(self.directory / "model"))
        self.check_logits(config.vocab_size)

    def test_a_shard_of_scales_only_has_no_output(self):
        config = models.config()
        shards = models.build(self.directory / "model", config, seed=3)
        fp8, bf16 = models.quantise(shards, lambda name, shard: "scales.safetensors")
        self.check(fp8, bf16, models.fp8_config(self.directory / "model"))
        self.assertFalse((self.output / "scales.safetensors").exists())
        self.check_logits(config.vocab_size)

    def test_61_layers_with_the_mtp_layer(self):
        # transformers knows the MTP layer of the published model by its number, 61.
        config = models.config(
            num_hidden_layers=61, hidden_size=64, intermediate_size=96, moe_intermediate_size=32,
            first_k_dense_replace=3, num_nextn_predict_layers=1)
        shards = models.build(self.directory / "model", config, seed=4, max_shard_size="4MB")
        last = sorted(shards)[-1]
        tensors = {name: t for shard in shards.values() for name, t in shard.items()}
        for name, tensor in tensors.items():
            if name.startswith("model.layers.60."):
                shards[last][name.replace("layers.60.", "layers.61.")] = tensor.clone()
        prefix = "model.layers.61."
        hidden = config.hidden_size
        for name in ("enorm", "hnorm", "shared_head.norm"):
            shards[last][f"{prefix}{name}.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
        shards[last][f"{prefix}eh_proj.weight"] = torch.randn(hidden, 2 * hidden).bfloat16()
        for name, source in (("embed_tokens", "model.embed_tokens"), ("shared_head.head", "lm_head")):
            shards[last][f"{prefix}{name}.weight"] = tensors[f"{source}.weight"].clone()
        fp8, bf16 = models.quantise(shards)
        self.check(fp8, bf16, models.fp8_config(self.directory / "model"))
        self.check_logits(config.vocab_size, unused="model.layers.61.")

    def test_side_files_are_copied(self):
        shards = models.build(self.directory / "model", models.config(), seed=5)
        fp8, bf16 = models.quantise(shards)
        sides = {
            "tokenizer.json": b'{"version": "1.0"}\n',
            "generation_config.json": b'{"temperature": 0.6}',
            "modeling_custom.py": b"# custom code\n",
            "README.md": b"# card\n",
        }
        self.source.mkdir()
        for name, content in sides.items():
            (self.source / name).write_bytes(content)
        self.check(fp8, bf16, models.fp8_config(self.directory / "model"))
        for name, content in sides.items():
            self.assertEqual((self.output / name).read_bytes(), content, name)

    def test_tensors_that_the_config_does_not_predict_are_copied(self):
        shards = models.build(self.directory / "model", models.config(), seed=6)
        first = shards[min(shards)]
        first["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.rand(32)
        first["model.position_ids"] = torch.arange(-5, 250, dtype=torch.int64)
        first["model.empty"] = torch.zeros(0, 4, dtype=torch.int32)
        first["model.scalar"] = torch.tensor(1.5, dtype=torch.float16)
        first["model.flags"] = torch.tensor([True, False, True])
        fp8, bf16 = models.quantise(shards)
        self.check(fp8, bf16, models.fp8_config(self.directory / "model"))

    def test_every_code_with_nan_is_a_warning_that_names_the_tensor(self):
        shards = models.build(self.directory / "model", models.config(), seed=7)
        fp8, _ = models.quantise(shards)
        name = "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"
        shard = next(s for s, tensors in fp8.items() if name in tensors)
        codes = torch.arange(576 * 256, dtype=torch.int32).remainder(256).to(torch.uint8)
        fp8[shard][name] = codes.view(576, 256).view(tools.FP8)
        tools.write_checkpoint(self.source, fp8, models.fp8_config(self.directory / "model"))
        done = tools.run("dsv3-convert", "fp8-to-bf16", self.source, self.output)
        warnings = [line for line in done.stderr.splitlines() if "NaN" in line]
        self.assertTrue(any(name in line for line in warnings), done.stderr)
        report = tools.convert(self.source, self.directory / "again")
        expected = int(((codes & 0x7F) == 0x7F).sum())
        self.assertEqual(report["nan_codes"], [{"tensor": name, "count": expected}])

        scales = {k: t for tensors in fp8.values() for k, t in tensors.items()}
        for file, tensors in fp8.items():
            output = load_file(self.output / file)
            for tensor_name, tensor in output.items():
                source = tensors[tensor_name]
                if source.dtype != tools.FP8:
                    self.assertTrue(torch.equal(tensor, source), tensor_name)
                    continue
                wanted = tools.dequantize(source, scales[f"{tensor_name}_scale_inv"])
                self.assertTrue(tools.same_bits(tensor, wanted), tensor_name)
        got = load_file(self.output / shard)[name].view(torch.int16).view(-1)
        quiet = {0x7F: 0x7FC0, 0xFF: 0xFFC0 - 0x10000}
        for code, bits in quiet.items():
            self.assertTrue((got[codes == code] == bits).all(), f"code {code:#x}")

    def test_one_file_without_an_index(self):
        config = models.config(num_hidden_layers=2)
        shards = models.build(self.directory / "model", config, seed=8, max_shard_size="1GB")
        self.assertEqual(list(shards), ["model.safetensors"])
        fp8, bf16 = models.quantise(shards)
        tools.write_checkpoint(self.source, fp8, models.fp8_config(self.directory / "model"))
        (self.source / tools.INDEX).unlink()
        tools.convert(self.source, self.output)
        tools.save(bf16["model.safetensors"], self.expected / "model.safetensors")
        self.assertEqual(
            (self.output / "model.safetensors").read_bytes(),
            (self.expected / "model.safetensors").read_bytes(),
        )
        shutil.copy(self.output / "config.json", self.expected)
        self.check_logits(config.vocab_size)


class Sample(Case):
    """The checkpoints that `dsv3-convert sample` makes, through torch."""

    def test_tiny_with_several_seeds(self):
        for seed in (0, 1, 2026):
            with self.subTest(seed=seed):
                source, output = self.directory / f"s{seed}", self.directory / f"o{seed}"
                tools.run("dsv3-convert", "sample", source, "--preset", "tiny", "--seed", seed)
                tools.convert(source, output)
                self.compare(source, output)

    def compare(self, source, output):
        config = json.loads((source / "config.json").read_text())
        block = config["quantization_config"]["weight_block_size"]
        shards = {p.name: load_file(p) for p in sorted(source.glob("*.safetensors"))}
        every = {name: t for tensors in shards.values() for name, t in tensors.items()}
        for shard, tensors in shards.items():
            wanted = {}
            for name, tensor in tensors.items():
                if name.endswith("_scale_inv"):
                    continue
                if tensor.dtype == tools.FP8:
                    tensor = tools.dequantize(tensor, every[f"{name}_scale_inv"], block)
                wanted[name] = tensor
            if wanted:
                tools.save(wanted, self.expected / shard)
                same = (output / shard).read_bytes() == (self.expected / shard).read_bytes()
                self.assertTrue(same, f"{shard} differs")
            else:
                self.assertFalse((output / shard).exists(), f"{shard} has no weights")


if __name__ == "__main__":
    unittest.main()
