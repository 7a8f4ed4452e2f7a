#include "convert/open/model_files.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/freed_shard.h"
#include "formats/hash/xxh3.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

// The bytes before the data of a shard. One that an unfinished run freed has left them.
std::string ReadHeader(const SourceFile& file, const std::vector<formats::FreedShard>& freed) {
  const formats::InputFile input = formats::OpenOrFreed(file.path, file.name, freed);
  std::uint64_t length = 0;
  input.ReadAt(0, std::as_writable_bytes(std::span(&length, 1)));
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  if (length <= formats::kMaxSafetensorsHeaderBytes) {
    bytes.resize(sizeof(length) + length);
    input.ReadAt(0, std::as_writable_bytes(std::span(bytes)));
  }
  if (formats::Xxh3Hex(bytes) != file.header_digest) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the header changed while it was read; run the command again when "
                            "nobody writes to the source",
                            formats::ShownPath(file.name)),
                {file.name, ""});
  }
  return bytes;
}

std::vector<std::string> ReadHeaders(const OpenedModel& model) {
  std::vector<std::string> headers(model.catalog.files_end());
  tbb::parallel_for(std::size_t{0}, headers.size(), [&](std::size_t i) {
    headers[i] = ReadHeader(model.catalog.files()[i], model.freed);
  });
  return headers;
}

}  // namespace

std::string ReadIndexText(const std::filesystem::path& directory) {
  return formats::ReadSmallFile(directory / formats::kShardIndexName, kMaxIndexBytes);
}

formats::SafetensorsHeader ParseHeader(const SourceFile& shard, const std::string& header) {
  return formats::ParseSafetensorsHeader(std::as_bytes(std::span(header)), shard.bytes, shard.name);
}

ModelFiles ReadModelFiles(const OpenedModel& model) {
  if (model.assembled) return {model.assembled->index, model.assembled->headers};
  ModelFiles files;
  files.headers = ReadHeaders(model);
  if (model.form == formats::CheckpointFiles::Form::kIndexed) {
    files.index = ReadIndexText(model.directory);
  }
  return files;
}

}  // namespace dsv3::convert
