#include "formats/npy_writer.h"

#include <cerrno>
#include <filesystem>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/npy_elements.h"
#include "tests/formats/expect_error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using testing::ErrorOf;
using testing::FaultyFileSystem;
using testing::ReadFile;
using testing::TempDir;
using testing::WriteFile;

std::vector<float> Counted(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 0.0F);
  return values;
}

// What numpy.save writes before the elements of a float32 array of this shape.
std::string NumPyHeader(const std::string& shape, std::size_t spaces, char length = 'v') {
  return std::string("\x93NUMPY\x01\x00", 8) + length + '\0' +
         "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }" +
         std::string(spaces, ' ') + "\n";
}

TEST(NpyFloatHeaderTest, IsThatOfNumPy) {
  EXPECT_EQ(NpyFloatHeader({2, 3}), NumPyHeader("(2, 3)", 58));
  EXPECT_EQ(NpyFloatHeader({}), NumPyHeader("()", 62));
  EXPECT_EQ(NpyFloatHeader({0, 7}), NumPyHeader("(0, 7)", 58));
  EXPECT_EQ(NpyFloatHeader({3}), NumPyHeader("(3,)", 60));
  std::string ones = "(1";
  for (int i = 1; i < 40; ++i) ones += ", 1";
  EXPECT_EQ(NpyFloatHeader(Shape(40, 1)), NumPyHeader(ones + ")", 72, '\xf6'));
  EXPECT_EQ(NpyFloatHeader(Shape(64, ~std::uint64_t{0})).size() % 64, 0U);
  EXPECT_EQ(ErrorOf([] { NpyFloatHeader(Shape(65, 1)); }).code(), ErrorCode::kInternal);
}

TEST(NpyWriterTest, WritesPiecesInAnyOrder) {
  const TempDir dir;
  const std::vector<float> values = Counted(6000);
  const std::span<const float> all(values);
  NpyWriter writer(PosixFileSystem(), dir / "a.npy", {60, 100});
  writer.Write(4000, all.subspan(4000, 1000));
  writer.Write(0, all.first(1));
  writer.Write(5000, all.subspan(5000));
  writer.Write(1, all.subspan(1, 99));
  writer.Write(2000, {});
  writer.Write(100, all.subspan(100, 3900));
  EXPECT_FALSE(std::filesystem::exists(dir / "a.npy"));
  writer.Commit();
  EXPECT_FALSE(std::filesystem::exists(dir / "a.npy.partial"));
  const std::string content = ReadFile(dir / "a.npy");
  EXPECT_EQ(content, NpyFloatHeader({60, 100}) + testing::AsString(std::as_bytes(all)));
  const InputFile file(dir / "a.npy", "a.npy");
  std::vector<float> read(values.size());
  ReadNpyFloats(file, ReadNpyHeader(file), 0, read);
  EXPECT_EQ(read, values);
}

TEST(NpyWriterTest, WritesScalarsAndEmptyArrays) {
  const TempDir dir;
  NpyWriter scalar(PosixFileSystem(), dir / "scalar.npy", {});
  scalar.Write(0, std::vector{1.5F});
  scalar.Commit();
  EXPECT_EQ(ReadFile(dir / "scalar.npy"), NpyFloatHeader({}) + std::string("\0\0\xc0\x3f", 4));
  NpyWriter empty(PosixFileSystem(), dir / "empty.npy", {0, 7});
  empty.Commit();
  EXPECT_EQ(ReadFile(dir / "empty.npy"), NpyFloatHeader({0, 7}));
}

TEST(NpyWriterTest, LeavesTheOldFileWhenItIsAbandoned) {
  const TempDir dir;
  WriteFile(dir / "a.npy", "old");
  {
    NpyWriter writer(PosixFileSystem(), dir / "a.npy", {4});
    writer.Write(0, Counted(4));
    EXPECT_TRUE(std::filesystem::exists(dir / "a.npy.partial"));
  }
  EXPECT_EQ(ReadFile(dir / "a.npy"), "old");
  EXPECT_FALSE(std::filesystem::exists(dir / "a.npy.partial"));
}

TEST(NpyWriterTest, RefusesElementsTwiceOutsideAndMissing) {
  const TempDir dir;
  NpyWriter writer(PosixFileSystem(), dir / "a.npy", {10});
  const auto code = [&](std::uint64_t begin, std::size_t count) {
    return ErrorOf([&] { writer.Write(begin, Counted(count)); }).code();
  };
  writer.Write(2, Counted(3));
  EXPECT_EQ(code(4, 1), ErrorCode::kInternal);
  EXPECT_EQ(code(2, 1), ErrorCode::kInternal);
  EXPECT_EQ(code(0, 3), ErrorCode::kInternal);
  EXPECT_EQ(code(0, 10), ErrorCode::kInternal);
  EXPECT_EQ(code(8, 3), ErrorCode::kInternal);
  EXPECT_EQ(code(11, 0), ErrorCode::kInternal);
  writer.Write(0, Counted(2));
  writer.Write(6, Counted(4));
  EXPECT_EQ(ErrorOf([&] { writer.Commit(); }).code(), ErrorCode::kInternal);
  writer.Write(5, Counted(1));
  writer.Commit();
  EXPECT_TRUE(std::filesystem::exists(dir / "a.npy"));
}

TEST(NpyWriterTest, RefusesBeforehandWhatCannotBeWritten) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "directory");
  const auto code = [&](const std::filesystem::path& path, const Shape& shape) {
    return ErrorOf([&] { NpyWriter(PosixFileSystem(), path, shape); }).code();
  };
  EXPECT_EQ(code(dir / "directory", {1}), ErrorCode::kUsage);
  EXPECT_EQ(code(dir / "none/a.npy", {1}), ErrorCode::kUsage);
  EXPECT_EQ(code(dir / "a.npy", {std::uint64_t{1} << 61}), ErrorCode::kInternal);
  EXPECT_EQ(code(dir / "a.npy", {std::uint64_t{1} << 32, std::uint64_t{1} << 32}),
            ErrorCode::kInternal);
  EXPECT_FALSE(std::filesystem::exists(dir / "a.npy.partial"));
}

TEST(NpyWriterTest, LeavesTheOldFileWhereTheDiskFails) {
  const auto write = [](FileSystem& fs, const std::filesystem::path& path) {
    NpyWriter writer(fs, path, {4});
    writer.Write(0, Counted(2));
    writer.Write(2, Counted(2));
    writer.Commit();
  };
  const TempDir complete;
  FaultyFileSystem none(PosixFileSystem(), 100, ENOSPC);
  write(none, complete / "a.npy");
  // The trial's two changes, create, three writes, fsync, rename, fsync of the directory.
  EXPECT_EQ(none.changes(), 9U);
  for (std::size_t fail_at = 0; fail_at < none.changes(); ++fail_at) {
    const TempDir dir;
    WriteFile(dir / "a.npy", "old");
    FaultyFileSystem fs(PosixFileSystem(), fail_at, ENOSPC);
    EXPECT_EQ(ErrorOf([&] { write(fs, dir / "a.npy"); }).code(), ErrorCode::kIo) << fail_at;
    const bool named = fail_at + 1 == none.changes();
    EXPECT_EQ(ReadFile(dir / "a.npy") == "old", !named) << fail_at;
    // A trial file that cannot be removed stays.
    EXPECT_EQ(std::filesystem::exists(dir / "a.npy.partial"), fail_at == 1) << fail_at;
  }
}

}  // namespace
}  // namespace dsv3::formats
