#include "convert/stream/appended_file.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/model/zero_runs.h"
#include "convert/plan/slice_expression.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {

AppendedFile::AppendedFile(const Plan& plan, std::size_t plan_file, std::size_t buffer_bytes,
                           bool sha256, bool tensor_sha256)
    : file_(plan.files[plan_file]),
      plan_file_(plan_file),
      buffer_bytes_(buffer_bytes),
      tensor_sha256_(tensor_sha256),
      file_hash_(sha256) {
  record_.name = file_.name;
  record_.bytes = file_.bytes;
  record_.tensors.resize(file_.tensors.size());
}

void AppendedFile::RequireRoom(std::size_t bytes) const {
  if (bytes <= room() && bytes <= file_.bytes - position()) return;
  throw Error(ErrorCode::kInternal,
              fmt::format("{}: more bytes were made than the file has, which is {}",
                          formats::ShownPath(file_.name), file_.bytes),
              {file_.name, ""});
}

void AppendedFile::Stage(std::span<const std::byte> data) {
  RequireRoom(data.size());
  if (data.empty()) return;
  if (buffer_.size() == 0) buffer_ = formats::AlignedBuffer(buffer_bytes_);
  std::memcpy(buffer_.data() + filled_, data.data(), data.size());
  filled_ += data.size();
}

void AppendedFile::StageZeros(std::size_t bytes) {
  RequireRoom(bytes);
  if (bytes == 0) return;
  if (buffer_.size() == 0) buffer_ = formats::AlignedBuffer(buffer_bytes_);
  std::memset(buffer_.data() + filled_, 0, bytes);
  filled_ += bytes;
}

void AppendedFile::DigestSeveral(std::span<AppendedFile* const> files) {
  std::vector<FileHash::Part> parts;
  for (AppendedFile* const file : files) {
    parts.push_back(
        {&file->file_hash_, std::span<const std::byte>(file->buffer_.span())
                                .subspan(file->digested_, file->filled_ - file->digested_)});
  }
  FileHash::UpdateMany(parts);
  for (std::size_t i = 0; i < files.size(); ++i) {
    files[i]->DigestTensors(parts[i].data);
    files[i]->digested_ = files[i]->filled_;
  }
}

void AppendedFile::DigestTensors(std::span<const std::byte> staged) {
  std::uint64_t position = buffer_offset_ + digested_;
  if (position < file_.data_offset) {
    const auto header = static_cast<std::size_t>(
        std::min<std::uint64_t>(staged.size(), file_.data_offset - position));
    position += header;
    staged = staged.subspan(header);
  }
  while (!staged.empty()) {
    SkipEmptyTensors();
    const TensorEntry& entry = file_.tensors[tensor_].entry;
    const std::uint64_t begin = file_.data_offset + entry.offset;
    const bool in_gap = position < begin;
    const std::uint64_t end = in_gap ? begin : begin + entry.bytes;
    const auto length =
        static_cast<std::size_t>(std::min<std::uint64_t>(staged.size(), end - position));
    if (!in_gap) DigestTensor(position - begin, staged.first(length));
    position += length;
    staged = staged.subspan(length);
    if (!in_gap && position == end) FinishTensor();
  }
}

void AppendedFile::DigestTensor(std::uint64_t first, std::span<const std::byte> bytes) {
  LookForZeros(first, bytes);
  tensor_xxh3_.Update(bytes);
  if (tensor_sha256_) tensor_hash_.Update(bytes);
}

// A rank's rows of a vocabulary are judged by their place in the whole of it. What is added to
// their end is no part of it.
void AppendedFile::LookForZeros(std::uint64_t first, std::span<const std::byte> bytes) {
  const PlannedTensor& tensor = file_.tensors[tensor_];
  const TensorEntry& entry = tensor.entry;
  const SliceExpression* const slice = tensor.expression->slice();
  if (slice == nullptr || !IsVocabulary(entry.name)) {
    zeros_.Add(0, entry.name, entry.dtype, entry.shape, first, bytes);
    return;
  }
  const std::uint64_t held = entry.bytes - slice->zero_bytes();
  if (first >= held) return;
  bytes =
      bytes.first(static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), held - first)));
  const SlicePart& part = slice->parts().front();
  const MatrixShape whole = MatrixOf(part.origin->shape());
  if (slice->parts().size() > 1 || part.box.cols() != whole.cols) {
    zeros_.Add(0, entry.name, entry.dtype, entry.shape, first, bytes);
    return;
  }
  const std::uint64_t before =
      part.box.row_begin * whole.cols * formats::DtypeBits(entry.dtype) / 8;
  zeros_.Add(0, entry.name, entry.dtype, part.origin->shape(), before + first, bytes);
}

void AppendedFile::FinishTensor() {
  TensorRecord& record = record_.tensors[tensor_];
  zeros_.Judge(record);
  zeros_.Clear();
  ++tensor_;
  Digests& output = record.output;
  output.xxh3 = tensor_xxh3_.Hex();
  tensor_xxh3_.Reset();
  if (!tensor_sha256_) return;
  output.sha256 = tensor_hash_.FinishHex();
  tensor_hash_ = formats::Sha256();
}

// An empty tensor has no byte whose digesting would finish it.
void AppendedFile::SkipEmptyTensors() {
  while (tensor_ < file_.tensors.size() && file_.tensors[tensor_].entry.bytes == 0) {
    FinishTensor();
  }
}

std::size_t AppendedFile::Flush(OutputSink& sink) {
  if (!complete() && room() > 0) return 0;
  if (!output_) output_ = created_ ? sink.Reopen(plan_file_) : sink.Open(plan_file_);
  created_ = true;
  output_->WriteAt(buffer_offset_, buffer_.span().first(filled_));
  const std::size_t written = filled_;
  buffer_offset_ += filled_;
  filled_ = 0;
  digested_ = 0;
  return written;
}

void AppendedFile::Commit(OutputSink& sink) {
  if (!output_) output_ = sink.Reopen(plan_file_);
  SkipEmptyTensors();
  record_.file = file_hash_.Finish();
  buffer_ = formats::AlignedBuffer();
  sink.Commit(plan_file_, std::move(output_), std::move(record_));
}

}  // namespace dsv3::convert
