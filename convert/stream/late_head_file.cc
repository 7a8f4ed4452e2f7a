#include "convert/stream/late_head_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {

LateHeadFile::LateHeadFile(std::string name, formats::OutputFile& output, std::uint64_t head_bytes,
                           bool sha256)
    : name_(std::move(name)),
      output_(output),
      head_(static_cast<std::size_t>(formats::AlignUp(head_bytes, formats::kDirectAlignment))),
      buffer_(kBufferBytes),
      buffer_offset_(head_.size()),
      end_(head_bytes),
      digest_(sha256) {
  std::memset(head_.data(), 0, head_.size());
}

void LateHeadFile::Write(std::span<const std::byte> data) {
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

void LateHeadFile::Flush(std::size_t bytes) {
  output_.WriteAt(buffer_offset_, buffer_.span().first(bytes));
  buffer_offset_ += bytes;
}

void LateHeadFile::Finish(std::string head) {
  if (end_ > buffer_offset_) Flush(static_cast<std::size_t>(end_ - buffer_offset_));
  head_text_ = std::move(head);
  std::memcpy(head_.data(), head_text_.data(), head_text_.size());
  output_.WriteAt(
      0, head_.span().first(static_cast<std::size_t>(std::min<std::uint64_t>(head_.size(), end_))));
  output_.Truncate(end_);
}

FileHash::Part LateHeadFile::TakeReadBack(std::span<const std::byte> data) {
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
  if (is_same && (read_ != end_ || read_back_.Hex() == written_.Hex())) return {&digest_, data};
  throw Error(ErrorCode::kVerification,
              fmt::format("{}: the bytes that were read back are not those that were written; the "
                          "disk or the memory of this machine is faulty: repair it and run the "
                          "command again",
                          formats::ShownPath(name_)),
              {name_, ""});
}

}  // namespace dsv3::convert
