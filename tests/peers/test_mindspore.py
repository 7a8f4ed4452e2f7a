"""Layouts of MindFormers, through MindSpore's own reader and writer. Skipped where mindspore is not installed."""

import importlib.util
import json
import shutil
import unittest

import tools

LAYOUTS = (
    "mindformers-train",
    "mindformers-train-bmm",
    "mindformers-infer",
    "mindformers-mcore-v1",
    "mindformers-mcore-v2",
)


@unittest.skipUnless(importlib.util.find_spec("mindspore"), "mindspore is not installed")
class MindSpore(tools.SmallModel):
    def save_again(self, directory, target):
        """Reads all files with MindSpore and writes them with it."""
        import mindspore

        target.mkdir()
        shutil.copy(directory / "config.json", target)
        names = {}
        for file in sorted(directory.glob("*.safetensors")):
            parameters = mindspore.load_checkpoint(str(file), format="safetensors")
            self.assertTrue(parameters)
            saved = [{"name": name, "data": value} for name, value in parameters.items()]
            mindspore.save_checkpoint(saved, str(target / file.name), format="safetensors")
            names.update({name: file.name for name in parameters})
        self.assertEqual(names, json.loads((directory / "param_name_map.json").read_text()))
        (target / "param_name_map.json").write_text(json.dumps(names))

    def test_layouts(self):
        for layout in LAYOUTS:
            with self.subTest(layout):
                ours, theirs, back = (self.scratch / f"{layout}-{which}" for which in ("ours", "theirs", "back"))
                tools.run("dsv3-convert", "layout", self.source, ours, "--to", layout, "--quiet")
                self.save_again(ours, theirs)
                stack = layout.removesuffix("-bmm")
                tools.run("dsv3-convert", "layout", theirs, back, "--to", "hf", "--from", stack, "--quiet")
                compared = tools.run("dsv3-verify", "compare", back, self.source, "--json")
                report = json.loads(compared.stdout)
                self.assertEqual(report["counts"]["identical_bytes"], len(report["tensors"]))


if __name__ == "__main__":
    unittest.main()
