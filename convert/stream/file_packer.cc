#include "convert/stream/file_packer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/safetensors.h"

namespace dsv3::convert {
namespace {

PackedFileLayout LayoutOf(const PlannedFile& file, std::string_view header) {
  return PackedFileLayout(header, formats::ParseSafetensorsHeader(std::as_bytes(std::span(header)),
                                                                  file.bytes, file.name));
}

}  // namespace

FilePacker::FilePacker(const PlannedFile& file, std::string_view header,
                       formats::OutputFile& output, bool sha256)
    : file_(file),
      output_(output),
      layout_(LayoutOf(file, header)),
      head_(static_cast<std::size_t>(
          formats::AlignUp(layout_.streams_offset(), formats::kDirectAlignment))),
      buffer_(kBufferBytes),
      buffer_offset_(head_.size()),
      end_(layout_.streams_offset()),
      stream_begin_(end_),
      digest_(sha256) {
  std::memset(head_.data(), 0, head_.size());
}

void FilePacker::Append(const Chunk& chunk) {
  for (const PackedPiece& piece : chunk.packed.pieces) {
    EndStreams(piece.tensor);
    Write(piece.bytes);
    if (!piece.base.empty()) base_.Update(piece.base);
    const std::span<const formats::SeekEntry> frames =
        std::span(chunk.packed.frames).subspan(piece.first_frame, piece.num_frames);
    frames_.insert(frames_.end(), frames.begin(), frames.end());
    if (piece.ends_tensor) EndStreams(piece.tensor + 1);
  }
}

void FilePacker::EndStreams(std::size_t tensor) {
  for (; tensor_ < tensor; ++tensor_) {
    const std::string table = formats::SerializeSeekTable(frames_);
    Write(std::as_bytes(std::span(table)));
    frames_.clear();
    stream_bytes_.push_back(end_ - stream_begin_);
    stream_begin_ = end_;
    bases_.push_back(file_.tensors[tensor_].base ? base_.Hex() : "");
    base_.Reset();
  }
}

void FilePacker::Write(std::span<const std::byte> data) {
  written_.Update(data);
  while (!data.empty()) {
    const bool is_head = end_ < head_.size();
    const formats::AlignedBuffer& buffer = is_head ? head_ : buffer_;
    const auto filled = static_cast<std::size_t>(end_ - (is_head ? 0 : buffer_offset_));
    const std::size_t length = std::min(data.size(), buffer.size() - filled);
    std::memcpy(buffer.data() + filled, data.data(), length);
    data = data.subspan(length);
    end_ += length;
    if (!is_head && filled + length == buffer.size()) Flush(buffer.size());
  }
}

void FilePacker::Flush(std::size_t bytes) {
  output_.WriteAt(buffer_offset_, buffer_.span().first(bytes));
  buffer_offset_ += bytes;
}

void FilePacker::Finish() {
  EndStreams(file_.tensors.size());
  if (end_ > buffer_offset_) Flush(static_cast<std::size_t>(end_ - buffer_offset_));
  head_text_ = layout_.Head(stream_bytes_);
  std::memcpy(head_.data(), head_text_.data(), head_text_.size());
  output_.WriteAt(
      0, head_.span().first(static_cast<std::size_t>(std::min<std::uint64_t>(head_.size(), end_))));
  output_.Truncate(end_);
}

void FilePacker::AddReadBack(std::span<const std::byte> data) {
  digest_.Update(data);
  bool is_same = true;
  if (read_ < head_text_.size()) {
    const std::size_t length =
        std::min(data.size(), head_text_.size() - static_cast<std::size_t>(read_));
    is_same = std::memcmp(data.data(), head_text_.data() + read_, length) == 0;
    read_back_.Update(data.subspan(length));
  } else {
    read_back_.Update(data);
  }
  read_ += data.size();
  if (is_same && (read_ != end_ || read_back_.Hex() == written_.Hex())) return;
  throw Error(ErrorCode::kVerification,
              fmt::format("{}: the bytes that were read back are not those that were written; the "
                          "disk or the memory of this machine is faulty: repair it and run the "
                          "command again",
                          formats::ShownPath(file_.name)),
              {file_.name, ""});
}

void FilePacker::Complete(FileRecord& record) {
  record.original = std::move(record.file);
  record.file = digest_.Finish();
  record.bytes = end_;
  const bool has_base = std::any_of(bases_.begin(), bases_.end(),
                                    [](const std::string& base) { return !base.empty(); });
  if (has_base) record.bases = std::move(bases_);
}

}  // namespace dsv3::convert
