#include "cli/progress_text.h"

#include <gtest/gtest.h>

namespace dsv3::cli {
namespace {

ProgressState HalfWay() {
  ProgressState state;
  state.phase = "converting";
  state.done_bytes = 344'300'000'000;
  state.total_bytes = 688'600'000'000;
  state.bytes_per_second = 1.72e9;
  state.file = "model-00012-of-000163.safetensors";
  return state;
}

TEST(ProgressBarTest, ShowsAllOnAWideTerminal) {
  EXPECT_EQ(ProgressBar(HalfWay(), 140),
            "converting   50%  ETA 3:20  344.3 GB / 688.6 GB  1.7 GB/s  [##########..........]  "
            "model-00012-of-000163.safetensors");
}

TEST(ProgressBarTest, LeavesOutWhatDoesNotFit) {
  EXPECT_EQ(ProgressBar(HalfWay(), 100),
            "converting   50%  ETA 3:20  344.3 GB / 688.6 GB  1.7 GB/s  [##########..........]");
  EXPECT_EQ(ProgressBar(HalfWay(), 80),
            "converting   50%  ETA 3:20  344.3 GB / 688.6 GB  1.7 GB/s  [#########.........]");
  EXPECT_EQ(ProgressBar(HalfWay(), 60),
            "converting   50%  ETA 3:20  344.3 GB / 688.6 GB  1.7 GB/s");
  EXPECT_EQ(ProgressBar(HalfWay(), 50), "converting   50%  ETA 3:20  344.3 GB / 688.6 GB");
  EXPECT_EQ(ProgressBar(HalfWay(), 40), "converting   50%  ETA 3:20  1.7 GB/s");
  EXPECT_EQ(ProgressBar(HalfWay(), 30), "converting   50%  ETA 3:20");
  EXPECT_EQ(ProgressBar(HalfWay(), 20), "converting   50%");
  for (unsigned columns = 0; columns < 200; ++columns) {
    EXPECT_LT(ProgressBar(HalfWay(), columns).size(), columns > 1 ? columns : 2) << columns;
  }
}

TEST(ProgressBarTest, GivesFiguresTheRoomOfTheBar) {
  ProgressState state = HalfWay();
  state.phase = "checking source tensors";
  EXPECT_EQ(ProgressBar(state, 80),
            "checking source tensors   50%  ETA 3:20  344.3 GB / 688.6 GB  1.7 GB/s");
}

TEST(ProgressBarTest, SaysHundredPercentOnlyWhenDone) {
  ProgressState state = HalfWay();
  state.done_bytes = state.total_bytes - 1;
  EXPECT_NE(ProgressBar(state, 140).find(" 99%"), std::string::npos);
  state.done_bytes = state.total_bytes;
  EXPECT_NE(ProgressBar(state, 140).find("100%"), std::string::npos);
  state.done_bytes = state.total_bytes + 5;
  EXPECT_NE(ProgressBar(state, 140).find("100%"), std::string::npos);
}

TEST(ProgressBarTest, DoesWithoutATotalAndWithoutARate) {
  ProgressState state;
  state.phase = "opening";
  EXPECT_EQ(ProgressBar(state, 80), "opening");
  EXPECT_EQ(ProgressLine(state), "opening");
  state.done_bytes = 5000;
  EXPECT_EQ(ProgressBar(state, 80), "opening  5.0 kB");
  EXPECT_EQ(ProgressLine(state), "opening: 5.0 kB");
}

TEST(ProgressBarTest, EscapesTheFileName) {
  ProgressState state;
  state.phase = "converting";
  state.file = "\x1b[2J";
  EXPECT_EQ(ProgressBar(state, 80), "converting  \\x1b[2J");
}

TEST(ProgressLineTest, SaysHowFarAndHowLong) {
  EXPECT_EQ(ProgressLine(HalfWay()),
            "converting: 344.3 GB of 688.6 GB (50%), 1.7 GB/s, 3 min 20 s left");
}

TEST(SecondsLeftTest, SaysNothingThatItCannotKnow) {
  ProgressState state = HalfWay();
  state.bytes_per_second = 0;
  EXPECT_FALSE(SecondsLeft(state));
  state.bytes_per_second = 1;
  EXPECT_FALSE(SecondsLeft(state)) << "more than a month is no estimate";
  state.bytes_per_second = 1e9;
  state.total_bytes = 0;
  EXPECT_FALSE(SecondsLeft(state));
}

TEST(RateMeterTest, FollowsTheRateAndForgetsTheOldOne) {
  RateMeter meter;
  EXPECT_EQ(meter.bytes_per_second(), 0);
  for (int i = 0; i < 10; ++i) meter.Add(0.1, 100);
  EXPECT_NEAR(meter.bytes_per_second(), 1000, 1e-6) << "right from the first sample on";
  meter.Add(0.1, 0);
  EXPECT_GT(meter.bytes_per_second(), 800) << "one pause hardly counts";
  for (int i = 0; i < 400; ++i) meter.Add(0.1, 200);
  EXPECT_NEAR(meter.bytes_per_second(), 2000, 1) << "40 s later the old rate is forgotten";
  meter.Add(0, 1'000'000);
  EXPECT_NEAR(meter.bytes_per_second(), 2000, 1) << "no time, no rate";
}

}  // namespace
}  // namespace dsv3::cli
