#include "convert/stream/file_packer.h"

#include <algorithm>
#include <utility>

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
      layout_(LayoutOf(file, header)),
      out_(file.name, output, layout_.streams_offset(), sha256),
      stream_begin_(out_.end()) {}

void FilePacker::Append(const Chunk& chunk) {
  for (const PackedPiece& piece : chunk.packed.pieces) {
    EndStreams(piece.tensor);
    out_.Write(piece.bytes);
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
    out_.Write(std::as_bytes(std::span(table)));
    frames_.clear();
    stream_bytes_.push_back(out_.end() - stream_begin_);
    stream_begin_ = out_.end();
    bases_.push_back(file_.tensors[tensor_].base ? base_.Hex() : "");
    base_.Reset();
  }
}

void FilePacker::Finish() {
  EndStreams(file_.tensors.size());
  out_.Finish(layout_.Head(stream_bytes_));
}

void FilePacker::Complete(FileRecord& record) {
  record.original = std::move(record.file);
  record.file = out_.Digest();
  record.bytes = out_.end();
  const bool has_base = std::any_of(bases_.begin(), bases_.end(),
                                    [](const std::string& base) { return !base.empty(); });
  if (has_base) record.bases = std::move(bases_);
}

}  // namespace dsv3::convert
