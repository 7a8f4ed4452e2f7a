"""The jobs of docs/ci.md: YAML that parses, with calls that the tool understands."""

import json
import pathlib
import re
import shlex
import tempfile
import unittest
import xml.etree.ElementTree

import yaml

from tools import ROOT, run


def jobs():
    """The YAML blocks of docs/ci.md."""
    text = (ROOT / "docs/ci.md").read_text()
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def calls(value):
    """Every call of dsv3-verify within a job."""
    if isinstance(value, dict):
        return [call for item in value.values() for call in calls(item)]
    if isinstance(value, list):
        return [call for item in value for call in calls(item)]
    if isinstance(value, str) and value.startswith("dsv3-verify "):
        return [value.split(" || ")[0]]
    return []


class CiDocs(unittest.TestCase):
    def test_there_is_one_job_for_each_system(self):
        github, gitlab = jobs()
        self.assertIn("verify", github["jobs"])
        self.assertTrue(all("uses" in s or "run" in s for s in github["jobs"]["verify"]["steps"]))
        self.assertEqual(gitlab["verify-model"]["artifacts"]["reports"], {"junit": "reports/*.xml"})

    def test_every_call_runs_and_writes_its_reports(self):
        for job in jobs():
            found = calls(job)
            self.assertEqual(len(found), 1)
            with tempfile.TemporaryDirectory() as name:
                directory = pathlib.Path(name)
                run("dsv3-convert", "sample", directory / "model", "--preset", "tiny", "--quiet")
                run("dsv3-verify", "checksum", "create", directory / "model", "--quiet")
                for call in found:
                    words = shlex.split(call)[1:]
                    words = [word.replace("$MODEL", str(directory / "model")) for word in words]
                    words = [word.replace("reports/", str(directory) + "/") for word in words]
                    run("dsv3-verify", *words)
                    junit = words[words.index("--junit") + 1]
                    suite = xml.etree.ElementTree.parse(junit).getroot()
                    self.assertEqual(suite.get("failures"), "0")
                    self.assertNotEqual(suite.get("tests"), "0")
                    sarif = json.loads(pathlib.Path(words[words.index("--sarif") + 1]).read_text())
                    self.assertEqual(sarif["version"], "2.1.0")


if __name__ == "__main__":
    unittest.main()
