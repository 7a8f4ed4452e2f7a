#include "convert/stream/pull_file_writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/zstd_frame.h"

namespace dsv3::convert {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{64} << 10;
constexpr std::uint64_t kLengthBytes = 8;
constexpr std::size_t kChecksumDigits = 32;

// The most bytes that a frame of a tensor's differences takes.
std::uint64_t StreamBound(std::uint64_t bytes, PullEncoding encoding) {
  const std::uint64_t content = encoding == PullEncoding::kXor ? bytes : 4 + 5 * bytes;
  return formats::ZstdFrameBound(static_cast<std::size_t>(content)) + 1024;
}

}  // namespace

PullFileWriter::PullFileWriter(const PlannedFile& file, PullEncoding encoding,
                               formats::OutputFile& output, MakeScratch make_scratch, bool sha256)
    : file_(file),
      encoding_(encoding),
      head_bytes_(HeadBytes()),
      out_(file.name, output, head_bytes_, sha256),
      stream_begin_(out_.end()),
      overwritten_(std::move(make_scratch)) {}

std::string PullFileWriter::HeaderText(const std::vector<Changed>& changed) const {
  std::vector<formats::SafetensorsTensor> tensors;
  std::vector<std::pair<std::string, std::string>> checksums;
  std::uint64_t offset = 0;
  for (const Changed& each : changed) {
    const std::string& name = file_.tensors[each.tensor].entry.name;
    tensors.push_back({.name = name,
                       .dtype = formats::Dtype::kU8,
                       .shape = {each.stream_bytes},
                       .begin = offset,
                       .end = offset + each.stream_bytes});
    checksums.emplace_back(name, each.checksum);
    offset += each.stream_bytes;
  }
  return formats::SerializeSafetensorsHeader(tensors, checksums);
}

// Of a head with every tensor, each as long as it can be.
std::uint64_t PullFileWriter::HeadBytes() const {
  std::vector<Changed> all;
  for (std::size_t i = 0; i < file_.tensors.size(); ++i) {
    all.push_back({i, StreamBound(file_.tensors[i].entry.bytes, encoding_),
                   std::string(kChecksumDigits, '0')});
  }
  return HeaderText(all).size();
}

void PullFileWriter::Append(const Chunk& chunk) {
  for (const ChunkPart& part : chunk.parts) {
    while (tensor_ < part.tensor) EndTensor();
    const std::span<const std::byte> value = part.output;
    new_.Update(value);
    base_.Update(part.base);
    encoding_ == PullEncoding::kXor ? AddXor(part) : AddOverwrite(part);
  }
}

void PullFileWriter::AddXor(const ChunkPart& part) {
  const std::span<const std::byte> value = part.output;
  if (!is_changed_) {
    if (std::memcmp(value.data(), part.base.data(), value.size()) == 0) return;
    BeginFrame(file_.tensors[tensor_].entry.bytes);
    AddZeros(part.range.begin);
  }
  differences_.resize(value.size());
  for (std::size_t i = 0; i < value.size(); ++i) differences_[i] = value[i] ^ part.base[i];
  AddContent(differences_);
}

void PullFileWriter::AddOverwrite(const ChunkPart& part) {
  for (std::size_t i = 0; i < part.output.size(); ++i) {
    if (part.output[i] == part.base[i]) continue;
    overwritten_.Add(static_cast<std::uint32_t>(part.range.begin + i), part.output[i]);
  }
}

void PullFileWriter::EndOverwrite() {
  const auto count = static_cast<std::uint32_t>(overwritten_.count());
  BeginFrame(sizeof count + (sizeof(std::uint32_t) + 1) * overwritten_.count());
  AddContent(std::as_bytes(std::span(&count, 1)));
  overwritten_.ForEach([this](std::span<const std::byte> content) { AddContent(content); });
  overwritten_.Clear();
}

void PullFileWriter::EndTensor() {
  if (overwritten_.count() != 0) EndOverwrite();
  if (is_changed_) {
    EndFrame();
    changed_.push_back({tensor_, out_.end() - stream_begin_, new_.Hex()});
    stream_begin_ = out_.end();
    is_changed_ = false;
  }
  bases_.push_back(base_.Hex());
  new_.Reset();
  base_.Reset();
  ++tensor_;
}

void PullFileWriter::BeginFrame(std::uint64_t content_bytes) {
  is_changed_ = true;
  frame_.Begin(content_bytes);
}

void PullFileWriter::AddContent(std::span<const std::byte> content) {
  frame_.Add(content, [this](std::span<const std::byte> frame) { out_.Write(frame); });
}

void PullFileWriter::AddZeros(std::uint64_t bytes) {
  const std::vector<std::byte> zeros(kPieceBytes);
  for (std::uint64_t done = 0; done < bytes; done += kPieceBytes) {
    AddContent(std::span(zeros).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, bytes - done))));
  }
}

void PullFileWriter::EndFrame() {
  if (frame_.End([this](std::span<const std::byte> frame) { out_.Write(frame); })) return;
  const std::string& tensor = file_.tensors[tensor_].entry.name;
  throw Error(ErrorCode::kVerification,
              fmt::format("{}: tensor {}: what was packed does not give its bytes again; the "
                          "memory of this machine may be faulty: run the command again",
                          formats::ShownPath(file_.name), QuoteForMessage(tensor)),
              {file_.name, tensor});
}

void PullFileWriter::Finish() {
  while (tensor_ < file_.tensors.size()) EndTensor();
  std::string head = HeaderText(changed_);
  if (head.size() > head_bytes_) {
    throw Error(ErrorCode::kInternal, "the frames of weight deltas are larger than they can be");
  }
  head.resize(static_cast<std::size_t>(head_bytes_), ' ');
  const std::uint64_t length = head_bytes_ - kLengthBytes;
  std::memcpy(head.data(), &length, sizeof length);
  out_.Finish(std::move(head));
}

void PullFileWriter::Complete(FileRecord& record) {
  record.original = std::move(record.file);
  record.file = out_.Digest();
  record.bytes = out_.end();
  record.bases = std::move(bases_);
}

}  // namespace dsv3::convert
