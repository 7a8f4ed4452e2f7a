#include "formats/left_behind.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/formats/checkpoint_test.h"

namespace dsv3::formats {
namespace {

using dsv3::testing::CheckpointFilesTest;
using dsv3::testing::ExpectBadInput;
using dsv3::testing::Names;
using dsv3::testing::Shard;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

void ExpectKind(LeftBehindKind kind, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const std::optional<LeftBehindKind> found = KindOfLeftBehind(name);
    ASSERT_TRUE(found) << name;
    EXPECT_EQ(LeftBehindKindName(*found), LeftBehindKindName(kind)) << name;
  }
}

TEST(LeftBehindTest, KnowsEachKindByName) {
  ExpectKind(LeftBehindKind::kOtherWeights, {"pytorch_model.bin",
                                             "a/b.PT",
                                             "x.pth",
                                             "tf_model.h5",
                                             "flax_model.msgpack",
                                             "onnx/model.onnx",
                                             "onnx/model.onnx_data",
                                             "m-Q8_0.gguf",
                                             "m.gguf-00001-of-00002",
                                             "m.gguf.part1of2",
                                             "model.safetensors.bak",
                                             "M.mlmodel",
                                             "original/params.json",
                                             "rank0.engine",
                                             "saved_model.pb",
                                             "variables/variables.data-00000-of-00001",
                                             "variables/variables.index",
                                             "model.safetensors.zst",
                                             "model.safetensors.dvc",
                                             "m.mlpackage/Manifest.json",
                                             "model.keras",
                                             "rank0.plan",
                                             "mlc-chat-config.json",
                                             "openvino/openvino_model.xml",
                                             "imatrix.dat",
                                             "original/consolidated.00.pth"});
  ExpectKind(LeftBehindKind::kAdapter,
             {"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin",
              "adapters.safetensors", "Adapters.npz", "pytorch_lora_weights.safetensors"});
  ExpectKind(LeftBehindKind::kTrainingState, {"optimizer.pt",
                                              "optimizer.bin",
                                              "optimizer.safetensors",
                                              "scheduler.pt",
                                              "rng_state_3.pth",
                                              "global_step500/mp_rank_00_model_states.pt",
                                              "zero_pp_rank_0_mp_rank_00_optim_states.pt",
                                              "training_args.bin",
                                              "__0_0.distcp",
                                              ".metadata",
                                              "trainer_state.json",
                                              "rng_state.pth",
                                              "scheduler.bin",
                                              "sampler.bin",
                                              "latest",
                                              "latest_universal",
                                              "zero_to_fp32.py",
                                              "global_step_20/actor/notes.txt",
                                              "global_step7/config.json",
                                              "checkpoint-500/config.json",
                                              "latest_checkpointed_iteration.txt",
                                              "runs/Nov29/events.out.tfevents.1732.host.1.0",
                                              "wandb/run-1/config.yaml",
                                              "Trainer_State.json"});
  ExpectKind(LeftBehindKind::kOtherIndex,
             {"model.fp8.safetensors.index.json", "pytorch_model.bin.index.json",
              "model.safetensors.index.fp16.json", "tf_model.h5.index.json"});
  ExpectKind(LeftBehindKind::kChecksums,
             {"model.safetensors.sha256", "MD5SUMS", "a.md5", "CHECKSUM", "v1_SHA256SUMS",
              "checksums.txt", "SHA256SUMS.asc", "SHA256SUMS.gpg"});
  ExpectKind(LeftBehindKind::kSystemRecord, {".msc",
                                             ".mdl",
                                             ".mv",
                                             ".DS_Store",
                                             "code/.DS_Store",
                                             "._config.json",
                                             "._____temp/a.json",
                                             "__MACOSX/a.txt",
                                             "Thumbs.db",
                                             "a.safetensors.aria2",
                                             "$RECYCLE.BIN/a",
                                             ".Trash-1000/files/a",
                                             ".nfs000000001",
                                             "lost+found/a",
                                             "code/__pycache__/m.pyc",
                                             ".huggingface/download/a",
                                             "System Volume Information/a",
                                             "config.json~",
                                             ".config.json.swp",
                                             "#config.json#",
                                             "config.json.orig",
                                             ".~lock.README.md#",
                                             "model.safetensors.index.json.bak",
                                             "tokenizer.json.lock",
                                             ".locks/models--a--b/x",
                                             ".vscode/settings.json",
                                             ".fuse_hidden0000abcd00000001",
                                             "nohup.out",
                                             "core.4711",
                                             ".stversions/config.json",
                                             ".snapshot/hourly/config.json",
                                             ".hfd/aria2c_urls.txt",
                                             "wget-log",
                                             "modeling_deepseek.pyc",
                                             "model.torrent",
                                             "~$README.docx",
                                             ".modelscope",
                                             "m.safetensors.xltd",
                                             "model.safetensors.1a2B3c4D",
                                             ".config.json.Xa1b2C"});
}

TEST(LeftBehindTest, LeavesWhatBelongsToEveryCopy) {
  for (const char* name : {"config.json",
                           "tokenizer.json",
                           "tokenizer.model",
                           "tiktoken.model",
                           "README.md",
                           "LICENSE",
                           "modeling_deepseek.py",
                           "model.safetensors",
                           "model.safetensors.index.json.txt",
                           "code/original/readme.md",
                           "latest.md",
                           "core.py",
                           "core.v2",
                           "notes#1",
                           "README.markdown",
                           "blocks.txt",
                           "latest_news.txt",
                           "trainer_states.md",
                           "global_step/notes.txt",
                           "scheduler.json",
                           "global_steps/notes.txt",
                           "checkpoint-best/notes.txt",
                           "checkpoint-500",
                           "variables.md",
                           "figures/a b.svg",
                           "index.json",
                           "consolidated.safetensors",
                           "binary.txt",
                           "scheduler/scheduler_config.json"}) {
    EXPECT_FALSE(KindOfLeftBehind(name)) << name;
  }
}

TEST_F(CheckpointFilesTest, TellsWhatIsLeftBehindFromSideFiles) {
  WriteSound();
  Write("._x.safetensors", "AppleDouble");
  Write("adapter_model.safetensors", Shard({"lora"}));
  Write("original/consolidated.00.pth", "12345");
  const CheckpointFiles files = Open();
  EXPECT_THAT(files.findings, IsEmpty());
  EXPECT_THAT(Names(files), ElementsAre("x.safetensors", "y.safetensors"));
  EXPECT_THAT(files.side_files, ElementsAre("config.json"));
  ASSERT_EQ(files.left_behind.size(), 3U);
  EXPECT_EQ(files.left_behind[0].name, "._x.safetensors");
  EXPECT_EQ(files.left_behind[0].kind, LeftBehindKind::kSystemRecord);
  EXPECT_EQ(files.left_behind[1].name, "adapter_model.safetensors");
  EXPECT_EQ(files.left_behind[2].name, "original/consolidated.00.pth");
  EXPECT_EQ(files.left_behind[2].bytes, 5U);
}

// An index may list any file.
TEST_F(CheckpointFilesTest, TakesAnAdapterThatTheIndexListsForAShard) {
  WriteSound();
  Write("adapter_model.safetensors", Shard({"lora"}));
  WriteIndex({{"a", "x.safetensors"},
              {"b", "x.safetensors"},
              {"c", "y.safetensors"},
              {"lora", "adapter_model.safetensors"}});
  const CheckpointFiles files = Open();
  EXPECT_THAT(Names(files), Contains("adapter_model.safetensors"));
  EXPECT_THAT(files.left_behind, IsEmpty());
}

TEST_F(CheckpointFilesTest, TakesTheSingleFileOfLoadersAloneWhereThereIsNoIndex) {
  Write("model.safetensors", Shard({"a"}));
  Write("model.fp16.safetensors", Shard({"a"}));
  Write("consolidated.safetensors", Shard({"x"}));
  const CheckpointFiles files = Open();
  EXPECT_EQ(files.form, CheckpointFiles::Form::kSingle);
  EXPECT_THAT(Names(files), ElementsAre("model.safetensors"));
  ASSERT_EQ(files.unlisted.size(), 2U);
  EXPECT_EQ(files.unlisted[1].header.tensors.size(), 1U);
  ASSERT_EQ(files.findings.size(), 2U);
  EXPECT_EQ(files.findings[0].kind, "unlisted-shard");
  EXPECT_THAT(files.findings[0].message, HasSubstr("hold the weights once more"));
  EXPECT_THAT(files.findings[1].message, HasSubstr("loaders take model.safetensors alone"));
}

TEST_F(CheckpointFilesTest, NeverTakesConsolidatedFilesForShards) {
  Write("model-1.safetensors", Shard({"a"}));
  Write("model-2.safetensors", Shard({"b"}));
  Write("consolidated-1.safetensors", Shard({"x"}));
  EXPECT_THAT(Names(Open()), ElementsAre("model-1.safetensors", "model-2.safetensors"));
}

TEST_F(CheckpointFilesTest, SaysWhatADirectoryWithoutAModelHolds) {
  Write("adapter_model.safetensors", Shard({"lora"}));
  Write("adapter_config.json", "{}");
  ExpectBadInput([&] { Open(); }, "this is an adapter");
  ExpectBadInput([&] { OpenCheckpointFiles(directory_ / "adapter_model.safetensors"); },
                 "this is an adapter");
  Write("consolidated.safetensors", Shard({"x"}));
  ExpectBadInput([&] { Open(); }, "holds consolidated*.safetensors alone");
}

TEST_F(CheckpointFilesTest, SaysWhatADistributedCheckpointLacks) {
  Write("__0_0.distcp", "PK");
  ExpectBadInput([&] { Open(); }, "and .metadata, which says what is in them, is missing");
}

TEST_F(CheckpointFilesTest, NamesTheDirectoryBelowThatHoldsACheckpoint) {
  Write("README.md", "");
  ExpectBadInput([&] { Open(); }, "give the directory that holds the *.safetensors files");
  for (const char* const name : {"v3/model/x.safetensors", "v3/model/y.safetensors",
                                 "a/b/c/deep.safetensors", ".git/z.safetensors"}) {
    std::filesystem::create_directories((directory_ / name).parent_path());
    Write(name, Shard({name}));
  }
  ExpectBadInput([&] { Open(); },
                 "some lie in " + (directory_ / "v3/model").string() + ": give that");
}

TEST_F(CheckpointFilesTest, NamesTheFileWhoseNameDiffersInCaseAlone) {
  WriteSound();
  std::filesystem::rename(directory_ / "y.safetensors", directory_ / "Y.SAFETENSORS");
  const CheckpointFiles files = Open();
  ASSERT_THAT(files.findings, ::testing::SizeIs(1));
  EXPECT_EQ(files.findings[0].message,
            "y.safetensors: the index lists this shard, but there is no such file; Y.SAFETENSORS "
            "is there: give it this name");
}

TEST_F(CheckpointFilesTest, KnowsAnAdapterByItsTensorsUnderAnyName) {
  Write("weights.safetensors", Shard({"q_proj.lora_A.weight", "q_proj.lora_B.weight"}));
  ExpectBadInput([&] { Open(); }, "this is an adapter");
  ExpectBadInput([&] { OpenCheckpointFiles(directory_ / "weights.safetensors"); },
                 "this is an adapter");
  Write("more.safetensors", Shard({"q_proj.weight"}));
  EXPECT_EQ(Open().shards.size(), 2U);
}

TEST_F(CheckpointFilesTest, AShardThatIsALinkIntoASubdirectoryIsNoFurtherFile) {
  WriteSound();
  std::filesystem::create_directory(directory_ / "data");
  for (const char* const name : {"x.safetensors", "y.safetensors"}) {
    std::filesystem::rename(directory_ / name, directory_ / "data" / name);
    std::filesystem::create_symlink(std::filesystem::path("data") / name, directory_ / name);
  }
  EXPECT_THAT(Open().findings, IsEmpty());
}

// Each is called what it is.
TEST_F(CheckpointFilesTest, NamesFilesOfOtherKinds) {
  const std::pair<std::string, const char*> files[] = {
      {"{\"hidden_size\": 7168}", "it is a JSON text"},
      {"{}", "it is a JSON text"},
      {"Access denied\n", "it is a text"},
      {"GGUF\x03", "it is a GGUF file"},
      {"\x80\x02}q", "it is a Python pickle"},
      {std::string("\x80\x04\x95\x1b\0\0\0\0\0\0\0\x8c", 12), "it is a Python pickle"},
      {"\x93NUMPY\x01\0\x76\0", "it is a NumPy array"},
      {"\x89HDF\r\n\x1a\n", "it is an HDF5 file"},
      {std::string("\x08\x07\x12\x07pytorch\x1a\x05", 13), "it is an ONNX file"},
      {std::string("\x81\xA6params\x82\xA5model", 14), "it is a MessagePack file"},
      {std::string("\xDE\0\x10\xA5layer\xC0\xC0\xC0", 12), "it is a MessagePack file"},
      {"lost\n", "it is a text"},
      {std::string("\xFF\xFEh\0e\0l\0l\0o\0", 12), "it is a text"},
      {"SQLite format 3", "it is an SQLite database"},
      {"\x89PNG\r\n\x1a\n", "it is an image"},
      {"PAR1 and more", "it is a Parquet file"},
      {"%PDF-1.7\n%\xE2", "it is a PDF document"},
      {std::string("\x7F"
                   "ELF\2\1\1\0\0",
                   9),
       "it is a program"},
      {std::string("tjgg\3\0\0\0\0", 9), "it is a GGML file"},
      {std::string("\x04\x22\x4D\x18\x64\x40\0\0\0", 9), "it is a compressed file"},
      // Lengths of a header that the format allows, and that the file does not have.
      {std::string("PK\x03\x04", 4) + std::string(100, '\0'), "it is a zip archive"},
      {std::string("\x80\x04\x95", 3) + std::string(50, '\0'), "it is a Python pickle"},
      {std::string("\x1f\x8b\x08", 3) + std::string(50, '\0'), "it is a compressed file"},
      {std::string(257, '\0') + "ustar" + std::string(250, '\0'), "it is a tar archive"},
      // The header of a file that was cut off, whose length begins like a pickle.
      {std::string("\x80\x04\0\0\0\0\0\0{\"a\"", 12), "the download was cut off"},
      {std::string("\0\x05\x16\x07\0\x02\0\0Mac OS X", 16), "it is an AppleDouble file"}};
  for (const auto& [content, words] : files) {
    Write("file", content);
    const CheckpointFiles opened = OpenCheckpointFiles(directory_ / "file");
    ASSERT_EQ(opened.findings.size(), 1U) << words;
    EXPECT_THAT(opened.findings[0].message, HasSubstr(words));
  }
}

}  // namespace
}  // namespace dsv3::formats
