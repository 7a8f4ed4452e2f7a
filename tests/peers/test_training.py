"""`dsv3-convert train-to-infer` on checkpoints that torch itself wrote, against the tensors that were saved."""

import argparse
import json
import os
import pickle
import shutil
import unittest

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import tools
import training_saves


def save_rank(rank, ranks, tensors, directory, port, safetensors=False):
    """One of several gloo ranks, each of which holds a slice of every tensor."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    state = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        # Uneven slices and empty ones occur: 3 rows over 4 ranks.
        dim = number % tensor.dim() if tensor.dim() else 0
        state[name] = distribute_tensor(tensor, mesh, [Shard(dim)])
    if safetensors:
        dcp.save(state, storage_writer=dcp.HuggingFaceStorageWriter(str(directory), save_distributed=True))
    else:
        dcp.save(state, checkpoint_id=str(directory))
    dist.destroy_process_group()


class Runs:
    """What a pickle must not do."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Training(tools.SmallModel):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tensors = training_saves.load(cls.source)
        cls.config = training_saves.config_of(cls.source)

    def setUp(self):
        self.input = self.scratch / "in"
        self.output = self.scratch / "out"
        for directory in (self.input, self.output):
            shutil.rmtree(directory, ignore_errors=True)
        training_saves.copy_config(self.source, self.input)

    def convert(self, *options, source=None, exit_code=0):
        shutil.rmtree(self.output, ignore_errors=True)
        return tools.run(
            "dsv3-convert", "train-to-infer", *options, "--json", source or self.input,
            self.output, exit_code=exit_code,
        )

    def expect_model(self, *options, source=None, expected=None):
        report = json.loads(self.convert(*options, source=source).stdout)
        self.expect_tensors(self.tensors if expected is None else expected)
        config = training_saves.config_of(self.output)
        self.assertEqual(config["torch_dtype"], "bfloat16")
        self.assertNotIn("quantization_config", config)
        return report

    def expect_tensors(self, expected):
        found = training_saves.load(self.output)
        self.assertEqual(found.keys(), expected.keys())
        for name, tensor in expected.items():
            self.assertEqual(found[name].dtype, tensor.dtype, name)
            self.assertTrue(torch.equal(found[name], tensor), name)

    def megatron(self, **options):
        return training_saves.megatron(self.tensors, self.config, **options)

    def torchtitan(self):
        return training_saves.torchtitan(self.tensors, self.config)

    # Files of torch.save.

    def test_state_dict(self):
        torch.save(self.tensors, self.input / "model.pt")
        report = self.expect_model()
        self.assertEqual(report["source"], ["hf"])
        self.expect_model("--from", "hf", source=self.input / "model.pt")

    def test_every_pickle_protocol(self):
        for protocol in (2, 3, 4, 5):
            torch.save(self.tensors, self.input / "model.pt", pickle_protocol=protocol)
            self.expect_model()

    def test_wrapped_state_dict(self):
        state = {"module._orig_mod." + name: tensor for name, tensor in self.tensors.items()}
        torch.save({"state_dict": state, "epoch": 3}, self.input / "model.pt")
        self.expect_model()

    def test_views_of_any_strides(self):
        def view(name, tensor):
            if tensor.dim() != 2:
                return torch.cat([tensor, tensor])[: len(tensor)]
            if "o_proj" in name:
                return tensor.t().contiguous().t()
            if "down_proj" in name:
                return torch.stack([tensor, -tensor], 2)[:, :, 0]
            return torch.cat([-tensor, tensor], 1)[:, tensor.shape[1] :]

        state = {name: view(name, tensor) for name, tensor in self.tensors.items()}
        torch.save(state, self.input / "model.pt")
        self.expect_model()

    def test_tensors_that_share_a_storage(self):
        flat = torch.cat([t.flatten() for t in self.tensors.values() if t.dtype == torch.bfloat16])
        state, begin = {}, 0
        for name, tensor in self.tensors.items():
            if tensor.dtype != torch.bfloat16:
                state[name] = tensor
                continue
            state[name] = flat[begin : begin + tensor.numel()].view(tensor.shape)
            begin += tensor.numel()
        torch.save(state, self.input / "model.pt")
        self.expect_model()

    def test_sharded_bin_files(self):
        names = list(self.tensors)
        weight_map = {}
        for number, part in enumerate((names[::2], names[1::2]), 1):
            file = f"pytorch_model-{number:05}-of-00002.bin"
            torch.save({name: self.tensors[name] for name in part}, self.input / file)
            weight_map.update({name: file for name in part})
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (self.input / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        self.expect_model()

    def test_float32_and_float16_masters(self):
        for dtype in (torch.float32, torch.float16):
            state = {
                name: tensor.to(dtype) * (1 + 1 / 512) if tensor.dtype == torch.bfloat16 else tensor
                for name, tensor in self.tensors.items()
            }
            expected = {
                name: tensor.to(self.tensors[name].dtype) for name, tensor in state.items()
            }
            torch.save(state, self.input / "model.pt")
            self.expect_model(expected=expected)
            self.convert("--dtype", "keep")
            self.expect_tensors(state)
            name = str(dtype).removeprefix("torch.")
            self.assertEqual(training_saves.config_of(self.output)["torch_dtype"], name)

    def test_megatron_in_a_file(self):
        state = {
            "args": argparse.Namespace(tensor_model_parallel_size=1),
            "model": self.megatron(padded_rows=24),
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        }
        torch.save(state, self.input / "model.pt")
        report = self.expect_model()
        self.assertEqual(report["source"], ["megatron"])

    def test_torchtitan_in_a_file(self):
        state = {name: tensor.float() for name, tensor in self.torchtitan().items()}
        torch.save(state, self.input / "model.pt")
        self.assertEqual(self.expect_model()["source"], ["torchtitan"])

    # torch.distributed.checkpoint.

    def test_dcp_of_one_process(self):
        for state in (self.tensors, self.megatron(), self.torchtitan()):
            shutil.rmtree(self.input)
            training_saves.copy_config(self.source, self.input)
            dcp.save(state, checkpoint_id=str(self.input))
            self.expect_model()

    def test_dcp_of_four_ranks(self):
        for number, state in enumerate((self.megatron(), self.torchtitan())):
            directory = self.input / f"step-{number}"
            torch.multiprocessing.spawn(
                save_rank, (4, state, directory, 29611 + number), nprocs=4, join=True
            )
            (directory / "__9_0.distcp").write_bytes(b"left by an earlier save")
            self.expect_model(source=directory)

    def test_dcp_safetensors_of_four_ranks(self):
        torch.multiprocessing.spawn(
            save_rank, (4, self.tensors, self.input, 29621, True), nprocs=4, join=True
        )
        self.expect_model()
        self.assertEqual(self.expect_model()["source"], ["hf"])
        next(self.input.glob("shard-00002-*")).unlink()
        done = self.convert(exit_code=3)
        self.assertIn("none of rank 1", json.loads(done.stdout)["error"]["message"])

    def test_dcp_with_an_optimizer(self):
        state = {"model": self.tensors, "optimizer": {"state": {"x.exp_avg": torch.zeros(4)}}}
        dcp.save(state, checkpoint_id=str(self.input))
        self.expect_model()

    def test_dcp_with_a_missing_file(self):
        dcp.save(self.megatron(), checkpoint_id=str(self.input))
        (self.input / "__0_0.distcp").unlink()
        done = self.convert(exit_code=3)
        self.assertIn("__0_0.distcp", json.loads(done.stdout)["error"]["message"])
        self.assertFalse(self.output.exists())

    # Megatron's ranks.

    def rank_files(self, **sizes):
        """The directory of an iteration."""
        shutil.rmtree(self.input)
        training_saves.copy_config(self.source, self.input)
        (self.input / "latest_checkpointed_iteration.txt").write_text("7\n")
        iteration = self.input / "iter_0000007"
        state = self.megatron(padded_rows=24)
        training_saves.megatron_rank_files(iteration, state, self.config, **sizes)
        return iteration

    def test_megatron_ranks(self):
        for sizes, files in (
            ({}, 1),
            ({"tensor": 2, "pipeline": 2, "expert": 2}, 4),
            ({"tensor": 2, "pipeline": 2, "expert": 2, "expert_tensor": 2}, 8),
            ({"pipeline": 4, "expert": 4}, 16),
        ):
            iteration = self.rank_files(**sizes)
            self.assertEqual(len(list(iteration.glob("mp_rank_*"))), files)
            report = self.expect_model()
            self.assertEqual(report["source"], ["megatron"])
            self.expect_model("--from", "megatron", source=iteration)

    def test_megatron_ranks_in_other_commands(self):
        iteration = self.rank_files(tensor=2, pipeline=2, expert=2)
        tools.run("dsv3-verify", "compare", iteration, self.source)
        tools.run("dsv3-verify", "numeric", iteration)
        tools.run("dsv3-inspect", iteration)
        tools.run("dsv3-convert", "layout", iteration, self.output, "--to", "mindformers-train")
        tools.run("dsv3-verify", "compare", self.output, self.source)

    def test_megatron_ranks_that_are_not_whole(self):
        iteration = self.rank_files(tensor=2, pipeline=2, expert=2)
        shutil.rmtree(iteration / "mp_rank_01_001_001")
        message = json.loads(self.convert(exit_code=3).stdout)["error"]["message"]
        self.assertIn("pipeline rank 1: no file holds the slice of tensor parallel rank 1", message)
        self.assertFalse(self.output.exists())

    def test_megatron_ranks_with_unequal_copies(self):
        iteration = self.rank_files(pipeline=2, expert=2)
        file = iteration / "mp_rank_00_000_001" / "model_optim_rng.pt"
        saved = torch.load(file, weights_only=False)
        saved["model"]["decoder.layers.1.input_layernorm.weight"][3] += 1
        torch.save(saved, file)
        error = json.loads(self.convert(exit_code=3).stdout)["error"]
        self.assertEqual(error["tensor"], "model.decoder.layers.1.input_layernorm.weight")
        self.assertEqual(error["file"], "mp_rank_00_000_001/model_optim_rng.pt")
        self.assertFalse(self.output.exists())

    # MTP layers and the vocabulary.

    def test_without_mtp_layers(self):
        mtp = f"model.layers.{self.config['num_hidden_layers']}."
        main = {name: t for name, t in self.tensors.items() if not name.startswith(mtp)}
        for state in (main, training_saves.megatron(main, self.config)):
            torch.save(state, self.input / "model.pt")
            report = self.expect_model(expected=main)
            self.assertEqual(report["warnings"][0]["kind"], "no-mtp")
            self.assertEqual(training_saves.config_of(self.output)["num_nextn_predict_layers"], 0)

    def test_shards_of_a_size(self):
        torch.save(self.megatron(), self.input / "model.pt")
        self.expect_model("--max-shard-size", "1M")
        shards = sorted(self.output.glob("*.safetensors"))
        self.assertGreater(len(shards), 5)
        self.assertEqual(shards[0].name, f"model-00001-of-{len(shards):05}.safetensors")

    def test_steps_together(self):
        torch.save(self.megatron(), self.input / "model.pt")
        self.convert("--mtp", "drop", "--mla", "split")
        found = training_saves.load(self.output)
        self.assertIn("model.layers.0.self_attn.k_b_proj.weight", found)
        mtp = f"model.layers.{self.config['num_hidden_layers']}."
        self.assertFalse([name for name in found if name.startswith(mtp)])

    # Files that are not what they should be.

    def test_a_pickle_that_runs_a_program(self):
        witness = self.scratch / "ran"
        for state in (
            Runs(f"touch {witness}"),
            {"model": self.tensors, "args": Runs(f"touch {witness}")},
        ):
            torch.save(state, self.input / "model.pt")
            done = self.convert(exit_code=3)
            self.assertIn("posix.system", json.loads(done.stdout)["error"]["message"])
            self.assertFalse(witness.exists())
            self.assertFalse(self.output.exists())

    def test_a_truncated_file(self):
        torch.save(self.tensors, self.input / "model.pt")
        data = (self.input / "model.pt").read_bytes()
        for size in (10, len(data) // 2, len(data) - 1):
            (self.input / "model.pt").write_bytes(data[:size])
            self.convert(exit_code=3)
            self.assertFalse(self.output.exists())

    def test_a_bit_that_flipped(self):
        """Every storage that is read whole is compared with the CRC of its archive."""
        o_proj = "model.layers.0.self_attn.o_proj.weight"
        payload = self.tensors[o_proj].view(torch.uint8).numpy().tobytes()
        for save in (
            lambda: torch.save(self.tensors, self.input / "model.pt"),
            lambda: dcp.save(self.tensors, checkpoint_id=str(self.input)),
            lambda: dcp.save(self.megatron(), checkpoint_id=str(self.input)),
        ):
            self.setUp()
            save()
            # Over many files, of which the first are complete before the damage is met.
            self.expect_model("--max-shard-size", "100K")
            file = next(f for f in self.input.iterdir() if f.name.endswith((".pt", ".distcp")))
            data = bytearray(file.read_bytes())
            data[data.index(payload) + len(payload) // 2] ^= 4
            file.write_bytes(data)
            done = self.convert("--max-shard-size", "100K", exit_code=3)
            message = json.loads(done.stdout)["error"]["message"]
            self.assertRegex(message, rf"{file.name}: entry 'data/\d+' at byte \d+ has the CRC-32")
            self.assertFalse(self.output.exists())
            tools.run("dsv3-verify", "numeric", self.input, exit_code=3)

    def test_an_archive_without_crcs(self):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(self.tensors, self.input / "model.pt")
        finally:
            torch.serialization.set_crc32_options(True)
        self.expect_model()

    def test_a_chunk_that_is_there_twice(self):
        name = "lm_head.weight"
        dcp.save(self.tensors, checkpoint_id=str(self.input))
        metadata = pickle.loads((self.input / ".metadata").read_bytes())
        metadata.state_dict_metadata[name].chunks *= 2
        (self.input / ".metadata").write_bytes(pickle.dumps(metadata, 4))
        error = json.loads(self.convert(exit_code=3).stdout)["error"]
        self.assertEqual((error["file"], error["tensor"]), (".metadata", name))
        self.assertIn("so they overlap", error["message"])
        self.assertFalse(self.output.exists())

    def test_other_tensors_of_one_name(self):
        state = torch.zeros(3)
        torch.save({**self.tensors, "state.x": state, "state": {"x": state}}, self.input / "model.pt")
        self.expect_model()

    def test_a_missing_expert(self):
        state = self.torchtitan()
        key = next(name for name in state if name.endswith("inner_experts.w1_EFD"))
        state[key] = state[key][:-1].clone()
        torch.save(state, self.input / "model.pt")
        self.convert(exit_code=3)

    def test_other_commands_read_it(self):
        dcp.save(self.megatron(), checkpoint_id=str(self.input))
        tools.run("dsv3-verify", "compare", self.input, self.source)
        tools.run("dsv3-verify", "numeric", self.input)
        tools.run("dsv3-inspect", self.input)


if __name__ == "__main__":
    unittest.main()
