#include "cli/foreign_words.h"

#include <string>

#include <gtest/gtest.h>

namespace dsv3::cli {
namespace {

TEST(ForeignWordsTest, WhatIsThereWithoutAnOptionIsSaid) {
  for (const char* const option : {"resume", "continue"}) {
    EXPECT_EQ(AdviceForOption(option, {}),
              "the same command without it continues where an interrupted run was");
  }
  EXPECT_EQ(AdviceForOption("device", {}), "everything runs on the CPU here");
  EXPECT_EQ(AdviceForOption("gpu", {}), "");
}

TEST(ForeignWordsTest, OptionsUnderAnotherNameNeedThatOption) {
  EXPECT_EQ(AdviceForOption("force", {"overwrite"}), "did you mean --overwrite?");
  EXPECT_EQ(AdviceForOption("force", {"yes"}), "");
}

TEST(ForeignWordsTest, CommandsOfOtherProgramsAreThoseOfTheTool) {
  EXPECT_EQ(AdviceForCommand("dsv3-convert", "bf16-to-int4"), "use 'quantize --to int4'");
  EXPECT_EQ(AdviceForCommand("dsv3-convert", "fp8-to-int8"), "use 'quantize --to int8'");
  EXPECT_EQ(AdviceForCommand("dsv3-convert", "gguf"), "did you mean 'to-gguf'?");
  EXPECT_EQ(AdviceForCommand("dsv3-verify", "validate"), "'all' runs every check");
  EXPECT_EQ(AdviceForCommand("dsv3-verify", "gguf"), "");
}

}  // namespace
}  // namespace dsv3::cli
