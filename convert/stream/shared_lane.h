#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "convert/stream/appended_file.h"
#include "convert/stream/shared_panel.h"

namespace dsv3::convert {

// The next bytes of a file: bytes [begin, end) of a cut of a panel, of its header, or zeros.
struct Segment {
  enum class Kind { kCut, kHeader, kZeros };
  Kind kind = Kind::kCut;
  SharedPanel* panel = nullptr;  // of kCut
  std::size_t cut = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  bool last = false;  // of its cut in this file
};

// A file that advances. The executor's lock guards all members but `file`, `header` and `taken`,
// which belong to the thread that has set `busy`.
struct SharedLane {
  explicit SharedLane(AppendedFile appended) : file(std::move(appended)) {}

  AppendedFile file;
  std::string header;            // while it is being appended
  std::deque<Segment> segments;  // to come
  std::vector<Segment> taken;
  bool busy = false;
  bool ended = false;  // committed

  // Whether the bytes that come next are there.
  bool CanAdvance() const {
    return !busy && !segments.empty() &&
           (segments.front().panel == nullptr || segments.front().panel->ready);
  }
  std::uint64_t FrontNumber() const {
    return segments.front().panel == nullptr ? 0 : segments.front().panel->number;
  }

  // Sets busy, and moves the segments that are ready and fit into the buffer from `segments` to
  // `taken`.
  void Take() {
    taken.clear();
    std::uint64_t room = file.room();
    while (room > 0 && CanAdvance()) {
      Segment& front = segments.front();
      Segment& part = taken.emplace_back(front);
      part.end = std::min(front.end, front.begin + room);
      part.last = part.end == front.end;
      room -= part.end - part.begin;
      front.begin = part.end;
      if (part.last) segments.pop_front();
    }
    busy = true;
  }

  // Gives the taken segments to the file.
  void Stage() {
    for (const Segment& segment : taken) {
      const auto begin = static_cast<std::size_t>(segment.begin);
      const auto bytes = static_cast<std::size_t>(segment.end - segment.begin);
      switch (segment.kind) {
        case Segment::Kind::kHeader:
          if (begin == 0) header = FileHeader(file.file());
          file.Stage(std::as_bytes(std::span(header)).subspan(begin, bytes));
          if (segment.last) header = std::string();
          break;
        case Segment::Kind::kZeros:
          file.StageZeros(bytes);
          break;
        case Segment::Kind::kCut:
          file.Stage(segment.panel->cuts[segment.cut].bytes.subspan(begin, bytes));
          break;
      }
    }
  }
};

}  // namespace dsv3::convert
