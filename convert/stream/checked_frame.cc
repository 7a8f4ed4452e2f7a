#include "convert/stream/checked_frame.h"

namespace dsv3::convert {

void CheckedFrameEncoder::Begin(std::uint64_t content_bytes) {
  encoder_.Begin(content_bytes);
  checker_.Begin();
  decodes_ = true;
  content_.Reset();
  decoded_.Reset();
}

void CheckedFrameEncoder::Add(std::span<const std::byte> content, const Sink& sink) {
  content_.Update(content);
  encoder_.Add(content, [&](std::span<const std::byte> frame) { Take(frame, sink); });
}

bool CheckedFrameEncoder::End(const Sink& sink) {
  encoder_.End([&](std::span<const std::byte> frame) { Take(frame, sink); });
  return decodes_ && checker_.ended() && decoded_.Hex() == content_.Hex();
}

void CheckedFrameEncoder::Take(std::span<const std::byte> frame, const Sink& sink) {
  decodes_ = decodes_ && checker_.Add(frame, [this](std::span<const std::byte> content) {
    decoded_.Update(content);
  });
  sink(frame);
}

}  // namespace dsv3::convert
