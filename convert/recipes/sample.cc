#include "convert/recipes/sample.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include "convert/recipes/sample_codes.h"
#include "convert/recipes/sample_model.h"
#include "convert/recipes/sample_values.h"
#include "formats/error.h"
#include "formats/io/new_directories.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"
#include "quant/quantize.h"

namespace dsv3::convert {
namespace {

namespace fs_std = std::filesystem;

// Elements that one piece of work holds in memory, a whole number of block rows for weights.
constexpr std::uint64_t kPieceElements = 1 << 20;

// Or one that is not there.
void RequireEmptyDirectory(const fs_std::path& out) {
  std::error_code error;
  const fs_std::file_status status = fs_std::status(out, error);
  if (status.type() == fs_std::file_type::none) {
    throw IoError("examine", out.string(), error.value());
  }
  if (!fs_std::exists(status)) return;
  if (!fs_std::is_directory(status)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: is not a directory; choose another place for the sample",
                            formats::ShownPath(out)),
                {out.string(), ""});
  }
  const bool empty = fs_std::is_empty(out, error);
  if (error) throw IoError("list", out.string(), error.value());
  if (!empty) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: is not empty; a sample is only written to a new or an empty "
                            "directory, so choose another one or empty this one",
                            formats::ShownPath(out)),
                {out.string(), ""});
  }
}

// A file that has its final name only when it is complete. Removed again when it never gets there.
class PartialFile {
 public:
  PartialFile(formats::FileSystem& fs, fs_std::path path)
      : fs_(fs), path_(std::move(path)), partial_(path_) {
    partial_ += ".partial";
    file_ = fs_.Create(partial_, 0);
  }
  ~PartialFile() {
    if (committed_) return;
    file_.reset();
    try {
      fs_.Remove(partial_);
    } catch (const Error&) {
      // The error that led here is the one to tell.
    }
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  formats::OutputFile& file() { return *file_; }

  void Commit(std::uint64_t bytes) {
    file_->Truncate(bytes);
    file_->Sync();
    // Some file systems cannot rename an open file.
    file_.reset();
    fs_.Rename(partial_, path_);
    committed_ = true;
  }

 private:
  formats::FileSystem& fs_;
  fs_std::path path_;
  fs_std::path partial_;
  std::unique_ptr<formats::OutputFile> file_;
  bool committed_ = false;
};

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

void WriteTextFile(formats::FileSystem& fs, const fs_std::path& path, std::string_view text) {
  PartialFile partial(fs, path);
  partial.file().WriteAt(0, AsBytes(text));
  partial.Commit(text.size());
}

// Part of a tensor: elements [first, first + num) in row-major order.
struct Piece {
  const SampleTensor* tensor;
  std::uint64_t first;
  std::uint64_t num;
};

std::vector<Piece> CutIntoPieces(const std::vector<SampleTensor>& tensors) {
  std::vector<Piece> pieces;
  for (const SampleTensor& tensor : tensors) {
    const std::uint64_t num = formats::NumElements(tensor.shape).value();
    std::uint64_t step = kPieceElements;
    if (IsFp8Form(tensor.form)) {
      const std::uint64_t block_row = kSampleBlock.rows * tensor.shape[1];
      step = std::max<std::uint64_t>(1, kPieceElements / block_row) * block_row;
    } else if (tensor.form != SampleForm::kPlain) {
      step = std::max<std::uint64_t>(1, num);  // some have a scale for the whole
    }
    for (std::uint64_t first = 0; first < num; first += step) {
      pieces.push_back({&tensor, first, std::min(step, num - first)});
    }
  }
  return pieces;
}

class ShardWriter {
 public:
  ShardWriter(const SampleModel& model, std::uint64_t seed, const fs_std::path& out,
              formats::FileSystem& fs, ProgressSink& progress)
      : model_(model), seed_(seed), progress_(progress) {
    for (const SampleShard& shard : model.shards) {
      files_.push_back(std::make_unique<PartialFile>(fs, out / shard.name));
      files_.back()->file().WriteAt(0, AsBytes(shard.header));
      progress_.OnBytes(shard.header.size(), shard.name);
    }
  }

  void WritePiece(const Piece& piece) {
    const SampleTensor& tensor = *piece.tensor;
    const SampleValues values(seed_, StreamName(tensor), tensor.role);
    switch (tensor.dtype) {
      case formats::Dtype::kF32: {
        std::vector<float> floats(piece.num);
        values.DrawF32(piece.first, floats);
        return WriteValues(piece, std::span<const float>(floats));
      }
      case formats::Dtype::kI64: {
        std::vector<std::int64_t> experts(piece.num);
        values.DrawExperts(piece.first, tensor.shape[1], model_.experts, experts);
        return WriteValues(piece, std::span<const std::int64_t>(experts));
      }
      default:
        break;
    }
    std::vector<std::uint16_t> bf16(piece.num);
    values.DrawBF16(piece.first, bf16);
    if (tensor.form == SampleForm::kPlain) {
      WriteValues(piece, std::span<const std::uint16_t>(bf16));
    } else if (IsFp8Form(tensor.form)) {
      WriteFp8(piece, bf16);
    } else {
      WriteCodes(piece, bf16);
    }
  }

  void Commit() {
    for (std::size_t i = 0; i < files_.size(); ++i) files_[i]->Commit(model_.shards[i].bytes);
  }

 private:
  // The MTP layer's embedding and head are copies of the main ones, as in DeepSeek's releases.
  static std::string_view StreamName(const SampleTensor& tensor) {
    if (tensor.role == TensorRole::kEmbedding) return "model.embed_tokens.weight";
    if (tensor.role == TensorRole::kHead) return "lm_head.weight";
    return tensor.name;
  }

  template <typename T>
  void WriteValues(const Piece& piece, std::span<const T> values) {
    Write(piece.tensor->parts[0], piece.first * sizeof(T), std::as_bytes(values));
  }

  void WriteFp8(const Piece& piece, std::span<const std::uint16_t> bf16) {
    const SampleTensor& tensor = *piece.tensor;
    const std::uint64_t cols = tensor.shape[1];
    const std::uint64_t rows = piece.num / cols;
    const auto blocks = [](std::uint64_t size, std::uint64_t block) {
      return (size + block - 1) / block;
    };
    const std::uint64_t scale_cols = blocks(cols, kSampleBlock.cols);
    std::vector<std::uint8_t> codes(piece.num);
    std::vector<std::byte> scales(blocks(rows, kSampleBlock.rows) * scale_cols * sizeof(float));
    Quantize(tensor.form, bf16, rows, cols, codes, scales);
    Write(tensor.parts[0], piece.first, std::as_bytes(std::span(codes)));
    const std::uint64_t first_scale = piece.first / cols / kSampleBlock.rows * scale_cols;
    if (tensor.form == SampleForm::kFp8E8M0) {
      const std::vector<std::byte> exponents = ExponentsOf(scales);
      Write(tensor.parts[1], first_scale, exponents);
      return;
    }
    Write(tensor.parts[1], first_scale * sizeof(float), scales);
  }

  // A whole tensor.
  void WriteCodes(const Piece& piece, std::span<const std::uint16_t> bf16) {
    const SampleTensor& tensor = *piece.tensor;
    const std::vector<std::vector<std::byte>> parts =
        EncodeSample(tensor.form, bf16, tensor.shape[0], tensor.shape[1],
                     std::max(AbsmaxOf(bf16), Other(tensor)));
    for (std::size_t i = 0; i < parts.size(); ++i) Write(tensor.parts[i], 0, parts[i]);
  }

  // The largest absolute value of the tensor that shares the second scale with this one: gate and
  // up of a module. 0 where there is none.
  float Other(const SampleTensor& tensor) const {
    constexpr std::string_view kGate = "gate_proj";
    constexpr std::string_view kUp = "up_proj";
    if (tensor.form != SampleForm::kNvFp4) return 0;
    std::string name = tensor.name;
    if (const std::size_t gate = name.rfind(kGate); gate != std::string::npos) {
      name.replace(gate, kGate.size(), kUp);
    } else if (const std::size_t up = name.rfind(kUp); up != std::string::npos) {
      name.replace(up, kUp.size(), kGate);
    } else {
      return 0;
    }
    std::vector<std::uint16_t> bf16(tensor.shape[0] * tensor.shape[1]);
    SampleValues(seed_, name, tensor.role).DrawBF16(0, bf16);
    return AbsmaxOf(bf16);
  }

  // E8M0 of floats that are powers of two: their exponents.
  static std::vector<std::byte> ExponentsOf(std::span<const std::byte> floats) {
    std::vector<std::byte> exponents(floats.size() / sizeof(float));
    for (std::size_t i = 0; i < exponents.size(); ++i) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, floats.data() + i * sizeof bits, sizeof bits);
      exponents[i] = static_cast<std::byte>(bits >> 23);
    }
    return exponents;
  }

  // By DeepSeek's formula. The rows begin where a row of blocks begins.
  static void Quantize(SampleForm form, std::span<const std::uint16_t> bf16, std::uint64_t rows,
                       std::uint64_t cols, std::span<std::uint8_t> codes,
                       std::span<std::byte> scales) {
    const quant::QuantizeFormat format{
        .scale_fmt = form == SampleForm::kFp8 ? quant::ScaleFmt::kF32 : quant::ScaleFmt::kUe8m0,
        .block = kSampleBlock};
    const std::uint64_t scale_bytes =
        (cols + kSampleBlock.cols - 1) / kSampleBlock.cols * sizeof(float);
    quant::Quality quality;
    for (std::uint64_t row = 0; row < rows; row += kSampleBlock.rows) {
      const std::uint64_t panel_rows = std::min(kSampleBlock.rows, rows - row);
      const quant::QuantizePanel panel{quant::FloatFormat::kBF16,
                                       std::as_bytes(bf16.subspan(row * cols, panel_rows * cols)),
                                       panel_rows, cols};
      quant::Quantize(format, panel, quant::Nonfinite::kReport,
                      codes.subspan(row * cols, panel_rows * cols),
                      scales.subspan(row / kSampleBlock.rows * scale_bytes, scale_bytes), quality);
    }
  }

  void Write(const SamplePlace& place, std::uint64_t offset, std::span<const std::byte> data) {
    files_[place.shard]->file().WriteAt(place.offset + offset, data);
    progress_.OnBytes(data.size(), model_.shards[place.shard].name);
  }

  const SampleModel& model_;
  std::uint64_t seed_;
  ProgressSink& progress_;
  std::vector<std::unique_ptr<PartialFile>> files_;
};

void WriteShards(const SampleModel& model, std::uint64_t seed, const fs_std::path& out,
                 formats::FileSystem& fs, ProgressSink& progress) {
  ShardWriter writer(model, seed, out, fs, progress);
  const std::vector<Piece> pieces = CutIntoPieces(model.tensors);
  tbb::parallel_for(tbb::blocked_range<std::size_t>(0, pieces.size(), 1),
                    [&](const tbb::blocked_range<std::size_t>& range) {
                      for (std::size_t i = range.begin(); i < range.end(); ++i) {
                        writer.WritePiece(pieces[i]);
                      }
                    });
  writer.Commit();
}

// Headers only; the data are holes, which read as zeros.
void WriteSparseShards(const SampleModel& model, const fs_std::path& out, formats::FileSystem& fs,
                       ProgressSink& progress) {
  tbb::parallel_for(std::size_t{0}, model.shards.size(), [&](std::size_t i) {
    const SampleShard& shard = model.shards[i];
    PartialFile partial(fs, out / shard.name);
    partial.file().WriteAt(0, AsBytes(shard.header));
    partial.Commit(shard.bytes);
    progress.OnBytes(shard.bytes, shard.name);
  });
}

}  // namespace

SampleReport WriteSample(const SampleOptions& options, const std::filesystem::path& out,
                         formats::FileSystem& fs, ProgressSink& progress) {
  RequireEmptyDirectory(out);
  const formats::NewDirectories made(fs, out);
  const SampleModel model = MakeSampleModel(options.preset);
  SampleReport report;
  report.files = model.shards.size() + model.side_files.size() + 1;
  report.tensors = model.num_tensors;
  std::uint64_t weight_bytes = 0;
  for (const SampleShard& shard : model.shards) weight_bytes += shard.bytes;
  report.bytes = weight_bytes + model.index.size();
  for (const auto& [name, content] : model.side_files) report.bytes += content.size();

  progress.OnPhase("writing the sample", weight_bytes);
  if (options.preset == SamplePreset::kV3Shapes) {
    WriteSparseShards(model, out, fs, progress);
  } else {
    WriteShards(model, options.seed, out, fs, progress);
  }
  for (const auto& [name, content] : model.side_files) WriteTextFile(fs, out / name, content);
  fs.SyncDirectory(out);
  WriteTextFile(fs, out / formats::kShardIndexName, model.index);
  fs.SyncDirectory(out);
  return report;
}

}  // namespace dsv3::convert
