#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/open/open_model.h"
#include "convert/recipes/train_to_infer.h"
#include "convert/verify/compare.h"
#include "convert/verify/numeric.h"
#include "formats/error.h"
#include "tests/convert/layouts/rank_model.h"
#include "tests/convert/recipes/train_to_infer_test.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/formats/support/torch_archive.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"

// Checkpoints of Megatron's ranks as files, from the first byte to the model.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::testing::RankModel;
using ::testing::HasSubstr;

nlohmann::json Config() {
  nlohmann::json json = convert::testing::RopeConfig();
  json["q_lora_rank"] = 6;
  json["num_hidden_layers"] = 2;
  return json;
}

// What one file says beside its weights.
struct RankFile {
  std::string folder;
  std::vector<std::pair<std::string, std::int64_t>> args;
  bool has_args = true;
  std::vector<std::pair<std::string, std::size_t>> models;  // key and position in RankModel::ranks
  std::int64_t vector_stride = 1;
  std::int64_t iteration = 7;
};

class MegatronRankFilesTest : public TrainToInferTest {
 protected:
  static RankModel Saved(convert::MegatronSizes sizes = {2, 2, 1, 2, 1}) {
    RankModel ranks(Config(), sizes, std::vector<std::uint64_t>(sizes.pipeline, 1));
    ranks.Save(false);
    return ranks;
  }

  static std::vector<RankFile> FilesOf(const RankModel& ranks) {
    std::vector<RankFile> files;
    const convert::MegatronSizes& sizes = ranks.sizes;
    for (std::size_t i = 0; i < ranks.ranks.size(); ++i) {
      files.push_back({ranks.ranks[i].file,
                       {{"tensor_model_parallel_size", sizes.tensor},
                        {"pipeline_model_parallel_size", sizes.pipeline},
                        {"expert_model_parallel_size", sizes.expert},
                        {"expert_tensor_parallel_size", sizes.expert_tensor}},
                       true,
                       {{"model", i}}});
    }
    return files;
  }

  // The values are the numbers of the elements, in F32.
  static std::string Archive(const RankModel& ranks, const RankFile& file) {
    PickleText pickle;
    pickle.Op("}(");
    if (file.has_args) {
      pickle.Text("args").Global("argparse", "Namespace").Op(")\x81}(");
      for (const auto& [name, value] : file.args) pickle.Text(name).Int(value);
      if (file.models.size() < 2) pickle.Text("virtual_pipeline_model_parallel_size").Op("N");
      pickle.Op("ub");
    }
    std::vector<std::pair<std::string, std::string>> storages;
    const auto put = [&](const std::string& name, const formats::Shape& shape,
                         const convert::testing::Elements& elements) {
      TorchTensorText tensor;
      tensor.key = std::to_string(storages.size());
      tensor.storage_elements = static_cast<std::int64_t>(elements.size());
      tensor.shape.assign(shape.begin(), shape.end());
      tensor.strides.assign(shape.size(), 1);
      if (shape.size() == 1) tensor.strides[0] = file.vector_stride;
      tensor.storage_elements *= tensor.strides.back();
      for (std::size_t i = shape.size(); i > 1; --i) {
        tensor.strides[i - 2] = tensor.strides[i - 1] * tensor.shape[i - 1];
      }
      PutTensor(pickle.Text(name), tensor);
      std::string bytes;
      for (const std::uint32_t element : elements) {
        const auto value = static_cast<float>(element);
        bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
        bytes.append(static_cast<std::size_t>(tensor.strides.back() - 1) * sizeof value, '\0');
      }
      storages.emplace_back(tensor.key, bytes);
    };
    for (const auto& [key, rank] : file.models) {
      pickle.Text(key).Op("}(");
      for (std::size_t i = 0; i < ranks.ranks[rank].tensors.size(); ++i) {
        const convert::StackTensor& tensor = ranks.ranks[rank].tensors[i];
        put(tensor.name, tensor.shape, ranks.values[rank][i]);
      }
      pickle.Op("u");
    }
    pickle.Text("iteration").Int(file.iteration).Text("optimizer").Op("}(");
    put("exp_avg", {3}, {1, 2, 3});
    return TorchArchive(pickle.Op("uu").Stop(), storages);
  }

  fs::path WriteFiles(const RankModel& ranks, const std::vector<RankFile>& files,
                      const char* name = "in") {
    fs::remove_all(dir_ / name);
    WriteFile(dir_ / name / "config.json", Config().dump());
    for (const RankFile& file : files) {
      WriteFile(dir_ / name / file.folder / "model_optim_rng.pt", Archive(ranks, file));
    }
    return dir_ / name;
  }
  fs::path Write(const RankModel& ranks, const char* name = "in") {
    return WriteFiles(ranks, FilesOf(ranks), name);
  }

  void ExpectModel(const RankModel& ranks, const fs::path& input) {
    fs::remove_all(dir_ / "out");
    Convert(input, dir_ / "out", {.dtype = convert::TrainDtype::kKeep});
    const std::map<std::string, HeldTensor> found = ReadCheckpoint(dir_ / "out");
    EXPECT_EQ(found.size(), ranks.model.tensors.size());
    for (const auto& [name, tensor] : found) {
      const convert::testing::Elements& expected = ranks.model.values.at(name);
      ASSERT_EQ(tensor.bytes.size(), expected.size() * sizeof(float)) << name;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        float value = 0;
        std::memcpy(&value, tensor.bytes.data() + i * sizeof value, sizeof value);
        ASSERT_EQ(value, static_cast<float>(expected[i])) << name << ' ' << i;
      }
    }
  }

  // The error of converting, which leaves nothing behind.
  Error Refused(const fs::path& input, const convert::TrainToInferOptions& options = {}) {
    const Error error = ErrorOf([&] { Convert(input, dir_ / "out", options); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    EXPECT_FALSE(fs::exists(dir_ / "out"));
    return error;
  }
  Error Refused(const RankModel& ranks, const std::function<void(std::vector<RankFile>&)>& edit) {
    std::vector<RankFile> files = FilesOf(ranks);
    edit(files);
    return Refused(WriteFiles(ranks, files));
  }
};

TEST_F(MegatronRankFilesTest, AreReadAsOneModel) {
  const RankModel ranks = Saved();
  const fs::path in = Write(ranks);
  ExpectModel(ranks, in);
  const convert::OpenedModel model = convert::OpenModel(in);
  EXPECT_EQ(model.training.stack, "megatron");
  EXPECT_EQ(convert::TotalOf(model.training.skipped), 4U);  // the optimizer's
}

TEST_F(MegatronRankFilesTest, ReadTheSecondNumberOfAFolderByTheArguments) {
  for (const auto& [sizes, folder] :
       {std::pair(convert::MegatronSizes{1, 2, 1, 1, 1}, "mp_rank_00_{:03}"),
        std::pair(convert::MegatronSizes{1, 1, 1, 2, 1}, "mp_rank_00_{:03}")}) {
    RankModel ranks(Config(), sizes,
                    std::vector<std::uint64_t>(sizes.pipeline, 2 / sizes.pipeline));
    ranks.Save(true);
    std::vector<RankFile> files = FilesOf(ranks);
    for (std::size_t i = 0; i < files.size(); ++i) {
      files[i].folder = fmt::format(fmt::runtime(folder), i);
    }
    ExpectModel(ranks, WriteFiles(ranks, files));
  }
}

TEST_F(MegatronRankFilesTest, HoldTheirVirtualStagesByNumber) {
  RankModel ranks(Config(), {1, 1, 2, 1, 1}, {1});
  ranks.Save(true);
  std::vector<RankFile> files = FilesOf(ranks);
  files.resize(1);
  files[0].folder = "mp_rank_00";
  files[0].args.emplace_back("virtual_pipeline_model_parallel_size", 2);
  files[0].models = {{"model1", 1}, {"model0", 0}};
  ExpectModel(ranks, WriteFiles(ranks, files));
}

// The disk fails at every change of the run, one after the other; each time the same command goes
// on.
TEST_F(MegatronRankFilesTest, GoWithTheLastShardThatNeedsThemOrTheirCopies) {
  const RankModel ranks = Saved();
  Write(ranks, "saved");
  WriteFile(dir_ / "saved" / "mp_rank_00_000_000" / "distrib_optim.pt", "an optimizer's");
  Conversion conversion = Command(dir_ / "saved", dir_ / "expected", {.shard_bytes = 3000});
  conversion.Run();
  const auto expected = ReadTree(dir_ / "expected");
  conversion.request.run.delete_source_shards = true;
  conversion.request.input = dir_ / "in";
  conversion.request.output = dir_ / "out";
  bool fails = true;
  std::size_t gone_before_the_end = 0;
  for (std::size_t change = 0; fails; ++change) {
    fs::remove_all(dir_ / "in");
    fs::remove_all(dir_ / "out");
    fs::copy(dir_ / "saved", dir_ / "in", fs::copy_options::recursive);
    QuickFileSystem quick;
    FaultyFileSystem faulty(quick, change, EIO, FaultyFileSystem::Failing::kFromThenOn);
    fails = ErrorOf([&] { conversion.Run(faulty); }).code() == ErrorCode::kIo;
    std::size_t there = 0;
    for (const RankFile& file : FilesOf(ranks)) {
      there += fs::exists(dir_ / "in" / file.folder / "model_optim_rng.pt") ? 1 : 0;
    }
    if (fails && there > 0 && there < ranks.ranks.size()) ++gone_before_the_end;
    conversion.Run();
    ASSERT_TRUE(ReadTree(dir_ / "out") == expected) << change;
    std::set<std::string> left;
    for (const auto& [name, content] : ReadTree(dir_ / "in")) {
      if (!name.ends_with('/')) left.insert(name);
    }
    ASSERT_EQ(left, (std::set<std::string>{"config.json", "mp_rank_00_000_000/distrib_optim.pt"}))
        << change;
  }
  // The files of the first pipeline stage go before those of the second one.
  EXPECT_GT(gone_before_the_end, 0U);
}

TEST_F(MegatronRankFilesTest, RejectUnequalCopies) {
  RankModel ranks = Saved();
  for (std::size_t i = 0; i < ranks.ranks[1].tensors.size(); ++i) {
    if (ranks.ranks[1].tensors[i].name.ends_with(".input_layernorm.weight")) {
      ranks.values[1][i].back() += 1;
    }
  }
  const fs::path in = Write(ranks);
  const Error error = Refused(in);
  EXPECT_EQ(error.place().file, "mp_rank_01_000_001/model_optim_rng.pt");
  EXPECT_EQ(error.place().tensor, "model.decoder.layers.0.input_layernorm.weight");
  EXPECT_THAT(error.message(), HasSubstr("mp_rank_00_000_000/model_optim_rng.pt"));
  // As every command that reads values says.
  convert::ProgressSink progress;
  const convert::StopToken stop;
  convert::NumericRequest numeric_request;
  numeric_request.input = in;
  const Error numeric = ErrorOf([&] { convert::VerifyNumeric(numeric_request, progress, stop); });
  EXPECT_EQ(numeric.message(), error.message());
  convert::CompareRequest compare_request;
  compare_request.a = in;
  compare_request.b = in;
  const Error compared =
      ErrorOf([&] { convert::CompareCheckpoints(compare_request, progress, stop); });
  EXPECT_EQ(compared.message(), error.message());
}

TEST_F(MegatronRankFilesTest, RejectACopyThatCannotBeCompared) {
  const Error error = Refused(Saved(), [](auto& files) { files[1].vector_stride = 2; });
  EXPECT_EQ(error.place().file, "mp_rank_01_000_001/model_optim_rng.pt");
  EXPECT_THAT(error.message(), HasSubstr("save it as tensor.contiguous()"));
}

TEST_F(MegatronRankFilesTest, MayHaveViewsOfWhatNoOtherRankHas) {
  RankModel ranks(Config(), {1, 1, 1, 1, 1}, {2});
  ranks.Save(true);
  std::vector<RankFile> files = FilesOf(ranks);
  files[0].folder = "mp_rank_00";
  files[0].vector_stride = 2;
  ExpectModel(ranks, WriteFiles(ranks, files));
}

TEST_F(MegatronRankFilesTest, RejectAMissingRankByName) {
  const RankModel ranks = Saved();
  EXPECT_THAT(Refused(ranks, [](auto& files) { files.erase(files.begin() + 3); }).message(),
              HasSubstr("pipeline rank 1: no file holds the slice of tensor parallel rank 1 of 2"));
  EXPECT_THAT(Refused(ranks, [](auto& files) { files.resize(2); }).message(),
              HasSubstr("no file is of pipeline rank 1"));
  RankModel experts(Config(), {1, 1, 1, 2, 1}, {2});
  experts.Save(true);
  EXPECT_THAT(Refused(experts,
                      [](auto& files) {
                        files.resize(1);
                        files[0].folder = "mp_rank_00_000";
                      })
                  .message(),
              HasSubstr("no file holds the experts of expert parallel rank 1 of 2"));
}

TEST_F(MegatronRankFilesTest, RejectSlicesOfDifferentShapes) {
  RankModel ranks = Saved();
  for (std::size_t i = 0; i < ranks.ranks[1].tensors.size(); ++i) {
    convert::StackTensor& tensor = ranks.ranks[1].tensors[i];
    if (!tensor.name.ends_with(".linear_proj.weight")) continue;
    tensor.shape[1] -= 1;
    ranks.values[1][i].resize(tensor.shape[0] * tensor.shape[1]);
  }
  const Error error = Refused(Write(ranks));
  EXPECT_EQ(error.place().file, "mp_rank_01_000_001/model_optim_rng.pt");
  EXPECT_THAT(error.message(), HasSubstr("ranks have slices of equal shapes"));
}

TEST_F(MegatronRankFilesTest, RejectFilesWithoutTheArgumentsOfTheTraining) {
  const RankModel ranks = Saved();
  const Error error = Refused(ranks, [](auto& files) { files[2].has_args = false; });
  EXPECT_EQ(error.place().file, "mp_rank_00_001_000/model_optim_rng.pt");
  EXPECT_THAT(error.message(), HasSubstr("--ckpt-convert-format torch_dist"));
  EXPECT_THAT(
      Refused(ranks, [](auto& files) { files[0].args.erase(files[0].args.begin()); }).message(),
      HasSubstr("its arguments (args) lack tensor_model_parallel_size"));
  EXPECT_THAT(Refused(ranks, [](auto& files) { files[0].args[0].second = -1; }).message(),
              HasSubstr("tensor_model_parallel_size is -1, expected a number of ranks"));
}

TEST_F(MegatronRankFilesTest, RejectFilesOfTwoTrainings) {
  const Error error = Refused(Saved(), [](auto& files) { files[1].args[2].second = 4; });
  EXPECT_EQ(error.place().file, "mp_rank_01_000_001/model_optim_rng.pt");
  EXPECT_THAT(error.message(), HasSubstr("it was saved by ranks of the sizes"));
}

// What ranks of two stages hold need not overlap, so that no copies differ.
TEST_F(MegatronRankFilesTest, RejectFilesOfTwoIterations) {
  const Error error = Refused(Saved(), [](auto& files) { files[3].iteration = 8; });
  EXPECT_EQ(error.place().file, "mp_rank_01_001_001/model_optim_rng.pt");
  EXPECT_THAT(error.message(),
              HasSubstr("it is of iteration 8, but mp_rank_00_000_000/model_optim_rng.pt of "
                        "iteration 7"));
}

TEST_F(MegatronRankFilesTest, RejectAFolderWhoseNameDoesNotFitTheArguments) {
  for (const char* name : {"mp_rank_00", "mp_rank_00_000", "mp_rank_00_000_000_000",
                           "mp_rank_00_00a_000", "mp_rank_", "mp_rank_00_000_"}) {
    EXPECT_THAT(Refused(Saved(), [&](auto& files) { files[0].folder = name; }).message(),
                HasSubstr("the numbers of its tensor, pipeline and expert rank"))
        << name;
  }
}

TEST_F(MegatronRankFilesTest, RejectAFileWithoutWeights) {
  const Error error = Refused(Saved(), [](auto& files) { files[1].models.clear(); });
  EXPECT_THAT(error.message(), HasSubstr("it holds no weights (model)"));
}

TEST_F(MegatronRankFilesTest, AreOfNoOtherStack) {
  const fs::path in = Write(Saved());
  EXPECT_THAT(Refused(in, {.from = convert::Stack::kTorchtitan}).message(),
              HasSubstr("say --from megatron"));
}

}  // namespace
}  // namespace dsv3::testing
