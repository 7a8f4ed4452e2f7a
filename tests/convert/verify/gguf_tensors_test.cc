// The tensors that a GGUF file's keys predict.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/verify/numeric.h"
#include "convert/verify/structure.h"
#include "formats/error.h"
#include "tests/convert/recipes/to_gguf_test.h"
#include "tests/formats/support/gguf_maker.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::SamplePreset;
using formats::Finding;
using formats::Findings;
using formats::GgufType;
using formats::Severity;
using formats::Shape;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class GgufTensorsTest : public ToGgufTest {
 protected:
  fs::path Made(SamplePreset preset, std::optional<convert::GgufMtp> mtp = std::nullopt) {
    MakeSample(preset, 1, dir_ / "in");
    Command(dir_ / "in", dir_ / "m.gguf", GgufType::kBF16, {.mtp = mtp, .no_tokenizer = true})
        .Run();
    return dir_ / "m.gguf";
  }

  // The findings of numeric for the file, after `edit` of its keys and tensors.
  static Findings Judged(const fs::path& path,
                         const std::function<void(GgufMaker&)>& edit = nullptr) {
    fs::path judged = path;
    if (edit) {
      File file = ReadGguf(path);
      GgufMaker maker;
      maker.keys = file.header.keys;
      for (formats::GgufTensor& tensor : file.header.tensors) {
        maker.Add(tensor.name, tensor.type, tensor.shape, file.bytes.at(tensor.name));
      }
      edit(maker);
      judged = path.parent_path() / "edited.gguf";
      maker.Write(judged);
    }
    convert::NumericRequest request;
    request.input = judged;
    convert::ProgressSink progress;
    const convert::StopToken stop;
    return VerifyNumeric(request, progress, stop).verification.findings;
  }

  // BF16 weights that are not all equal.
  static std::string Weights(std::size_t count) {
    std::string bytes(2 * count, '\x3c');
    for (std::size_t i = 0; i < count; ++i) {
      bytes[2 * i] = static_cast<char>(i * 37 % 251);
      if (i % 3 == 0) bytes[2 * i + 1] = '\xbc';
    }
    return bytes;
  }

  static void Drop(GgufMaker& maker, std::string_view name) {
    const auto found = std::find_if(maker.tensors.begin(), maker.tensors.end(),
                                    [&](const auto& tensor) { return tensor.name == name; });
    if (found == maker.tensors.end()) throw std::out_of_range(std::string(name));
    maker.bytes.erase(maker.bytes.begin() + (found - maker.tensors.begin()));
    maker.tensors.erase(found);
  }
  static formats::GgufValue& KeyOf(GgufMaker& maker, std::string_view name) {
    const auto found = std::find_if(maker.keys.begin(), maker.keys.end(),
                                    [&](const auto& key) { return key.first == name; });
    if (found == maker.keys.end()) throw std::out_of_range(std::string(name));
    return found->second;
  }
  static void DropKey(GgufMaker& maker, std::string_view name) {
    std::erase_if(maker.keys, [&](const auto& key) { return key.first == name; });
  }

  // The one finding.
  static Finding One(const Findings& findings) {
    EXPECT_EQ(findings.size(), 1U);
    for (std::size_t i = 1; i < findings.size(); ++i) ADD_FAILURE() << findings[i].message;
    return findings.empty() ? Finding() : findings.front();
  }
};

TEST_F(GgufTensorsTest, SoundFilesOfEveryArchitectureHaveAllTensors) {
  using convert::GgufMtp;
  for (const SamplePreset preset :
       {SamplePreset::kTiny, SamplePreset::kTinyKimi, SamplePreset::kV2Lite,
        SamplePreset::kMoonlight, SamplePreset::kV32, SamplePreset::kGlm5, SamplePreset::kV4}) {
    SCOPED_TRACE(static_cast<int>(preset));
    EXPECT_THAT(Judged(Made(preset)), IsEmpty());
    fs::remove_all(dir_ / "in");
    fs::remove(dir_ / "m.gguf");
  }
  EXPECT_THAT(Judged(Made(SamplePreset::kTiny, GgufMtp::kKeep)), IsEmpty());
}

TEST_F(GgufTensorsTest, StructureJudgesThemToo) {
  const fs::path path = Made(SamplePreset::kTiny);
  convert::StructureReport report = convert::VerifyStructure({.input = path});
  EXPECT_THAT(report.verification.findings, IsEmpty());
  EXPECT_THAT(report.verification.files, ::testing::ElementsAre("m.gguf"));
  EXPECT_TRUE(report.is_gguf);
  EXPECT_TRUE(report.known_model);
  EXPECT_EQ(report.model_type, "deepseek2");
  const File file = ReadGguf(path);
  EXPECT_EQ(report.tensors, file.header.tensors.size());
  EXPECT_GT(report.expected_tensors, report.tensors);  // experts one by one
  std::uint64_t bytes = 0;
  for (const formats::GgufTensor& tensor : file.header.tensors) bytes += tensor.bytes;
  EXPECT_EQ(report.tensor_bytes, bytes);
  Judged(path, [](GgufMaker& maker) { Drop(maker, "blk.2.attn_norm.weight"); });
  report = convert::VerifyStructure({.input = dir_ / "edited.gguf"});
  EXPECT_EQ(One(report.verification.findings).tensor, "blk.2.attn_norm.weight");
  Judged(path,
         [](GgufMaker& maker) { KeyOf(maker, "general.architecture") = std::string("another"); });
  report = convert::VerifyStructure({.input = dir_ / "edited.gguf"});
  EXPECT_FALSE(report.known_model);
  EXPECT_THAT(report.verification.findings, IsEmpty());
  EXPECT_EQ(ErrorOf([&] {
              convert::VerifyStructure({.input = path, .config = dir_ / "in" / "config.json"});
            }).code(),
            ErrorCode::kUsage);
}

TEST_F(GgufTensorsTest, FindsMissingTensors) {
  const fs::path path = Made(SamplePreset::kTiny);
  for (const std::string name :
       {"blk.1.ffn_up_exps.weight", "blk.2.attn_norm.weight", "blk.0.ffn_down.weight",
        "blk.3.exp_probs_b.bias", "token_embd.weight", "output_norm.weight"}) {
    const Finding finding = One(Judged(path, [&](GgufMaker& maker) { Drop(maker, name); }));
    EXPECT_EQ(finding.severity, Severity::kError);
    EXPECT_EQ(finding.kind, "missing-tensor");
    EXPECT_EQ(finding.tensor, name);
    EXPECT_THAT(finding.message, HasSubstr("edited.gguf: a tensor that the keys (deepseek2) "
                                           "predict is missing: '" +
                                           name + "'"));
  }
  const Finding both = One(Judged(path, [](GgufMaker& maker) {
    Drop(maker, "blk.0.attn_k_b.weight");
    Drop(maker, "blk.0.attn_v_b.weight");
  }));
  EXPECT_THAT(both.message, HasSubstr("'blk.0.attn_k_b.weight', 'blk.0.attn_v_b.weight'"));
  const Finding layer = One(Judged(path, [](GgufMaker& maker) {
    for (std::size_t i = maker.tensors.size(); i-- > 0;) {
      if (maker.tensors[i].name.starts_with("blk.3.")) Drop(maker, maker.tensors[i].name);
    }
  }));
  EXPECT_THAT(layer.message, HasSubstr("1 × 'blk.*."));
}

TEST_F(GgufTensorsTest, FindsTensorsThatRelativesLack) {
  const Finding indexer = One(Judged(Made(SamplePreset::kV32), [](GgufMaker& maker) {
    Drop(maker, "blk.4.indexer.k_norm.bias");
  }));
  EXPECT_EQ(indexer.tensor, "blk.4.indexer.k_norm.bias");
  fs::remove_all(dir_ / "in");
  fs::remove(dir_ / "m.gguf");
  const fs::path v4 = Made(SamplePreset::kV4);
  for (const std::string name : {"blk.0.ffn_gate_tid2eid.weight", "output_hc_fn.weight",
                                 "blk.4.ffn_down_exps.weight", "blk.1.attn_sinks.weight"}) {
    const Finding finding = One(Judged(v4, [&](GgufMaker& maker) { Drop(maker, name); }));
    EXPECT_EQ(finding.tensor, name) << finding.message;
    EXPECT_EQ(finding.kind, "missing-tensor");
  }
  const Finding head = One(Judged(v4, [](GgufMaker& maker) { Drop(maker, "output.weight"); }));
  EXPECT_EQ(head.severity, Severity::kError);
}

TEST_F(GgufTensorsTest, AHeadMayBeTheEmbedding) {
  const Finding finding = One(
      Judged(Made(SamplePreset::kTiny), [](GgufMaker& maker) { Drop(maker, "output.weight"); }));
  EXPECT_EQ(finding.severity, Severity::kWarning);
  EXPECT_EQ(finding.tensor, "output.weight");
}

TEST_F(GgufTensorsTest, FindsWrongShapes) {
  const fs::path path = Made(SamplePreset::kTiny);
  const auto shape_of = [](GgufMaker& maker, const std::string& name) {
    return std::find_if(maker.tensors.begin(), maker.tensors.end(),
                        [&](const auto& tensor) { return tensor.name == name; })
        ->shape;
  };
  // One expert is gone: once, however many matrices it has.
  const std::string stack = "blk.2.ffn_gate_exps.weight";
  const Finding expert = One(Judged(path, [&](GgufMaker& maker) {
    Shape shape = shape_of(maker, stack);
    ASSERT_EQ(shape, (Shape{8, 80, 256}));
    Drop(maker, stack);
    maker.Add(stack, GgufType::kBF16, {7, 80, 256}, Weights(std::size_t{7} * 80 * 256));
  }));
  EXPECT_EQ(expert.kind, "wrong-shape");
  EXPECT_EQ(expert.tensor, stack);
  EXPECT_THAT(expert.message, HasSubstr("has shape [7, 80, 256], and the keys (deepseek2) predict "
                                        "[8, 80, 256]"));
  const Findings heads = Judged(path, [](GgufMaker& maker) {
    KeyOf(maker, "deepseek2.attention.head_count") = std::uint32_t{3};
  });
  ASSERT_FALSE(heads.empty());
  for (const Finding& finding : heads) EXPECT_EQ(finding.kind, "wrong-shape") << finding.message;
  EXPECT_TRUE(std::any_of(heads.begin(), heads.end(), [](const Finding& finding) {
    return finding.tensor == "blk.0.attn_k_b.weight";
  }));
  // Not three dimensions, so that it is no stack.
  const Findings flat = Judged(path, [&](GgufMaker& maker) {
    Drop(maker, stack);
    maker.Add(stack, GgufType::kBF16, {8 * 80, 256}, Weights(std::size_t{8} * 80 * 256));
  });
  EXPECT_EQ(One(flat).kind, "wrong-shape");
}

TEST_F(GgufTensorsTest, KeysOfNoModelPredictNothing) {
  const fs::path path = Made(SamplePreset::kTiny);
  const Finding layers = One(Judged(path, [](GgufMaker& maker) {
    KeyOf(maker, "deepseek2.block_count") = std::uint32_t{4'000'000'000};
  }));
  EXPECT_EQ(layers.kind, "bad-key");
  EXPECT_EQ(layers.severity, Severity::kError);
  EXPECT_THAT(layers.message, HasSubstr("with 4000000000 layers of 8 experts"));
  const Finding rope = One(Judged(path, [](GgufMaker& maker) {
    KeyOf(maker, "deepseek2.rope.dimension_count") = std::uint32_t{1000};
  }));
  EXPECT_THAT(rope.message, HasSubstr("deepseek2.rope.dimension_count is more than"));
  const Finding mtp = One(Judged(path, [](GgufMaker& maker) {
    maker.Key("deepseek2.nextn_predict_layers", std::uint32_t{5});
  }));
  EXPECT_THAT(mtp.message, HasSubstr("nextn_predict_layers is more than deepseek2.block_count"));
  const Finding missing = One(Judged(path, [](GgufMaker& maker) {
    DropKey(maker, "deepseek2.block_count");
    DropKey(maker, "deepseek2.attention.kv_lora_rank");
    Drop(maker, "blk.1.attn_norm.weight");
  }));
  EXPECT_EQ(missing.kind, "missing-key");
  EXPECT_EQ(missing.severity, Severity::kWarning);
  EXPECT_THAT(missing.message, HasSubstr("the keys deepseek2.block_count, "
                                         "deepseek2.attention.kv_lora_rank are missing"));
}

// Before llama.cpp took MLA as one head, kv_b_proj was whole and the keys said the heads' sizes.
TEST_F(GgufTensorsTest, TakesTheFormBeforeKeysAndValuesWereApart) {
  const fs::path path = Made(SamplePreset::kTiny);
  const auto as_before = [](GgufMaker& maker) {
    for (const std::string block : {"0", "1", "2", "3"}) {
      Drop(maker, "blk." + block + ".attn_k_b.weight");
      Drop(maker, "blk." + block + ".attn_v_b.weight");
      maker.Add("blk." + block + ".attn_kv_b.weight", GgufType::kBF16, {2 * (64 + 64), 512},
                Weights(std::size_t{2} * 128 * 512));
    }
    for (const std::string key : {"key_length", "value_length"}) {
      KeyOf(maker, "deepseek2.attention." + key) =
          KeyOf(maker, "deepseek2.attention." + key + "_mla");
      DropKey(maker, "deepseek2.attention." + key + "_mla");
    }
  };
  EXPECT_THAT(Judged(path, as_before), IsEmpty());
  const Finding finding = One(Judged(path, [&](GgufMaker& maker) {
    as_before(maker);
    Drop(maker, "blk.3.attn_kv_b.weight");
  }));
  EXPECT_EQ(finding.kind, "missing-tensor");
  const Finding wrong = One(Judged(path, [&](GgufMaker& maker) {
    as_before(maker);
    Drop(maker, "blk.3.attn_kv_b.weight");
    maker.Add("blk.3.attn_kv_b.weight", GgufType::kBF16, {512, 256},
              Weights(std::size_t{512} * 256));
  }));
  EXPECT_EQ(wrong.kind, "wrong-shape");
  EXPECT_THAT(wrong.message, HasSubstr("predict [256, 512]"));
}

// What llama.cpp's converter writes with its options.
TEST_F(GgufTensorsTest, TakesGateAndUpInOneAndMtpLayersApart) {
  const fs::path path = Made(SamplePreset::kTiny, convert::GgufMtp::kKeep);
  const auto with_both = [](GgufMaker& maker, std::uint64_t rows) {
    for (const std::string block : {"1", "2", "3", "4"}) {
      Drop(maker, "blk." + block + ".ffn_gate_exps.weight");
      Drop(maker, "blk." + block + ".ffn_up_exps.weight");
      maker.Add("blk." + block + ".ffn_gate_up_exps.weight", GgufType::kBF16, {8, rows, 256},
                Weights(8 * rows * 256));
    }
  };
  EXPECT_THAT(Judged(path, [&](GgufMaker& maker) { with_both(maker, 160); }), IsEmpty());
  const Findings wrong = Judged(path, [&](GgufMaker& maker) { with_both(maker, 80); });
  ASSERT_EQ(wrong.size(), 4U);
  EXPECT_EQ(wrong[0].tensor, "blk.1.ffn_gate_up_exps.weight");
  EXPECT_EQ(wrong[0].kind, "wrong-shape");
  const auto drop_blocks = [](GgufMaker& maker,
                              const std::function<bool(std::string_view)>& which) {
    for (std::size_t i = maker.tensors.size(); i-- > 0;) {
      const std::string name = maker.tensors[i].name;
      if (name.starts_with("blk.") && which(name)) Drop(maker, name);
    }
  };
  const auto is_mtp = [](std::string_view name) { return name.starts_with("blk.4."); };
  EXPECT_THAT(Judged(path, [&](GgufMaker& maker) { drop_blocks(maker, is_mtp); }), IsEmpty());
  EXPECT_THAT(Judged(path,
                     [&](GgufMaker& maker) {
                       drop_blocks(maker, [&](std::string_view name) { return !is_mtp(name); });
                     }),
              IsEmpty());
  const Finding part =
      One(Judged(path, [](GgufMaker& maker) { Drop(maker, "blk.4.nextn.enorm.weight"); }));
  EXPECT_EQ(part.tensor, "blk.4.nextn.enorm.weight");
}

TEST_F(GgufTensorsTest, LayersOfGlm5MayShareAnIndexer) {
  const fs::path path = Made(SamplePreset::kGlm5);
  const auto without = [](GgufMaker& maker, bool all) {
    DropKey(maker, "glm-dsa.attention.indexer.types");
    for (const std::string part :
         {"k_norm.weight", "k_norm.bias", "proj.weight", "attn_k.weight", "attn_q_b.weight"}) {
      if (all || part != "attn_k.weight") Drop(maker, "blk.2.indexer." + part);
    }
  };
  EXPECT_THAT(Judged(path, [&](GgufMaker& maker) { without(maker, true); }), IsEmpty());
  const Finding part = One(Judged(path, [&](GgufMaker& maker) { without(maker, false); }));
  EXPECT_EQ(part.kind, "missing-tensor");
}

TEST_F(GgufTensorsTest, OtherArchitecturesAreNotPredicted) {
  GgufMaker("llama")
      .Add("output_norm.weight", GgufType::kF32, {1}, std::string("\0\0\x80?", 4))
      .Write(dir_ / "m.gguf");
  EXPECT_THAT(Judged(dir_ / "m.gguf"), IsEmpty());
}

}  // namespace
}  // namespace dsv3::testing
