#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "convert/plan/plan.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/panel_expression.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::MemorySource;
using testing::TinyCheckpoint;

// `mask` bytes decide whether what comes behind all others is aligned.
TinyCheckpoint Tensors(std::uint64_t mask) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("s", "w", Dtype::kBF16, {8, 6});
  checkpoint.Add("s", "bias", Dtype::kF32, {3});
  checkpoint.Add("s", "mask", Dtype::kBool, {mask});
  checkpoint.Add("t", "foretold", Dtype::kF32, {2, 3});
  return checkpoint;
}

NamedExpressions Expressions(const Catalog& catalog, bool expected, std::uint64_t panel_rows = 4) {
  NamedExpressions named;
  for (const char* const name : {"bias", "mask"}) {
    named.emplace_back(name, Copy(catalog, catalog.Find(name)));
  }
  testing::Panels panels = {catalog.Find("w"), panel_rows, 2, std::nullopt};
  if (expected) panels.expected_sums = catalog.Find("foretold");
  testing::PanelExpressions made = testing::MakePanels(catalog, panels);
  named.emplace_back("w", std::move(made.value));
  named.emplace_back("w_sums", std::move(made.sums));
  return named;
}

std::vector<std::string> Names(const PlannedFile& file) {
  std::vector<std::string> names;
  for (const PlannedTensor& tensor : file.tensors) names.push_back(tensor.entry.name);
  return names;
}

TEST(ByProductPlanTest, ByProductsGoBehindWhereTheyAreAligned) {
  const MemorySource source(Tensors(4));
  const PlannedFile file = PlanFile("f", Expressions(source.catalog(), false));
  EXPECT_EQ(Names(file), (std::vector<std::string>{"bias", "w", "mask", "w_sums"}));
  EXPECT_EQ(file.tensors[3].entry.offset, 12U + 48 + 4);
  EXPECT_EQ(file.bytes, file.data_offset + 12 + 48 + 4 + 24);
  EXPECT_EQ(file.tensors[1].by_product, 3U);
  EXPECT_EQ(file.tensors[3].maker, 1U);
  EXPECT_EQ(file.tensors[0].by_product, PlannedTensor::kNone);
  EXPECT_EQ(file.tensors[0].maker, PlannedTensor::kNone);
  const std::string header = FileHeader(file);
  const formats::SafetensorsHeader read =
      formats::ParseSafetensorsHeader(testing::AsBytes(header), file.bytes, "f");
  EXPECT_TRUE(read.nonconformities.empty());
}

TEST(ByProductPlanTest, ByProductsStayInTheReferenceOrderWhereTheyAreNot) {
  const MemorySource source(Tensors(3));
  const PlannedFile file = PlanFile("f", Expressions(source.catalog(), false));
  EXPECT_EQ(Names(file), (std::vector<std::string>{"bias", "w_sums", "w", "mask"}));
  EXPECT_EQ(file.tensors[2].by_product, 1U);
  EXPECT_EQ(file.tensors[1].maker, 2U);
}

TEST(ByProductPlanTest, ExpectedByProductsStayInTheReferenceOrder) {
  const MemorySource source(Tensors(4));
  const PlannedFile file = PlanFile("f", Expressions(source.catalog(), true));
  EXPECT_EQ(Names(file), (std::vector<std::string>{"bias", "w_sums", "w", "mask"}));
}

TEST(ByProductPlanTest, MakerAndByProductBelongTogether) {
  const MemorySource source(Tensors(4));
  for (const std::size_t missing : {2U, 3U}) {
    NamedExpressions named = Expressions(source.catalog(), false);
    // Both must live until the file is planned.
    const auto dropped = std::move(named[missing]);
    named.erase(named.begin() + static_cast<std::ptrdiff_t>(missing));
    EXPECT_EQ(testing::ErrorOf([&] { PlanFile("f", std::move(named)); }).code(),
              ErrorCode::kInternal);
  }
}

class GivenHeader : public ::testing::Test {
 protected:
  // Codes before bias, other metadata, padding that nobody else writes.
  std::string Header() const {
    std::string text = R"({"w":{"dtype":"U8","shape":[8,6],"data_offsets":[0,48]},)"
                       R"("__metadata__":{"made":"elsewhere"},)"
                       R"("mask":{"dtype":"BOOL","shape":[4],"data_offsets":[48,52]},)"
                       R"("w_sums":{"dtype":"F32","shape":[2,3],"data_offsets":[52,76]},)"
                       R"("bias":{"dtype":"F32","shape":[3],"data_offsets":[76,88]}}   )";
    std::string header(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) header[i] = static_cast<char>(text.size() >> (8 * i));
    return header + text;
  }
  formats::SafetensorsHeader Parse(const std::string& header) const {
    return formats::ParseSafetensorsHeader(testing::AsBytes(header), header.size() + 88, "f");
  }
  MemorySource source_{Tensors(4)};
};

TEST_F(GivenHeader, IsTakenByteForByte) {
  const std::string header = Header();
  const PlannedFile file =
      PlanFileLike("f", header, Parse(header), Expressions(source_.catalog(), true));
  EXPECT_EQ(FileHeader(file), header);
  EXPECT_EQ(file.data_offset, header.size());
  EXPECT_EQ(file.bytes, header.size() + 88);
  EXPECT_EQ(file.header_digest, formats::Xxh3Hex(testing::AsBytes(header)));
  EXPECT_EQ(Names(file), (std::vector<std::string>{"w", "mask", "w_sums", "bias"}));
  EXPECT_EQ(file.tensors[0].by_product, 2U);
  EXPECT_EQ(file.tensors[2].maker, 0U);
  EXPECT_EQ(file.tensors[3].entry.offset, 76U);
}

TEST_F(GivenHeader, MustBeThatOfTheTensors) {
  const std::string header = Header();
  const formats::SafetensorsHeader parsed = Parse(header);
  const auto refuses = [&](const std::string& bytes, const formats::SafetensorsHeader& given,
                           NamedExpressions tensors) {
    return testing::ErrorOf([&] { PlanFileLike("f", bytes, given, std::move(tensors)); }).code() ==
           ErrorCode::kInternal;
  };
  EXPECT_TRUE(refuses(header + " ", parsed, Expressions(source_.catalog(), true)));
  NamedExpressions renamed = Expressions(source_.catalog(), true);
  renamed[0].first = "other";
  EXPECT_TRUE(refuses(header, parsed, std::move(renamed)));
  NamedExpressions fewer = Expressions(source_.catalog(), true);
  fewer.erase(fewer.begin());
  EXPECT_TRUE(refuses(header, parsed, std::move(fewer)));
  formats::SafetensorsHeader other_shape = parsed;
  other_shape.tensors[1].shape = {2, 2};
  EXPECT_TRUE(refuses(header, other_shape, Expressions(source_.catalog(), true)));
  formats::SafetensorsHeader other_dtype = parsed;
  other_dtype.tensors[1].dtype = Dtype::kU8;
  EXPECT_TRUE(refuses(header, other_dtype, Expressions(source_.catalog(), true)));
}

TEST(ByProductPlanTest, TheFingerprintKnowsWhatIsExpectedAndOfWhichCheckpoint) {
  const MemorySource source(Tensors(4));
  const auto fingerprint = [&](const Catalog& catalog, std::uint32_t bias, bool expected) {
    Plan plan;
    NamedExpressions named = Expressions(source.catalog(), expected);
    named[0].second = Copy(catalog, bias);
    plan.files.push_back(PlanFile("f", std::move(named)));
    return PlanFingerprint(plan, catalog);
  };
  Catalog both(source.catalog().files(), source.catalog().tensors());
  both.Append(Catalog(source.catalog().files(), source.catalog().tensors()), "scales-from");
  const std::string first = fingerprint(both, both.Find("bias"), true);
  EXPECT_EQ(fingerprint(source.catalog(), both.Find("bias"), true), first);
  EXPECT_NE(fingerprint(both, both.FindAppended("bias"), true), first);
  EXPECT_NE(fingerprint(both, both.Find("bias"), false), first);
}

TEST(ByProductPlanTest, TheFingerprintKnowsParametersOfRules) {
  const MemorySource source(Tensors(4));
  const auto fingerprint = [&](std::uint64_t panel_rows) {
    Plan plan;
    plan.files.push_back(PlanFile("f", Expressions(source.catalog(), false, panel_rows)));
    return PlanFingerprint(plan, source.catalog());
  };
  // Sums of the same shape.
  EXPECT_NE(fingerprint(4), fingerprint(5));
}

}  // namespace
}  // namespace dsv3::convert
