"""The commands of docs/training.md: what each stack's own lines save, our command after them reads, byte for byte."""

import importlib.util
import os
import pathlib
import re
import shlex
import tempfile
import unittest

import torch
import torch.distributed as dist
import torch.multiprocessing

import megatron_core_saves
import tools
import training_saves


def sections():
    """Heading → (kind, text) of the blocks below it, in the section with each stack's command."""
    text = (tools.ROOT / "docs/training.md").read_text()
    text = text.split("## Each stack's command, and ours\n")[1].split("\n## ")[0]
    found = {}
    for section in text.split("\n### ")[1:]:
        heading, body = section.split("\n", 1)
        found[heading] = re.findall(r"```(\w+)\n(.*?)```", body, re.DOTALL)
    return found


def run_python(heading, names):
    for kind, block in sections()[heading]:
        if kind == "python":
            exec(compile(block, f"docs/training.md: {heading}", "exec"), names)


def save_megatron(rank, source, directory, port):
    """The lines of the page, in one process that has megatron-core's model of the tensors."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=1)
    megatron_core_saves.stand_in_for_a_gpu()
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel()
    config = training_saves.config_of(source)
    sizes = megatron_core_saves.transformer_config(config, {})
    model = megatron_core_saves.make_model(config, sizes, None, torch.bfloat16)
    tensors = megatron_core_saves.reference(training_saves.load(source), config)
    megatron_core_saves.fill(model.sharded_state_dict(), tensors)
    os.chdir(directory)
    run_python("Megatron", {"model": model})
    dist.destroy_process_group()


class TrainingDocs(tools.SmallModel):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tensors = training_saves.load(cls.source)
        cls.before = pathlib.Path.cwd()

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(dir=self.scratch))
        training_saves.copy_config(self.source, self.directory)
        os.chdir(self.directory)

    def tearDown(self):
        os.chdir(self.before)

    def run_ours(self, heading):
        """Runs the commands under the heading; returns the directories that they wrote."""
        written = []
        for kind, block in sections()[heading]:
            for line in block.splitlines() if kind == "console" else []:
                words = shlex.split(line.removeprefix("$ "))
                tools.run(words[0], *words[1:])
                written.append(self.directory / words[3])
        self.assertTrue(written)
        return written

    def expect(self, heading, expected):
        for directory in self.run_ours(heading):
            found = training_saves.load(directory)
            self.assertEqual(found.keys(), expected.keys(), directory)
            for name, tensor in expected.items():
                self.assertEqual(found[name].dtype, tensor.dtype, name)
                self.assertTrue(torch.equal(found[name], tensor), name)

    def test_stacks_that_train_modules_of_transformers(self):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.source, dtype=torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        # transformers knows no MTP layers.
        expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        names = {"model": model, "optimizer": optimizer}
        for heading in ("PyTorch", "transformers", "torch.distributed.checkpoint"):
            with self.subTest(heading):
                run_python(heading, names)
                self.expect(heading, expected)

    @unittest.skipUnless(importlib.util.find_spec("megatron"), "megatron-core is not installed")
    def test_megatron(self):
        torch.multiprocessing.spawn(save_megatron, (self.source, self.directory, 29647), nprocs=1)
        self.expect("Megatron", self.tensors)

    @unittest.skipUnless(importlib.util.find_spec("mindspore"), "mindspore is not installed")
    def test_mindformers(self):
        import mindspore

        tools.run("dsv3-convert", "layout", self.source, self.directory / "ms", "--to", "mindformers-train")
        network = mindspore.nn.Cell()
        for file in sorted((self.directory / "ms").glob("*.safetensors")):
            for name, value in mindspore.load_checkpoint(str(file), format="safetensors").items():
                network.insert_param_to_cell(name.replace(".", "/"), mindspore.Parameter(value, name=name))
        (self.directory / "from-training").mkdir()
        run_python("MindFormers", {"network": network})
        self.expect("MindFormers", self.tensors)

    def test_every_stack_of_the_page_is_here(self):
        self.assertEqual(
            list(sections()),
            ["PyTorch", "transformers", "torch.distributed.checkpoint", "Megatron", "MindFormers"],
        )


if __name__ == "__main__":
    unittest.main()
