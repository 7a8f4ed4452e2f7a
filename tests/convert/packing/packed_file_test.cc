#include "convert/packing/packed_file.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/packing/chunk_coder.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/safetensors.h"
#include "formats/zstd_frame.h"
#include "tests/convert/packing/packed_fixture.h"
#include "tests/formats/expect_error.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::SafetensorsHeader;
using testing::AsBytes;
using testing::ExpectBadInput;
using ::testing::HasSubstr;
using testing::RandomBytes;
using testing::SafetensorsFile;
using testing::TempDir;
using testing::TensorBytes;
using testing::WriteFile;

// A packed file on disk.
class Opened {
 public:
  explicit Opened(const std::string& content)
      : input_((WriteFile(dir_ / "p", content), dir_ / "p"), "m.safetensors.packed"),
        head_(ReadPackedHead(input_)) {}

  const PackedHead& head() const { return head_; }
  PackedChunks Chunks(std::size_t tensor) const {
    return ReadPackedChunks(input_, head_.streams.at(tensor));
  }
  // All bytes of the original.
  std::string Unpack() const;

 private:
  TempDir dir_;
  formats::InputFile input_;
  PackedHead head_;
};

std::string Opened::Unpack() const {
  std::string original = head_.original_head;
  ChunkDecoder decoder;
  for (std::size_t i = 0; i < head_.streams.size(); ++i) {
    const formats::SafetensorsTensor& tensor = head_.original.tensors.at(i);
    const PackedChunks chunks = Chunks(i);
    for (std::size_t k = 0; k < chunks.chunks.size(); ++k) {
      const PackedChunk& chunk = chunks.chunks[k];
      EXPECT_EQ(original.size(), head_.original_head.size() + tensor.begin + chunk.raw_begin);
      std::vector<std::byte> packed(chunk.bytes);
      input_.ReadAt(chunk.offset, packed);
      std::string raw(chunk.raw_bytes, 'x');
      decoder.Decode(packed, chunks.FramesOf(chunk), {}, {"p", tensor.name, k},
                     std::as_writable_bytes(std::span(raw)));
      original += raw;
    }
  }
  return original;
}

const std::vector<TensorBytes>& Tensors() {
  static const std::vector<TensorBytes> tensors = {
      {"b", Dtype::kBF16, {3, kPackedChunkBytes / 2}, RandomBytes(3 * kPackedChunkBytes, 1)},
      {"a \"odd\"\n\xC3\xA9", Dtype::kF32, {2, 5}, RandomBytes(40, 2)},
      {"scalar", Dtype::kI64, {}, RandomBytes(8, 3)},
      {"empty", Dtype::kF64, {4, 0}, ""},
      {"codes", Dtype::kF4, {6}, RandomBytes(3, 4)}};
  return tensors;
}

// Opens a packed file whose parts were changed, for what a writer would never write.
struct Parts {
  SafetensorsHeader header;
  std::string data;
};

Parts PartsOf(const std::string& packed) {
  Parts parts;
  parts.header = formats::ParseSafetensorsHeader(AsBytes(packed), packed.size(), "p");
  parts.data = packed.substr(parts.header.data_offset);
  return parts;
}

std::string Joined(const Parts& parts) {
  return formats::SerializeSafetensorsHeader(parts.header.tensors, parts.header.metadata) +
         parts.data;
}

void ExpectRefused(const std::function<void(Parts&)>& change, const std::string& problem) {
  Parts parts = PartsOf(testing::PackFile(SafetensorsFile(Tensors())));
  change(parts);
  ExpectBadInput([&] { Opened(Joined(parts)); }, "m.safetensors.packed: ", problem, "; ");
}

void Set(Parts& parts, std::string_view key, const std::string& value) {
  for (auto& [name, text] : parts.header.metadata) {
    if (name == key) text = value;
  }
}

// Puts other bytes in the place of a tensor.
void Replace(Parts& parts, std::size_t tensor, const std::string& bytes) {
  const auto begin = parts.header.tensors[tensor].begin;
  const auto old = parts.header.tensors[tensor].end - begin;
  parts.data.replace(begin, old, bytes);
  for (std::size_t i = tensor; i < parts.header.tensors.size(); ++i) {
    auto& entry = parts.header.tensors[i];
    if (i != tensor) entry.begin += bytes.size() - old;
    entry.end += bytes.size() - old;
    entry.shape = {entry.end - entry.begin};
  }
}

std::string TextFrame(std::string_view text) {
  std::string frame(formats::ZstdFrameBound(text.size()), '\0');
  frame.resize(formats::ZstdEncoder().Encode(AsBytes(text), formats::ZstdMethod::kText,
                                             std::as_writable_bytes(std::span(frame))));
  return frame;
}

TEST(PackedFileTest, GivesBackFilesOfAllKinds) {
  const std::string spaced = SafetensorsFile(Tensors(), "     ");
  // Another order of members, escapes, and no metadata.
  std::string strange =
      "{\"\\u0061\":{\"data_offsets\":[2,4],\"shape\":[1] ,\"dtype\":\"F16\"},"
      "\"z\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}";
  const std::uint64_t length = strange.size();
  strange = std::string(reinterpret_cast<const char*>(&length), 8) + strange + "1234";
  for (const std::string& original :
       {SafetensorsFile(Tensors()), spaced, strange, SafetensorsFile({}),
        SafetensorsFile(
            {{"__header__", Dtype::kU8, {1}, "x"}, {"__header___", Dtype::kU8, {0}, ""}})}) {
    const std::string packed = testing::PackFile(original);
    const Opened opened(packed);
    EXPECT_EQ(opened.Unpack(), original);
    EXPECT_EQ(opened.head().original.file_bytes, original.size());
    EXPECT_EQ(opened.head().original_head, original.substr(0, opened.head().original.data_offset));
    EXPECT_EQ(opened.head().digest, PartsOf(packed).header.digest);
  }
}

TEST(PackedFileTest, IsASafetensorsFileOfVectors) {
  const SafetensorsHeader header = PartsOf(testing::PackFile(SafetensorsFile(Tensors()))).header;
  EXPECT_TRUE(header.nonconformities.empty());
  ASSERT_EQ(header.tensors.size(), Tensors().size() + 1);
  EXPECT_EQ(header.tensors[0].name, "__header__");
  for (std::size_t i = 0; i < Tensors().size(); ++i) {
    EXPECT_EQ(header.tensors[i + 1].name, Tensors()[i].name);
    EXPECT_EQ(header.tensors[i + 1].dtype, Dtype::kU8);
    EXPECT_EQ(header.tensors[i + 1].shape.size(), 1U);
  }
  EXPECT_THAT(header.metadata,
              ::testing::ElementsAre(::testing::Pair("packed_version", "1"),
                                     ::testing::Pair("header", "__header__"),
                                     ::testing::Pair("chunk_bytes", "1048576"),
                                     ::testing::Pair("original_bytes", ::testing::_)));
  const SafetensorsHeader taken =
      PartsOf(testing::PackFile(SafetensorsFile(
                  {{"__header__", Dtype::kU8, {1}, "x"}, {"__header___", Dtype::kU8, {1}, "y"}})))
          .header;
  EXPECT_EQ(taken.tensors[0].name, "__header____");
}

TEST(PackedFileTest, FindsEveryChunk) {
  const Opened opened(testing::PackFile(SafetensorsFile(Tensors())));
  const PackedChunks chunks = opened.Chunks(0);
  ASSERT_EQ(chunks.chunks.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(chunks.chunks[i].raw_begin, i * kPackedChunkBytes);
    EXPECT_EQ(chunks.chunks[i].raw_bytes, kPackedChunkBytes);
    EXPECT_EQ(chunks.chunks[i].num_frames, 3U);
  }
  EXPECT_EQ(opened.Chunks(1).chunks.size(), 1U);
  EXPECT_TRUE(opened.Chunks(3).chunks.empty());
  EXPECT_EQ(NumPackedChunks(0), 0U);
  EXPECT_EQ(NumPackedChunks(1), 1U);
  EXPECT_EQ(NumPackedChunks(kPackedChunkBytes + 1), 2U);
}

TEST(PackedFileTest, OneTensorNeedsNoOthers) {
  const std::string original = SafetensorsFile(Tensors());
  const std::string packed = testing::PackFile(original);
  const Opened whole(packed);
  for (std::size_t i = 0; i < Tensors().size(); ++i) {
    const PackedStream& stream = whole.head().streams[i];
    std::string zeros = packed;
    const std::uint64_t streams = whole.head().streams[0].offset;
    std::memset(zeros.data() + streams, 0, zeros.size() - streams);
    zeros.replace(stream.offset, stream.bytes, packed, stream.offset, stream.bytes);
    const Opened opened(zeros);
    const PackedChunks chunks = opened.Chunks(i);
    std::string raw;
    for (const PackedChunk& chunk : chunks.chunks) {
      std::string piece(chunk.raw_bytes, 'x');
      ChunkDecoder().Decode(AsBytes(zeros).subspan(chunk.offset, chunk.bytes),
                            chunks.FramesOf(chunk), {}, {"p", "t", 0},
                            std::as_writable_bytes(std::span(piece)));
      raw += piece;
    }
    EXPECT_EQ(raw, Tensors()[i].bytes);
  }
}

TEST(PackedFileTest, RefusesOtherFiles) {
  ExpectBadInput([] { Opened{SafetensorsFile(Tensors())}; }, "no \"packed_version\"",
                 "it is no packed file");
  ExpectRefused([](Parts& parts) { Set(parts, "packed_version", "2"); },
                "of version '2', and this program knows version 1 alone");
  ExpectRefused([](Parts& parts) { parts.header.metadata.pop_back(); }, "no \"original_bytes\"");
  for (const char* bytes : {"0", "12", "4194312"}) {
    ExpectRefused([&](Parts& parts) { Set(parts, "chunk_bytes", bytes); },
                  "a multiple of 8 bytes up to 4.2 MB (4,194,304 bytes) is expected");
  }
  ExpectRefused([](Parts& parts) { Set(parts, "chunk_bytes", "-8"); },
                "a number of bytes is expected");
  ExpectRefused([](Parts& parts) { Set(parts, "original_bytes", "9"); }, "shorter than its header");
  ExpectRefused([](Parts& parts) { Set(parts, "original_bytes", "99999999999"); },
                "too many at the end");
  ExpectRefused([](Parts& parts) { Set(parts, "header", "none"); }, "lacks tensor 'none'");
  ExpectRefused([](Parts& parts) { parts.header.tensors[1].dtype = Dtype::kI8; }, "is I8 [");
}

TEST(PackedFileTest, RefusesTensorsThatAreNotTheOriginals) {
  ExpectRefused([](Parts& parts) { parts.header.tensors[2].name = "other"; }, "lacks tensor");
  ExpectRefused(
      [](Parts& parts) {
        parts.header.tensors.push_back(
            {"more", Dtype::kU8, {0}, parts.data.size(), parts.data.size()});
      },
      "has 6 tensors beside the header, and the original has 5");
}

TEST(PackedFileTest, RefusesDamagedHeaders) {
  const std::string head =
      Opened(testing::PackFile(SafetensorsFile(Tensors()))).head().original_head;
  ExpectRefused([](Parts& parts) { parts.data[20] = static_cast<char>(parts.data[20] ^ 1); },
                "of the frame of the original's header, ");
  ExpectRefused([&](Parts& parts) { Replace(parts, 0, TextFrame(head + " ")); },
                "another length than it says");
  ExpectRefused([&](Parts& parts) { Replace(parts, 0, TextFrame("abc")); },
                "another length than it says");
  std::string other = head;
  other[20] = '}';
  ExpectRefused([&](Parts& parts) { Replace(parts, 0, TextFrame(other)); }, "");
}

TEST(PackedFileTest, RefusesAHeaderThatIsTooLargeBeforeItIsRead) {
  Parts parts = PartsOf(testing::PackFile(SafetensorsFile({})));
  const std::uint64_t bytes = std::uint64_t{1} << 32;
  parts.header.tensors[0].end = bytes;
  parts.header.tensors[0].shape = {bytes};
  const std::string head =
      formats::SerializeSafetensorsHeader(parts.header.tensors, parts.header.metadata);
  const TempDir dir;
  WriteFile(dir / "p", head);
  std::filesystem::resize_file(dir / "p", head.size() + bytes);  // a hole
  ExpectBadInput([&] { ReadPackedHead(formats::InputFile(dir / "p", "p")); },
                 "the frame of the original's header is too large");
}

// Opens well, but the seek table of tensor "b" lies.
void ExpectStreamRefused(const std::function<void(std::string&)>& change,
                         const std::string& problem) {
  Parts parts = PartsOf(testing::PackFile(SafetensorsFile(Tensors())));
  const auto& entry = parts.header.tensors[1];
  std::string stream = parts.data.substr(entry.begin, entry.end - entry.begin);
  change(stream);
  Replace(parts, 1, stream);
  const Opened opened(Joined(parts));
  ExpectBadInput([&] { opened.Chunks(0); }, "m.safetensors.packed: of the stream of tensor 'b', ",
                 problem, "; restore");
}

// Changes the entries of a stream's seek table.
void EditEntries(std::string& stream,
                 const std::function<void(std::vector<formats::SeekEntry>&)>& edit) {
  std::uint64_t bytes = 0;
  std::vector<formats::SeekEntry> entries;
  ASSERT_EQ(formats::SeekTableBytesOf(AsBytes(stream).last(9), stream.size(), bytes), "");
  ASSERT_EQ(formats::ParseSeekTable(AsBytes(stream).last(bytes), stream.size(), entries), "");
  edit(entries);
  stream.resize(stream.size() - bytes);
  stream += formats::SerializeSeekTable(entries);
}

TEST(PackedFileTest, RefusesSeekTablesThatLie) {
  using Entries = std::vector<formats::SeekEntry>;
  ExpectStreamRefused([](std::string& stream) { stream.resize(8); },
                      "fewer bytes than a seek table");
  ExpectStreamRefused([](std::string& stream) { stream.back() = 'x'; },
                      "not those of a seek table");
  ExpectStreamRefused([](std::string& stream) { stream += "x"; }, "not those of a seek table");
  ExpectStreamRefused([](std::string& stream) { stream.insert(0, "x"); },
                      "fewer bytes than the stream");
  const auto edit = [](const std::function<void(Entries&)>& change, const std::string& problem) {
    ExpectStreamRefused([&](std::string& stream) { EditEntries(stream, change); }, problem);
  };
  edit([](Entries& entries) { entries[0].content_bytes = 1; }, "lacks the frame");
  edit([](Entries& entries) { entries[1].content_bytes = 0; }, "more chunks than it has");
  edit([](Entries& entries) { entries[3].content_bytes = 1; }, "larger than one can be");
  edit(
      [](Entries& entries) {
        entries[2].frame_bytes += entries.back().frame_bytes;
        entries.pop_back();
      },
      "larger than one can be");
  edit(
      [](Entries& entries) {
        entries.insert(entries.begin() + 3, 8, {1, 1});
        entries[2].frame_bytes -= 8;
      },
      "larger than one can be");
  edit([](Entries& entries) { entries[2].frame_bytes += 1; }, "more bytes than the stream has");
  edit(
      [](Entries& entries) {
        entries.insert(entries.begin() + 3, 50, {1, 0});
        entries[2].frame_bytes -= 50;
      },
      "more frames than it can have");
  ExpectStreamRefused(
      [](std::string& stream) {
        EditEntries(stream, [&](Entries& entries) {
          stream.erase(0, entries[0].frame_bytes + entries[1].frame_bytes + entries[2].frame_bytes);
          entries.erase(entries.begin(), entries.begin() + 3);
        });
      },
      "fewer chunks than it has");
}

TEST(PackedFileTest, EveryPrefixIsRefused) {
  const std::string packed =
      testing::PackFile(SafetensorsFile({{"a", Dtype::kF32, {2, 5}, RandomBytes(40, 2)}}));
  for (std::size_t size = 0; size < packed.size(); ++size) {
    ExpectBadInput([&] { Opened(packed.substr(0, size)); }, "m.safetensors.packed");
  }
}

}  // namespace
}  // namespace dsv3::convert
