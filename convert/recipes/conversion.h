#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/job/conversion_report.h"
#include "convert/job/run_options.h"
#include "convert/layouts/stacks.h"
#include "convert/model/scale_names.h"
#include "formats/gguf_type.h"
#include "formats/io/file_system.h"
#include "quant/quantize.h"

// A conversion from the user's side: a request goes in, a report comes out. Nothing here prints.
namespace dsv3::convert {

// Of fp8-to-bf16 and dequantize.
struct DequantizeOptions {
  bool allow_bad_scales = false;
};

// --block: blocks of a shape, or one scale a row or a tensor.
struct QuantizeBlock {
  quant::BlockForm form = quant::BlockForm::kBlock;
  quant::BlockShape shape;  // of kBlock
  friend bool operator==(const QuantizeBlock&, const QuantizeBlock&) = default;
};

struct Bf16ToFp8Options {
  // What is not given is DeepSeek's: recipe deepseek, F32 scales for 128 × 128 blocks, named
  // weight_scale_inv. With `scales_from` it is as there.
  std::optional<quant::QuantizeRecipe> recipe;
  std::optional<quant::ScaleFmt> scale_fmt;
  std::optional<QuantizeBlock> block;
  std::optional<ScaleNaming> scale_name;  // kScaleInv or kScale
  // Shell globs over whole tensor names: what is quantised beyond what the model's rules tell, and
  // what is not; the latter win.
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  quant::Nonfinite nonfinite = quant::Nonfinite::kReport;
  std::filesystem::path scales_from;  // the original FP8 checkpoint; empty: none
};

// Of quantize: the form, the tool whose formulas make it, and which weights take it.
enum class QuantizeTo { kInt8, kInt8Block, kInt4, kNvFp4, kMxFp4, kMxFp8, kFp8 };
enum class QuantizeTool { kLlmCompressor, kModelOpt, kDeepSeek };
enum class QuantizeModules { kLinear, kExperts };

struct QuantizeOptions {
  std::optional<QuantizeTo> to;  // must be given, unless `scales_from` is
  // What is not given is as the form's first row in the table of targets has it.
  std::optional<QuantizeTool> tool;
  std::optional<QuantizeModules> modules;
  std::filesystem::path scales_from = {};  // the original, which alone says the form; empty: none
};

// What becomes of the MTP layers, of the attention's joined matrix, and of wider floats.
enum class MtpAction { kKeep, kDrop, kExtract, kGraft };
enum class MlaForm { kKeep, kSplit };
enum class TrainDtype { kBF16, kKeep };

struct TrainToInferOptions {
  MtpAction mtp = MtpAction::kKeep;
  std::filesystem::path mtp_from = {};  // of kGraft: the checkpoint that has the layers
  MlaForm mla = MlaForm::kKeep;
  TrainDtype dtype = TrainDtype::kBF16;
  std::filesystem::path config = {};  // the model's config.json; empty: the one beside the input
  std::optional<Stack> from = std::nullopt;  // whose names the tensors have; nothing: found
  std::uint64_t shard_bytes = 0;             // of shards that are new; 0: kDefaultShardBytes
};

struct LayoutOptions {
  std::string to;  // a name of WritableLayouts()
  // As in TrainToInferOptions.
  std::filesystem::path config = {};
  std::optional<Stack> from = std::nullopt;
  std::uint64_t shard_bytes = 0;
};

// The forms that repack writes.
enum class RepackTarget { kFp8, kNvFp4ModelOpt, kNvFp4CompressedTensors };

struct RepackOptions {
  std::optional<RepackTarget> to;  // needed
};

enum class GgufMtp { kDrop, kKeep };

struct ToGgufOptions {
  std::optional<formats::GgufType> type;  // F32, F16, BF16 or Q8_0; needed
  bool keep_4bit = false;  // INT4 becomes Q4_0 and E2M1 with E8M0 scales MXFP4, exactly
  std::optional<GgufMtp> mtp = std::nullopt;  // nothing: as llama.cpp's converter does it
  std::uint64_t max_file_bytes = 0;           // of tensors; 0: one file
  bool no_tokenizer = false;
};

struct PackOptions {
  // The checkpoint against which tensors are packed that it has, too; empty: none.
  std::filesystem::path base = {};
};

struct UnpackOptions {
  // Shell globs over whole tensor names: only these tensors, in shards of their own; empty: every
  // file as it was.
  std::vector<std::string> tensors = {};
  std::filesystem::path base = {};  // as in PackOptions
};

struct ConversionRequest {
  std::filesystem::path input;
  std::filesystem::path output;
  // Of the command that is run.
  DequantizeOptions dequantize;
  Bf16ToFp8Options bf16_to_fp8;
  QuantizeOptions quantize;
  TrainToInferOptions train_to_infer;
  LayoutOptions layout;
  RepackOptions repack;
  ToGgufOptions to_gguf;
  PackOptions pack;
  UnpackOptions unpack;
  RunOptions run;
};

// Runs `dsv3-convert fp8-to-bf16`. Throws Error with the code of design.md's table. When `stop` is
// requested it ends with kInterrupted, leaving what the same request continues from.
ConversionReport ConvertFp8ToBf16(const ConversionRequest& request, formats::FileSystem& fs,
                                  ProgressSink& progress, const StopToken& stop);

// Runs `dsv3-convert dequantize`, in the same way.
ConversionReport ConvertDequantize(const ConversionRequest& request, formats::FileSystem& fs,
                                   ProgressSink& progress, const StopToken& stop);

// Runs `dsv3-convert bf16-to-fp8`, in the same way.
ConversionReport ConvertBf16ToFp8(const ConversionRequest& request, formats::FileSystem& fs,
                                  ProgressSink& progress, const StopToken& stop);

// Runs `dsv3-convert quantize`, in the same way.
ConversionReport ConvertQuantize(const ConversionRequest& request, formats::FileSystem& fs,
                                 ProgressSink& progress, const StopToken& stop);

// Runs `dsv3-convert repack`, in the same way.
ConversionReport ConvertRepack(const ConversionRequest& request, formats::FileSystem& fs,
                               ProgressSink& progress, const StopToken& stop);

// Runs `dsv3-convert train-to-infer`, in the same way.
ConversionReport ConvertTrainToInfer(const ConversionRequest& request, formats::FileSystem& fs,
                                     ProgressSink& progress, const StopToken& stop);

// Runs `dsv3-convert layout`, in the same way.
ConversionReport ConvertLayout(const ConversionRequest& request, formats::FileSystem& fs,
                               ProgressSink& progress, const StopToken& stop);

// Runs `dsv3-convert to-gguf`, in the same way; the output is a file.
ConversionReport ConvertToGguf(const ConversionRequest& request, formats::FileSystem& fs,
                               ProgressSink& progress, const StopToken& stop);

// Runs `dsv3-convert pack`, in the same way.
ConversionReport ConvertPack(const ConversionRequest& request, formats::FileSystem& fs,
                             ProgressSink& progress, const StopToken& stop);

// Runs `dsv3-convert unpack`, in the same way.
ConversionReport ConvertUnpack(const ConversionRequest& request, formats::FileSystem& fs,
                               ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
