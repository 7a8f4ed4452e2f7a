"""Signatures against the Python tool model_signing, in both directions."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

from tools import run

CURVES = ("P-256", "P-384", "P-521")
TOOL = pathlib.Path(sys.executable).parent / "model_signing"
# A checkout of ossf/model-signing-spec beside one of sigstore/model-transparency, where there is
# one: the test vector's two halves.
VECTOR = os.environ.get("DSV3_MODEL_SIGNING_VECTOR")


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@unittest.skipUnless(TOOL.exists(), "model_signing is not installed")
class ModelSigning(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.model = self.directory / "model"
        run("dsv3-convert", "sample", self.model, "--preset", "tiny", "--quiet")
        # Names whose order by character and by component differ, and what is not signed.
        for name in ("a-b", "a/b", "a.b", "é \"q\"\\x", ".gitignore", ".git/config",
                     ".cache/huggingface/download/config.json.metadata"):
            path = self.model / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)

    def keys(self, curve):
        private = self.directory / f"{curve}.pem"
        public = self.directory / f"{curve}.pub.pem"
        if not private.exists():
            openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-out",
                    private)
            openssl("pkey", "-in", private, "-pubout", "-out", public)
        return private, public

    def theirs(self, *arguments, good=True):
        done = subprocess.run([str(TOOL), *map(str, arguments)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True)
        self.assertEqual(done.returncode == 0, good, done.stdout + done.stderr)
        return done

    def they_sign(self, curve):
        self.theirs("sign", "key", self.model, "--private_key", self.keys(curve)[0], "--signature",
                    self.model / "model.sig")

    def they_verify(self, curve, *options, good=True):
        return self.theirs("verify", "key", self.model, "--public_key", self.keys(curve)[1],
                           "--signature", self.model / "model.sig", *options, good=good)

    def we_sign(self, curve, *options):
        run("dsv3-verify", "sign", self.model, "--key", self.keys(curve)[0], "--quiet", *options)

    def we_verify(self, curve, exit_code=0):
        done = run("dsv3-verify", "verify-signature", self.model, "--key", self.keys(curve)[1],
                   "--json", "--quiet", exit_code=exit_code)
        return json.loads(done.stdout)

    def test_they_verify_what_we_sign(self):
        for curve in CURVES:
            with self.subTest(curve):
                self.we_sign(curve)
                self.they_verify(curve)
                self.assertTrue(self.we_verify(curve)["passes"])

    def test_we_verify_what_they_sign(self):
        for curve in CURVES:
            with self.subTest(curve):
                self.they_sign(curve)
                self.assertTrue(self.we_verify(curve)["passes"])
                self.they_verify(curve)

    def test_both_find_each_kind_of_difference(self):
        self.we_sign("P-256")
        (self.model / "a-b").write_text("changed")
        (self.model / "a/b").unlink()
        (self.model / "new").write_text("")
        found = {(f["kind"], f["file"]) for f in self.we_verify("P-256", exit_code=1)["findings"]}
        self.assertEqual(found, {("wrong-digest", "a-b"), ("missing-file", "a/b"),
                                 ("extra-file", "new")})
        said = self.they_verify("P-256", good=False)
        for name in ("a-b", "a/b", "new"):
            self.assertIn(name, said.stdout + said.stderr)

    def test_both_mind_the_key(self):
        self.they_sign("P-256")
        kinds = [f["kind"] for f in self.we_verify("P-384", exit_code=1)["findings"]]
        self.assertEqual(kinds, ["wrong-key"])
        self.we_sign("P-256")
        self.they_verify("P-384", good=False)

    def test_compressed_points_have_the_same_hint(self):
        private, public = self.keys("P-256")
        openssl("ec", "-in", private, "-conv_form", "compressed", "-out", private)
        openssl("ec", "-in", private, "-pubout", "-conv_form", "compressed", "-out", public)
        self.we_sign("P-256")
        self.they_verify("P-256")
        self.they_sign("P-256")
        self.we_verify("P-256")

    def test_symbolic_links(self):
        (self.model / "link").symlink_to("config.json")
        self.we_sign("P-256")
        self.they_verify("P-256", "--allow_symlinks")
        self.they_verify("P-256", good=False)
        self.theirs("sign", "key", self.model, "--private_key", self.keys("P-256")[0],
                    "--allow_symlinks", "--signature", self.model / "model.sig")
        self.assertTrue(self.we_verify("P-256")["passes"])

    def test_a_conversions_manifest_signs_without_a_second_read(self):
        output = self.directory / "bf16"
        sample = self.directory / "sample"
        run("dsv3-convert", "sample", sample, "--preset", "tiny", "--quiet")
        run("dsv3-convert", "fp8-to-bf16", sample, output, "--quiet")
        self.model = output
        private, _ = self.keys("P-384")
        report = json.loads(run("dsv3-verify", "sign", output, "--key", private, "--use-manifest",
                                "--json", "--quiet").stdout)
        self.assertEqual(report["trusted_files"], report["file_count"] - 1)  # all but the manifest
        self.they_verify("P-384")
        self.assertTrue(self.we_verify("P-384")["passes"])

    def test_a_single_file(self):
        private, public = self.keys("P-256")
        model = self.model / "config.json"
        signature = self.directory / "one.sig"
        self.theirs("sign", "key", model, "--private_key", private, "--signature", signature)
        run("dsv3-verify", "verify-signature", model, "--key", public, "--signature", signature)
        run("dsv3-verify", "sign", model, "--key", private, "--signature", signature)
        self.theirs("verify", "key", model, "--public_key", public, "--signature", signature)

    @unittest.skipUnless(VECTOR, "DSV3_MODEL_SIGNING_VECTOR names no folder with the test vector")
    def test_the_public_vector(self):
        vector = pathlib.Path(VECTOR)
        shutil.rmtree(self.model)
        self.model.mkdir()
        done = run("dsv3-verify", "verify-signature", self.model, "--key",
                   vector / "signing-key-pub.pem", "--signature", vector / "key.bundle.json",
                   "--json", "--quiet", exit_code=1)
        report = json.loads(done.stdout)
        # The signature is good; the two files that it signs are not published with it.
        self.assertTrue(report["authentic"])
        self.assertEqual([(f["kind"], f["file"]) for f in report["findings"]],
                         [("missing-file", "signme-1"), ("missing-file", "signme-2")])


if __name__ == "__main__":
    unittest.main()
