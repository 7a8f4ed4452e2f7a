#include "formats/error.h"

#include <cerrno>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3 {
namespace {

using ::testing::HasSubstr;

TEST(ErrorTest, CarriesCodeMessageAndPlace) {
  const Error error(ErrorCode::kBadInput, "it is so", {.file = "f", .tensor = "t"});
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_STREQ(error.what(), "it is so");
  EXPECT_EQ(error.place().file, "f");
  EXPECT_EQ(error.place().tensor, "t");
}

TEST(ErrorTest, CodesAreTheExitCodesAndHaveStableNames) {
  EXPECT_EQ(static_cast<int>(ErrorCode::kVerification), 1);
  EXPECT_EQ(static_cast<int>(ErrorCode::kUsage), 2);
  EXPECT_EQ(static_cast<int>(ErrorCode::kBadInput), 3);
  EXPECT_EQ(static_cast<int>(ErrorCode::kIo), 4);
  EXPECT_EQ(static_cast<int>(ErrorCode::kInterrupted), 5);
  EXPECT_EQ(static_cast<int>(ErrorCode::kInternal), 70);
  EXPECT_EQ(ErrorCodeName(ErrorCode::kVerification), "verification");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kUsage), "usage");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kBadInput), "bad-input");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kIo), "io");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kInterrupted), "interrupted");
  EXPECT_EQ(ErrorCodeName(ErrorCode::kInternal), "internal");
}

TEST(ErrorTest, IoErrorSaysWhatFailedAndWhatToDo) {
  const Error full = IoError("write", "/out/a.partial", ENOSPC);
  EXPECT_EQ(full.code(), ErrorCode::kIo);
  EXPECT_EQ(full.place().file, "/out/a.partial");
  EXPECT_THAT(full.message(), HasSubstr("cannot write /out/a.partial: No space left on device"));
  EXPECT_THAT(full.message(), HasSubstr("free some space"));
  EXPECT_THAT(IoError("open", "x", EACCES).message(), HasSubstr("check the permissions"));
  EXPECT_THAT(IoError("create", "x", EROFS).message(), HasSubstr("read-only"));
  EXPECT_THAT(IoError("open", "x", EMFILE).message(), HasSubstr("ulimit -n"));
  EXPECT_THAT(IoError("create", "x", ENAMETOOLONG).message(),
              HasSubstr("File name too long; the file system takes no name this long"));
}

TEST(QuoteForMessageTest, ShowsWhatATerminalWouldObey) {
  EXPECT_EQ(QuoteForMessage("model.norm"), "'model.norm'");
  EXPECT_EQ(QuoteForMessage("é漢"), "'é漢'");
  EXPECT_EQ(QuoteForMessage("a\x1B[31m\n\x7F"), "'a\\x1b[31m\\x0a\\x7f'");
  EXPECT_EQ(QuoteForMessage(std::string_view("\0", 1)), "'\\x00'");
  EXPECT_EQ(QuoteForMessage("\xC2\x9B"), "'\\xc2\\x9b'");     // C1: CSI
  EXPECT_EQ(QuoteForMessage("\u202E"), "'\\xe2\\x80\\xae'");  // right-to-left override
  EXPECT_EQ(QuoteForMessage("\u2066"), "'\\xe2\\x81\\xa6'");
}

TEST(QuoteForMessageTest, CutsLongTextsBetweenCharacters) {
  const std::string quoted = QuoteForMessage(std::string(239, 'x') + "é" + std::string(50, 'y'));
  EXPECT_EQ(quoted, "'" + std::string(239, 'x') + "é...'");
}

}  // namespace
}  // namespace dsv3
