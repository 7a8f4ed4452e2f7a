"""DeepSeek-V4 under the names, and with the config, that transformers 5 saves."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import tools


class V4Saves(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        cls.transformers()
        cls.saved = cls.scratch / "saved"

    @classmethod
    def transformers(cls, *checkpoint):
        script = pathlib.Path(__file__).with_name("v4_saves.py")
        environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(sys.prefix) / "transformers-5"))
        done = subprocess.run([sys.executable, script, cls.scratch, *checkpoint], env=environment,
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(done.stderr)

    def out(self, name):
        path = self.scratch / name
        self.addCleanup(shutil.rmtree, path, ignore_errors=True)
        return path

    def weights(self, directory):
        return (directory / "model.safetensors").read_bytes()

    def test_every_check_passes(self):
        tools.run("dsv3-verify", "structure", self.saved, "--strict")
        tools.run("dsv3-verify", "numeric", self.saved, "--strict")
        report = json.loads(tools.run("dsv3-inspect", self.saved, "--json").stdout)
        self.assertEqual(report["model"]["num_hidden_layers"], 5)

    def test_ranks_come_back_to_the_byte(self):
        for sizes in (("--tp", 2, "--ep", 2), ("--tp", 1, "--ep", 4, "--dp", 4), ("--tp", 2, "--pp", 2)):
            with self.subTest(sizes=sizes):
                ranks, back = self.out("ranks"), self.out("back")
                tools.run("dsv3-reshard", *sizes, self.saved, ranks, "--quiet")
                tools.run("dsv3-reshard", "merge", ranks, back, "--quiet")
                self.assertEqual(self.weights(back), self.weights(self.saved))
                shutil.rmtree(ranks)
                shutil.rmtree(back)

    def test_transformers_loads_what_is_converted(self):
        kept = self.out("kept")
        tools.run("dsv3-convert", "train-to-infer", self.saved, kept, "--dtype", "keep", "--quiet")
        self.transformers(kept)
        config = json.loads((kept / "config.json").read_text())
        self.assertEqual(config["num_nextn_predict_layers"], 0)  # no MTP layer was saved

    def test_int4_of_the_experts_comes_back(self):
        codes, values = self.out("codes"), self.out("values")
        tools.run("dsv3-convert", "quantize", self.saved, codes, "--to", "int4", "--quiet")
        tools.run("dsv3-verify", "structure", codes, "--strict")
        tools.run("dsv3-convert", "dequantize", codes, values, "--quiet")
        tools.run("dsv3-verify", "structure", values, "--strict")

    def test_names_of_modules_are_refused(self):
        modules, out = self.scratch / "modules", self.scratch / "nothing"
        commands = [("dsv3-verify", "structure", modules), ("dsv3-reshard", "--tp", 2, modules, out),
                    ("dsv3-convert", "train-to-infer", modules, out)]
        for command in commands:
            code = 1 if command[0] == "dsv3-verify" else 3
            done = tools.run(*command, exit_code=code)
            self.assertIn("save_original_format=False", done.stdout + done.stderr)
            self.assertFalse(out.exists())
        # Its values are those of a whole model all the same.
        tools.run("dsv3-verify", "numeric", modules, "--strict")


if __name__ == "__main__":
    unittest.main()
