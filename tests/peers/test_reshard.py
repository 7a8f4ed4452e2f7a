"""`dsv3-reshard` against torch's slices, the form of DeepSeek's demo, and a model that ranks compute together."""

import hashlib
import json
import pathlib
import shutil
import tempfile
import unittest

import torch
from safetensors.torch import load_file

import deepseek_ranks
import parallel_forward
import reshard_models
import tools

LAYOUT = "layout.json"


def reshard(source, target, *options, exit_code=0):
    shutil.rmtree(target, ignore_errors=True)
    return tools.run("dsv3-reshard", *options, source, target, exit_code=exit_code)


def rank_tensors(directory):
    """The tensors of each rank, from the files that layout.json names for it."""
    layout = json.loads((directory / LAYOUT).read_text())
    ranks = []
    for number, rank in enumerate(layout["ranks"]):
        if rank["rank"] != number:
            raise AssertionError(f"rank {rank['rank']} stands in place {number}")
        tensors = {}
        for name in rank["files"]:
            more = load_file(directory / name)
            if tensors.keys() & more.keys():
                raise AssertionError(f"rank {number} loads {tensors.keys() & more.keys()} twice")
            tensors.update(more)
        ranks.append(tensors)
    return ranks


def digests(directory, left_out=()):
    """Name → SHA-256 of every file."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in left_out
    }


def same_tensor(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
    )


class Case(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dsv3-peers-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.source = self.directory / "source"
        self.output = self.directory / "ranks"
        torch.manual_seed(1)

    def write(self, seed=1, fp8=True, change=lambda tensors: None, **fields):
        """A checkpoint of `fields`; sets source, config and tensors."""
        shutil.rmtree(self.source, ignore_errors=True)
        self.config = reshard_models.config(**fields)
        self.tensors = reshard_models.write(self.source, self.config, seed, fp8, change)

    def check_merge(self):
        """Merging gives the files of the source, byte for byte."""
        merged = self.directory / "merged"
        shutil.rmtree(merged, ignore_errors=True)
        tools.run("dsv3-reshard", "merge", self.output, merged)
        ours = ("checkpoint.manifest.json",)
        self.assertEqual(digests(merged, ours), digests(self.source, ours))
        shutil.rmtree(merged)


class Deepseek(Case):
    def check(self, *sizes):
        for ranks in sizes:
            with self.subTest(f"mp {ranks}"):
                reshard(self.source, self.output, "--tp", ranks, "--format", "deepseek")
                expected = self.directory / "expected"
                deepseek_ranks.make(self.source, expected, ranks)
                got = digests(self.output)
                for name, digest in digests(expected).items():
                    self.assertEqual(got.get(name), digest, name)
                weights = [name for name in got if name.endswith(".safetensors")]
                self.assertEqual(len(weights), ranks)
                shutil.rmtree(expected)

    def test_fp8_has_the_bytes_of_the_demo(self):
        self.write()
        self.check(1, 2, 4, 8)

    def test_bf16_has_the_bytes_of_the_demo(self):
        self.write(fp8=False, num_hidden_layers=1, vocab_size=1000)
        self.check(1, 2, 4, 8)

    def test_the_indexer_is_on_every_rank(self):
        self.write(change=reshard_models.add_indexer, model_type="deepseek_v32",
                   architectures=["DeepseekV32ForCausalLM"], num_hidden_layers=1, index_n_heads=4,
                   index_head_dim=128, index_topk=64)
        self.check(1, 4)

    def test_no_low_rank_queries(self):
        self.write(q_lora_rank=None, num_hidden_layers=1)
        self.check(2, 8)

    def test_61_layers_and_the_mtp_layer_behind_them(self):
        tools.run("dsv3-convert", "sample", self.source, "--preset", "tiny-61", "--seed", 5)
        self.assertIn("model.layers.61.", (self.source / tools.INDEX).read_text())
        self.check(1, 2, 4, 8)

    def test_a_cut_through_a_block_is_refused(self):
        # 192 columns with 2 scales: half of each is not half of the values.
        self.write(num_hidden_layers=1, intermediate_size=192)
        done = reshard(self.source, self.output, "--tp", 2, "--format", "deepseek", exit_code=2)
        self.assertIn("down_proj.weight", done.stderr)
        self.assertIn("column 96", done.stderr)
        self.assertFalse(self.output.exists())
        done = reshard(self.source, self.output, "--tp", 2, exit_code=2)
        self.assertIn("--on-misaligned", done.stderr)
        self.assertFalse(self.output.exists())


class HfRank(Case):
    def check(self, deployment, *options):
        reshard(self.source, self.output, "--tp", deployment.tp, "--ep", deployment.ep, *options)
        ranks = rank_tensors(self.output)
        self.assertEqual(len(ranks), deployment.size)
        for rank, got in enumerate(ranks):
            wanted = deployment.local(self.tensors, rank)
            self.assertEqual(sorted(got), sorted(wanted), f"rank {rank}")
            for name, tensor in wanted.items():
                self.assertTrue(same_tensor(got[name], tensor), f"rank {rank}: {name}")

    def deployment(self, tp, ep, **options):
        return reshard_models.Deployment(self.config.to_dict(), tp, ep, **options)

    def test_every_rank_has_the_slices_of_torch(self):
        self.write(vocab_size=1000)
        for tp, ep in ((1, 4), (2, 1), (2, 8), (4, 4), (4, 8), (8, 1), (8, 2)):
            with self.subTest(f"tp {tp}, ep {ep}"):
                self.check(self.deployment(tp, ep))
                self.check_merge()

    def test_bf16_and_several_data_parallel_ranks(self):
        self.write(fp8=False, num_hidden_layers=1)
        self.check(self.deployment(2, 2, dp=4), "--dp", 4)
        self.check_merge()

    def test_components_hold_the_same_slices_once(self):
        self.write(num_hidden_layers=1, first_k_dense_replace=0)
        deployment = self.deployment(2, 8)
        self.check(deployment, "--grouping", "component")
        sizes = {path.name: path.stat().st_size for path in self.output.glob("*.safetensors")}
        whole = sum(path.stat().st_size for path in self.source.glob("*.safetensors"))
        self.assertLess(sum(sizes.values()), 1.05 * whole)
        self.check_merge()

    def test_redundant_experts_are_the_first_ones_again(self):
        self.write(num_hidden_layers=1, first_k_dense_replace=0)

        def held(rank):
            return {physical % 8 for physical in range(rank * 3, rank * 3 + 3)}

        self.check(self.deployment(2, 4, experts_of=held), "--redundant-experts", 4)
        self.check_merge()

    def test_round_robin(self):
        self.write(num_hidden_layers=1, first_k_dense_replace=0)
        self.check(self.deployment(2, 4, experts_of=lambda rank: (rank, rank + 4)),
                   "--ep-placement", "round-robin")
        self.check_merge()


class Forward(Case):
    def check(self, tp, ep, *options):
        """What the ranks compute together is what the whole model computes."""
        block = (tools.BLOCK, tools.BLOCK)
        whole = parallel_forward.exact(self.tensors, block)
        vocabulary = self.config.vocab_size
        expected = parallel_forward.logits(parallel_forward.build(self.config, whole), vocabulary)
        reshard(self.source, self.output, "--tp", tp, "--ep", ep, *options)
        quantization = json.loads((self.output / "config.json").read_text()).get("quantization_config")
        if quantization:
            block = tuple(quantization["weight_block_size"])
        ranks = [parallel_forward.exact(rank, block) for rank in rank_tensors(self.output)]
        shared = parallel_forward.share_out(
            parallel_forward.build(self.config, whole), ranks, tp)
        got = parallel_forward.logits(shared, vocabulary)
        self.assertTrue(torch.isfinite(expected).all())
        return ((got - expected).norm() / expected.norm()).item(), block

    def test_aligned_blocks(self):
        self.write(vocab_size=1000)
        for tp, ep in ((2, 4), (4, 2), (4, 8)):
            with self.subTest(f"tp {tp}, ep {ep}"):
                error, block = self.check(tp, ep)
                self.assertLess(error, 1e-7)
                self.assertEqual(block, (128, 128))

    # Heads of 192 + 64 rows and MLPs of 320 columns: half of them ends inside a block.
    MISALIGNED = {"num_attention_heads": 2, "num_key_value_heads": 2, "qk_nope_head_dim": 32,
                  "v_head_dim": 64, "intermediate_size": 320, "moe_intermediate_size": 320}

    def test_smaller_blocks_hold_the_same_values(self):
        self.write(**self.MISALIGNED)
        error, block = self.check(2, 1, "--on-misaligned", "subblock")
        self.assertLess(error, 1e-7)
        self.assertLess(block[0], 128)
        self.check_merge()

    def test_replicated_modules_hold_the_same_values(self):
        self.write(**self.MISALIGNED)
        error, block = self.check(2, 1, "--on-misaligned", "replicate-module")
        self.assertLess(error, 1e-7)
        self.assertEqual(block, (128, 128))
        self.check_merge()

    def test_bf16_of_misaligned_modules_is_nearly_the_same(self):
        self.write(**self.MISALIGNED)
        error, _ = self.check(2, 1, "--on-misaligned", "bf16")
        self.assertGreater(error, 0)
        self.assertLess(error, 0.02)


class Keys(Case):
    """`sharded_state` of an engine that has joined some projections and named its buffers its own way."""

    def engine(self, tensors, rank, tp):
        """What the engine's state dict holds on a rank, and the sources of its keys."""
        local = reshard_models.Deployment(self.config.to_dict(), tp, 1).local(tensors, rank)
        state, sources = {}, {}
        joined = {
            "fused_qkv_a_proj": ("q_a_proj", "kv_a_proj_with_mqa"),
            "gate_up_proj": ("gate_proj", "up_proj"),
        }
        first = {parts[0]: (name, parts) for name, parts in joined.items()}
        others = {part for parts in joined.values() for part in parts[1:]}
        for name, tensor in local.items():
            module, part = name.rsplit(".", 1)
            parent, leaf = module.rsplit(".", 1) if "." in module else ("", module)
            if leaf in others:
                continue
            if leaf in first:
                key, parts = first[leaf]
                names = [f"{parent}.{one}.{part}" for one in parts]
                state[f"{parent}.{key}.{part}"] = torch.cat([local[one] for one in names])
                sources[f"{parent}.{key}.{part}"] = names
            else:
                state[name] = tensor
        return state, sources

    def dump(self, state, sources, path):
        names = {torch.float8_e4m3fn: "F8_E4M3", torch.bfloat16: "BF16", torch.float32: "F32"}
        keys = {}
        for key, tensor in state.items():
            keys[key] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape)}
            if key in sources:
                keys[key]["sources"] = sources[key]
        path.write_text(json.dumps(keys))

    def test_every_rank_has_the_state_of_the_engine(self):
        self.write(num_hidden_layers=2)
        keys = self.directory / "keys.json"
        for tp in (1, 2, 4):
            with self.subTest(f"tp {tp}"):
                states = [self.engine(self.tensors, rank, tp) for rank in range(tp)]
                self.dump(*states[0], keys)
                reshard(self.source, self.output, "--tp", tp, "--format", f"keys:{keys}")
                for rank, got in enumerate(rank_tensors(self.output)):
                    wanted, _ = states[rank]
                    self.assertEqual(sorted(got), sorted(wanted))
                    for name, tensor in wanted.items():
                        self.assertTrue(same_tensor(got[name], tensor), f"rank {rank}: {name}")
                self.check_merge()

    def test_an_unknown_key_is_refused(self):
        self.write(num_hidden_layers=1)
        keys = self.directory / "keys.json"
        state, sources = self.engine(self.tensors, 0, 2)
        state["model.layers.0.self_attn.mla_attn._k_scale"] = torch.zeros(1)
        self.dump(state, sources, keys)
        done = reshard(self.source, self.output, "--tp", 2, "--format", f"keys:{keys}", exit_code=3)
        self.assertIn("_k_scale", done.stderr)


if __name__ == "__main__":
    unittest.main()
