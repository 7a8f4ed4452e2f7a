#include "formats/io/unchanged_file.h"

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::formats {

void RequireUnchanged(const InputFile& file, std::uint64_t bytes, std::int64_t mtime_ns,
                      const std::string& tensor) {
  if (file.bytes() == bytes && file.mtime_ns() == mtime_ns) return;
  const std::string difference =
      file.bytes() == bytes
          ? "its size is the same, the time of its last change is not"
          : fmt::format("{} before, {} now", ExactBytes(bytes), ExactBytes(file.bytes()));
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: the file changed while it was being read ({}); wait until nothing "
                          "writes to it, then run the same command again",
                          ShownPath(file.name()), difference),
              {file.name(), tensor});
}

}  // namespace dsv3::formats
