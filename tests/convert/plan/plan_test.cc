#include "convert/plan/plan.h"

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "convert/plan/assemble_expression.h"
#include "convert/plan/dequantize_expression.h"
#include "convert/plan/gguf_file.h"
#include "convert/plan/slice_expression.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"
#include "formats/safetensors.h"
#include "tests/convert/support/aligned_container.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::MemorySource;
using testing::TinyCheckpoint;

TinyCheckpoint Tensors() {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "b.flag", Dtype::kBool, {3});
  checkpoint.Add("s", "w", Dtype::kF8E4M3, {5, 9});
  checkpoint.AddScale("s", "w_scale_inv", Dtype::kF32, {2, 2});
  checkpoint.AddScale("s", "other_scale", Dtype::kF32, {2, 2});
  checkpoint.Add("s", "ids", Dtype::kI64, {2});
  checkpoint.Add("s", "a", Dtype::kBF16, {4});
  checkpoint.Add("s", "z", Dtype::kBF16, {4});
  checkpoint.Add("s", "nothing", Dtype::kF32, {0});
  return checkpoint;
}

using Named = std::vector<std::pair<std::string, ExpressionPtr>>;

Named Expressions(const Catalog& catalog) {
  Named named;
  for (const char* name : {"b.flag", "a", "ids", "nothing"}) {
    named.emplace_back(name, Copy(catalog, catalog.Find(name)));
  }
  named.emplace_back("w",
                     Dequantize(catalog, testing::MatrixPair(catalog, catalog.Find("w"),
                                                             catalog.Find("w_scale_inv"), {4, 8})));
  return named;
}

TEST(PlanFileTest, FollowsTheReferenceWritersOrderAndOffsets) {
  const MemorySource source(Tensors());
  const PlannedFile file = PlanFile("f.safetensors", Expressions(source.catalog()));
  std::vector<std::string> names;
  std::uint64_t position = 0;
  for (const PlannedTensor& tensor : file.tensors) {
    names.push_back(tensor.entry.name);
    EXPECT_EQ(tensor.entry.offset, position) << tensor.entry.name;
    position = tensor.entry.end();
    EXPECT_EQ(tensor.entry.bytes, tensor.expression->num_bytes());
    EXPECT_EQ(tensor.entry.dtype, tensor.expression->dtype());
    EXPECT_EQ(tensor.entry.shape, tensor.expression->shape());
  }
  // By dtype: I64, F32, BF16 (w is one now), BOOL; then by name.
  EXPECT_EQ(names, (std::vector<std::string>{"ids", "nothing", "a", "w", "b.flag"}));
  EXPECT_EQ(file.bytes, file.data_offset + position);
}

TEST(PlanFileTest, HeaderIsTheSerializersAndReadsBackAsThePlan) {
  const MemorySource source(Tensors());
  const PlannedFile file = PlanFile("f.safetensors", Expressions(source.catalog()));
  std::vector<formats::SafetensorsTensor> entries;
  for (const PlannedTensor& tensor : file.tensors) {
    const TensorEntry& entry = tensor.entry;
    entries.push_back({entry.name, entry.dtype, entry.shape, entry.offset, entry.end()});
  }
  const std::string header = FileHeader(file);
  EXPECT_EQ(header, formats::SerializeSafetensorsHeader(entries, {{"format", "pt"}}));
  EXPECT_EQ(header.size(), file.data_offset);
  EXPECT_EQ(formats::Xxh3Hex(testing::AsBytes(header)), file.header_digest);

  const formats::SafetensorsHeader read =
      formats::ParseSafetensorsHeader(testing::AsBytes(header), file.bytes, "f.safetensors");
  EXPECT_EQ(read.data_offset, file.data_offset);
  EXPECT_EQ(read.file_bytes, file.bytes);
  EXPECT_EQ(read.digest, file.header_digest);
  EXPECT_EQ(read.tensors.size(), file.tensors.size());
}

TEST(PlanFileTest, PlacesTensorsAsTheContainerDoes) {
  const MemorySource source(Tensors());
  const PlannedFile file =
      PlanFile("f.aligned", Expressions(source.catalog()), {}, testing::AlignedContainer::Get());
  std::uint64_t end = 0;
  std::uint64_t bytes = 0;
  for (const PlannedTensor& tensor : file.tensors) {
    EXPECT_EQ(tensor.entry.offset, formats::AlignUp(end, 32)) << tensor.entry.name;
    EXPECT_EQ(tensor.entry.bytes, tensor.expression->num_bytes()) << tensor.entry.name;
    end = tensor.entry.end();
    bytes += tensor.entry.bytes;
  }
  EXPECT_EQ(FileHeader(file), "aligned 5" + std::string(23, ' '));
  EXPECT_EQ(file.data_offset, 32U);
  EXPECT_EQ(file.bytes, 32 + end);
  EXPECT_EQ(TensorBytes(file), bytes);
  EXPECT_LT(bytes, end) << "there are gaps";
}

TEST(ContainerTest, IsKnownByTheSuffix) {
  EXPECT_EQ(ContainerOf("model-00001-of-00002.safetensors"), &Safetensors());
  EXPECT_EQ(ContainerOf("model.safetensors.index.json"), nullptr);
  EXPECT_EQ(ContainerOf("model.gguf"), &Gguf());
}

TEST(ContainerTest, ReadsTheHeaderOfASafetensorsFile) {
  const MemorySource source(Tensors());
  const PlannedFile file = PlanFile("f.safetensors", Expressions(source.catalog()));
  const testing::TempDir dir;
  testing::WriteFile(dir / file.name, FileHeader(file) + std::string(TensorBytes(file), 'x'));
  const ContainerHeader header = Safetensors().ReadHeader(dir / file.name, file.name);
  EXPECT_EQ(header.data_offset, file.data_offset);
  EXPECT_EQ(header.digest, file.header_digest);
  ASSERT_EQ(header.tensors.size(), file.tensors.size());
  for (std::size_t i = 0; i < header.tensors.size(); ++i) {
    EXPECT_EQ(header.tensors[i].name, file.tensors[i].entry.name);
    EXPECT_EQ(header.tensors[i].dtype, file.tensors[i].entry.dtype);
    EXPECT_EQ(header.tensors[i].shape, file.tensors[i].entry.shape);
    EXPECT_EQ(header.tensors[i].offset, file.tensors[i].entry.offset);
    EXPECT_EQ(header.tensors[i].bytes, file.tensors[i].entry.bytes);
  }
}

TEST(PlanFileTest, FileWithoutBytesIsItsHeader) {
  const MemorySource source(Tensors());
  Named named;
  named.emplace_back("nothing", Copy(source.catalog(), source.catalog().Find("nothing")));
  const PlannedFile file = PlanFile("f.safetensors", std::move(named));
  EXPECT_EQ(file.bytes, file.data_offset);
}

Plan MakePlan(const Catalog& catalog) {
  Plan plan;
  plan.recipe = "recipe";
  plan.options = {{"option", "true"}};
  plan.files.push_back(PlanFile("f.safetensors", Expressions(catalog)));
  plan.side_files = {{"config.json", {}, "{}"}, {"README.md", "/source/README.md", {}}};
  return plan;
}

TEST(PlanFingerprintTest, DiffersWithEverythingThatDecidesBytes) {
  const MemorySource source(Tensors());
  const Catalog& catalog = source.catalog();
  const std::string original = PlanFingerprint(MakePlan(catalog), catalog);
  const std::vector<std::function<void(Plan&)>> changes = {
      [](Plan& plan) { plan.recipe = "another"; },
      [](Plan& plan) { plan.options[0].json = "false"; },
      [](Plan& plan) { plan.options[0].name = "another"; },
      [](Plan& plan) {
        plan.options.push_back({"more", "1"});
      },
      [](Plan& plan) { plan.files[0].name = "g.safetensors"; },
      [](Plan& plan) { plan.side_files[0].content = "{ }"; },
      [](Plan& plan) { plan.side_files[1].name = "LICENSE"; },
      [](Plan& plan) { plan.side_files.pop_back(); },
      [&](Plan& plan) {  // another source of the same shape
        Named named = Expressions(catalog);
        named[1].second = Copy(catalog, catalog.Find("z"));
        plan.files[0] = PlanFile("f.safetensors", std::move(named));
      },
      [&](Plan& plan) {  // another scale
        Named named = Expressions(catalog);
        named[4].second = Dequantize(
            catalog,
            testing::MatrixPair(catalog, catalog.Find("w"), catalog.Find("other_scale"), {4, 8}));
        plan.files[0] = PlanFile("f.safetensors", std::move(named));
      },
      [&](Plan& plan) {  // another name
        Named named = Expressions(catalog);
        named[1].first = "renamed";
        plan.files[0] = PlanFile("f.safetensors", std::move(named));
      },
  };
  std::set<std::string> fingerprints = {original};
  for (const auto& change : changes) {
    Plan plan = MakePlan(catalog);
    change(plan);
    fingerprints.insert(PlanFingerprint(plan, catalog));
  }
  EXPECT_EQ(fingerprints.size(), changes.size() + 1);
}

// Tensors that are cut out of others, and put together: every source of theirs takes part.
TEST(PlanFingerprintTest, DiffersWithBoxesOriginsAndTheirSources) {
  const MemorySource source(Tensors());
  const Catalog& catalog = source.catalog();
  const std::uint32_t a = catalog.Find("a");
  const std::uint32_t z = catalog.Find("z");
  const auto put_together = [&](std::uint32_t first, std::uint32_t second) {
    return Assemble(catalog, "both", Dtype::kBF16, {8},
                    {{{0, 4, 0, 1}, first, 0, 0}, {{4, 8, 0, 1}, second, 0, 0}});
  };
  const auto slice = [](ExpressionPtr origin, std::uint64_t row) {
    return std::make_shared<SliceExpression>(
        Dtype::kBF16, formats::Shape{2},
        std::vector<SlicePart>{{std::move(origin), {row, row + 1, 0, 1}}});
  };
  const std::vector<ExpressionPtr> expressions = {
      slice(Copy(catalog, a), 0),          slice(Copy(catalog, z), 0),
      slice(Copy(catalog, a), 1),          slice(put_together(a, z), 0),
      slice(put_together(z, a), 0),        slice(put_together(a, a), 0),
      slice(slice(Copy(catalog, a), 0), 0)};
  std::set<std::string> fingerprints;
  const auto fingerprint = [&](const ExpressionPtr& expression) {
    Plan plan;
    plan.files.push_back(PlanFile("f", {{"t", expression}}));
    return PlanFingerprint(plan, catalog);
  };
  for (const ExpressionPtr& expression : expressions) fingerprints.insert(fingerprint(expression));
  EXPECT_EQ(fingerprints.size(), expressions.size());
  EXPECT_NE(fingerprint(put_together(a, z)), fingerprint(put_together(a, a)));
  // Whether slices share an origin is no part of the job.
  const ExpressionPtr shared = put_together(a, z);
  const auto two = [&](const ExpressionPtr& first, const ExpressionPtr& second) {
    Plan plan;
    plan.files.push_back(PlanFile("f", {{"t", slice(first, 0)}, {"u", slice(second, 1)}}));
    return PlanFingerprint(plan, catalog);
  };
  EXPECT_EQ(two(shared, shared), two(put_together(a, z), put_together(a, z)));
}

TEST(PlanFingerprintTest, DoesNotDependOnPlacesOrOrderOfTensors) {
  const MemorySource source(Tensors());
  const Catalog& catalog = source.catalog();
  const std::string original = PlanFingerprint(MakePlan(catalog), catalog);
  Plan plan = MakePlan(catalog);
  plan.side_files[1].source = "/elsewhere/README.md";
  Named named = Expressions(catalog);
  std::swap(named.front(), named.back());
  plan.files[0] = PlanFile("f.safetensors", std::move(named));
  EXPECT_EQ(PlanFingerprint(plan, catalog), original);
}

}  // namespace
}  // namespace dsv3::convert
