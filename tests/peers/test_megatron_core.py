"""`dsv3-convert train-to-infer` on checkpoints that megatron-core wrote, byte for byte against the weights it was given."""

import importlib.util
import json
import shutil
import unittest

import torch
import torch.multiprocessing

import megatron_core_saves
import tools
import training_saves


@unittest.skipUnless(importlib.util.find_spec("megatron"), "megatron-core is not installed")
class MegatronCore(tools.SmallModel):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tensors = training_saves.load(cls.source)
        cls.saves = cls.scratch / "saves"
        torch.multiprocessing.spawn(
            megatron_core_saves.save_all, (4, cls.source, cls.saves, 29631), nprocs=4
        )

    def expect_model(self, form, ckpt_format, files):
        saved = self.saves / form / ckpt_format
        self.assertTrue(list(saved.glob(files)))
        output = self.scratch / "out"
        shutil.rmtree(output, ignore_errors=True)
        command = ("dsv3-convert", "train-to-infer", "--config", self.source / "config.json")
        done = tools.run(*command, "--dtype", "keep", "--json", saved / "iter_0000007", output)
        self.assertEqual(json.loads(done.stdout)["source"], ["megatron"])
        found = training_saves.load(output)
        self.assertEqual(found.keys(), self.tensors.keys())
        dtype = megatron_core_saves.FORMS[form].get("dtype", torch.bfloat16)
        for name, tensor in self.tensors.items():
            expected = tensor if name.endswith("e_score_correction_bias") else tensor.to(dtype)
            self.assertEqual(found[name].dtype, expected.dtype, name)
            self.assertTrue(torch.equal(found[name], expected), name)

    def test_torch_dist(self):
        for form in megatron_core_saves.FORMS:
            with self.subTest(form):
                self.expect_model(form, "torch_dist", "*/*.distcp")

    def test_torch(self):
        for form in megatron_core_saves.FORMS:
            with self.subTest(form):
                self.expect_model(form, "torch", "*/mp_rank_*/model_optim_rng.pt")

    def test_both_formats_hold_one_model(self):
        formats = (self.saves / "tensor-expert" / name / "iter_0000007" for name in ("torch", "torch_dist"))
        config = self.source / "config.json"
        tools.run("dsv3-verify", "compare", *formats, "--config", config)

    def test_copies_that_differ(self):
        saved = self.scratch / "differs"
        shutil.copytree(self.saves / "expert-tensor" / "torch", saved)
        file = saved / "iter_0000007" / "mp_rank_01_001" / "model_optim_rng.pt"
        state = torch.load(file, weights_only=False)
        state["model"]["decoder.layers.2.mlp.router.weight"][1, 2] += 1
        torch.save(state, file)
        command = ("dsv3-convert", "train-to-infer", "--config", self.source / "config.json", "--json")
        done = tools.run(*command, saved / "iter_0000007", self.scratch / "none", exit_code=3)
        error = json.loads(done.stdout)["error"]
        self.assertEqual(error["tensor"], "model.decoder.layers.2.mlp.router.weight")
        self.assertEqual(error["file"], "mp_rank_01_001/model_optim_rng.pt")


if __name__ == "__main__":
    unittest.main()
