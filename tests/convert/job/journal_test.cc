#include "convert/job/journal.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/hash/xxh3.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using ::testing::HasSubstr;

JournalHead Head() {
  JournalHead head;
  head.recipe = "fp8-to-bf16";
  head.fingerprint = "0123456789abcdef";
  head.sources = {{"model.safetensors", 1234, -5, "aa"},
                  {"odd \"name\"\n.txt", 0, 7, ""},
                  {"model.safetensors", 55, 8, "bb", "scales-from"}};
  head.outputs = {"model.safetensors", "code/x.py"};
  head.replaced = {"old.txt"};
  head.sides = {{"w_scale_inv", {"cc", "dd"}}};
  head.input = "'/models/my model'";
  head.command = "dsv3-convert fp8-to-bf16 '/models/my model'";
  head.options = {{"b", "[\"x\",1]"}, {"a", "false"}};
  return head;
}

FileRecord Record(const std::string& name) {
  FileRecord record;
  record.name = name;
  record.bytes = 99;
  record.file = {"", "5a5a"};
  record.tensors.resize(2);
  record.tensors[0] = {{"a", "b"}, {"c", "d"}, 3};
  record.tensors[1].output.xxh3 = "e";
  record.tensors[1].all_zero = true;
  record.tensors[1].zero_runs = 4;
  record.tensors[1].zero_blocks = 5;
  return record;
}

class JournalTest : public ::testing::Test {
 protected:
  std::filesystem::path Path() const { return dir_.path() / kJournalName; }

  // A journal whose head has one record beside it, and three appended in two calls.
  std::string WriteJournal() {
    Journal journal(file_system_, dir_.path(), Head(), {Record("first")});
    journal.Append({Record("second"), Record("third/x")});
    journal.Append({Record("fourth")});
    return testing::ReadFile(Path());
  }

  // A line with a right digest.
  static std::string Line(const std::string& body) {
    return formats::Xxh3Hex(testing::AsBytes(body)) + " " + body + "\n";
  }
  static std::string HeadLine(const std::string& text) { return text.substr(0, text.find('\n')); }

  testing::QuickFileSystem file_system_;
  testing::TempDir dir_{testing::MemoryDirectory()};
};

TEST_F(JournalTest, ReadsBackWhatWasWritten) {
  WriteJournal();
  const std::optional<JournalState> state = Journal::Read(dir_.path());
  ASSERT_TRUE(state);
  EXPECT_EQ(state->head.recipe, Head().recipe);
  EXPECT_EQ(state->head.fingerprint, Head().fingerprint);
  EXPECT_EQ(state->head.sources, Head().sources);
  EXPECT_EQ(state->head.outputs, Head().outputs);
  EXPECT_EQ(state->head.replaced, Head().replaced);
  ASSERT_EQ(state->head.sides.size(), 1U);
  EXPECT_EQ(state->head.sides[0].tensor, "w_scale_inv");
  EXPECT_EQ(state->head.sides[0].digests.xxh3, "cc");
  EXPECT_EQ(state->head.input, Head().input);
  EXPECT_EQ(state->head.command, Head().command);
  EXPECT_EQ(state->head.options, Head().options);
  EXPECT_EQ(state->head.sides[0].digests.sha256, "dd");
  ASSERT_EQ(state->files.size(), 4U);
  const FileRecord& record = state->files.at("third/x");
  EXPECT_EQ(record.bytes, 99U);
  EXPECT_EQ(record.file.sha256, "5a5a");
  ASSERT_EQ(record.tensors.size(), 2U);
  EXPECT_EQ(record.tensors[0].output.xxh3, "a");
  EXPECT_EQ(record.tensors[0].output.sha256, "b");
  EXPECT_EQ(record.tensors[0].streamed.xxh3, "c");
  EXPECT_EQ(record.tensors[0].streamed.sha256, "d");
  EXPECT_EQ(record.tensors[0].nan_codes, 3U);
  EXPECT_FALSE(record.tensors[0].all_zero);
  EXPECT_EQ(record.tensors[1].output.xxh3, "e");
  EXPECT_TRUE(record.tensors[1].all_zero);
  EXPECT_EQ(record.tensors[0].zero_runs, 0U);
  EXPECT_EQ(record.tensors[1].zero_runs, 4U);
  EXPECT_EQ(record.tensors[1].zero_blocks, 5U);
}

TEST_F(JournalTest, EveryPrefixReadsAsItsWholeLines) {
  const std::string text = WriteJournal();
  for (std::size_t length = 0; length <= text.size(); ++length) {
    const std::string prefix = text.substr(0, length);
    testing::WriteFile(Path(), prefix);
    const auto whole_lines =
        static_cast<std::size_t>(std::count(prefix.begin(), prefix.end(), '\n'));
    const std::optional<JournalState> state = Journal::Read(dir_.path());
    ASSERT_EQ(state.has_value(), whole_lines > 0) << length;
    if (!state) continue;
    ASSERT_EQ(state->files.size(), whole_lines - 1) << length;
  }
}

TEST_F(JournalTest, ADamagedByteEndsTheReadingAtItsLine) {
  const std::string text = WriteJournal();
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (const char flip : {'\1', '\x40'}) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ flip);
      testing::WriteFile(Path(), damaged);
      // The space behind the digest is the one byte that no digest covers; nothing is read of it.
      const auto lines_before = static_cast<std::size_t>(
          std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(i), '\n'));
      if (text[i] == ' ' && (i == 32 || text[i - 33] == '\n')) continue;
      const std::optional<JournalState> state = Journal::Read(dir_.path());
      const std::size_t lines = state ? state->files.size() + 1 : 0;
      ASSERT_EQ(lines, lines_before) << "byte " << i;
    }
  }
}

TEST_F(JournalTest, ReplacesAJournalWithoutAMomentInWhichThereIsNone) {
  WriteJournal();
  JournalHead head = Head();
  head.fingerprint = "another";
  const Journal journal(file_system_, dir_.path(), head, {});
  const std::optional<JournalState> state = Journal::Read(dir_.path());
  ASSERT_TRUE(state);
  EXPECT_EQ(state->head.fingerprint, "another");
  EXPECT_TRUE(state->files.empty());
  EXPECT_FALSE(std::filesystem::exists(Path().string() + ".partial"));
}

TEST_F(JournalTest, RefusesNamesThatLeadOutOfTheDirectory) {
  const std::string text = WriteJournal();
  for (const char* name : {"../x", "/etc/passwd", "a/../../b", ""}) {
    const std::string head = R"({"dsv3_journal":1,"recipe":"r","fingerprint":"f","sources":[],)"
                             R"("outputs":[],"replaced":[],"sides":[]})";
    for (const char* place : {"outputs", "replaced"}) {
      std::string bad_head = head;
      const std::string key = std::string("\"") + place + "\":[";
      bad_head.insert(bad_head.find(key) + key.size(), std::string("\"") + name + "\"");
      testing::WriteFile(Path(), Line(bad_head));
      EXPECT_EQ(testing::ErrorOf([&] { Journal::Read(dir_.path()); }).code(), ErrorCode::kUsage)
          << place << " " << name;
    }
    testing::WriteFile(Path(), Line(head) + Line(std::string(R"({"file":")") + name +
                                                 R"(","bytes":1,"digests":["",""],"tensors":[]})"));
    EXPECT_EQ(testing::ErrorOf([&] { Journal::Read(dir_.path()); }).code(), ErrorCode::kUsage)
        << "file " << name;
  }
}

TEST_F(JournalTest, KeepsQualityToTheLastDigit) {
  FileRecord record = Record("quantised");
  quant::Quality quality;
  quality.elements = 1;
  quality.nonfinite = 2;
  quality.saturated = 3;
  quality.flushed_to_zero = 4;
  quality.blocks = 5;
  quality.kept_blocks = 6;
  quality.changed_codes = UINT64_MAX;
  quality.max_abs_error = 0.1;
  quality.sum_squared_error = 1.0 / 3.0 * 1e-300;
  quality.sum_squares = std::numeric_limits<double>::infinity();
  record.tensors[1].quality = std::make_shared<quant::Quality>(quality);
  Journal(file_system_, dir_.path(), Head(), {record});
  const std::optional<JournalState> state = Journal::Read(dir_.path());
  ASSERT_TRUE(state);
  const FileRecord& read = state->files.at("quantised");
  EXPECT_FALSE(read.tensors[0].quality);
  ASSERT_TRUE(read.tensors[1].quality);
  const quant::Quality& found = *read.tensors[1].quality;
  EXPECT_EQ(found.elements, 1U);
  EXPECT_EQ(found.nonfinite, 2U);
  EXPECT_EQ(found.saturated, 3U);
  EXPECT_EQ(found.flushed_to_zero, 4U);
  EXPECT_EQ(found.blocks, 5U);
  EXPECT_EQ(found.kept_blocks, 6U);
  EXPECT_EQ(found.changed_codes, UINT64_MAX);
  EXPECT_EQ(found.max_abs_error, quality.max_abs_error);
  EXPECT_EQ(found.sum_squared_error, quality.sum_squared_error);
  EXPECT_EQ(found.sum_squares, quality.sum_squares);
}

TEST_F(JournalTest, OneThatDoesNotRecordTheCommandIsReadToo) {
  const std::string body = HeadLine(WriteJournal()).substr(33);
  testing::WriteFile(Path(), Line(body.substr(0, body.find(",\"input\"")) + "}"));
  const std::optional<JournalState> state = Journal::Read(dir_.path());
  ASSERT_TRUE(state);
  EXPECT_EQ(state->head.fingerprint, Head().fingerprint);
  EXPECT_EQ(state->head.command, "");
  EXPECT_TRUE(state->head.options.empty());
}

TEST_F(JournalTest, AnotherVersionIsForTheUserToDecide) {
  std::string body = HeadLine(WriteJournal()).substr(33);
  const std::string version = "\"dsv3_journal\":2";
  ASSERT_NE(body.find(version), std::string::npos);
  body.replace(body.find(version), version.size(), "\"dsv3_journal\":1");
  testing::WriteFile(Path(), Line(body));
  const Error error = testing::ErrorOf([&] { Journal::Read(dir_.path()); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("not of this version"));
  EXPECT_THAT(error.message(), HasSubstr(Path().string()));
}

TEST_F(JournalTest, NoneIsNothing) { EXPECT_FALSE(Journal::Read(dir_.path())); }

// Such as on a file system that cannot rename.
TEST_F(JournalTest, AJournalThatCannotBeBegunLeavesNothing) {
  std::size_t failures = 0;
  for (bool failed = true; failed; ++failures) {
    testing::FaultyFileSystem faulty(file_system_, failures, ENOSYS);
    try {
      const Journal journal(faulty, dir_.path(), Head(), {});
      failed = false;
    } catch (const Error& error) {
      EXPECT_THAT(error.message(), HasSubstr("Function not implemented"));
      // The directory may fail to be made durable when the journal has its name already.
      EXPECT_FALSE(std::filesystem::exists(dir_ / (std::string(kJournalName) + ".partial")));
    }
    std::filesystem::remove(Path());
  }
  EXPECT_GE(failures, 5U) << "create, write, sync, rename, sync";
  testing::FaultyFileSystem failing(file_system_, 3, EIO,
                                    testing::FaultyFileSystem::Failing::kFromThenOn);
  EXPECT_THAT(testing::ErrorOf([&] { Journal(failing, dir_.path(), Head(), {}); }).message(),
              HasSubstr("rename"));
}

}  // namespace
}  // namespace dsv3::convert
