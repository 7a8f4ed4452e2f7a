#include "cli/progress_text.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "cli/units.h"

namespace dsv3::cli {

namespace {

constexpr double kRateSeconds = 4;  // what lies further back than this hardly counts
constexpr std::size_t kBarCells = 20;

std::string Rate(double bytes_per_second) {
  return FormatBytes(static_cast<std::uint64_t>(bytes_per_second)) + "/s";
}

double Fraction(const ProgressState& state) {
  const double done = static_cast<double>(std::min(state.done_bytes, state.total_bytes));
  return done / static_cast<double>(state.total_bytes);
}

}  // namespace

void RateMeter::Add(double seconds, std::uint64_t bytes) {
  if (seconds <= 0) return;
  const double keep = std::exp(-seconds / kRateSeconds);
  weighted_rate_ = weighted_rate_ * keep + static_cast<double>(bytes) / seconds * (1 - keep);
  weight_ = weight_ * keep + (1 - keep);
}

double RateMeter::bytes_per_second() const { return weight_ > 0 ? weighted_rate_ / weight_ : 0; }

std::optional<double> SecondsLeft(const ProgressState& state) {
  if (state.bytes_per_second <= 0 || state.total_bytes == 0) return std::nullopt;
  const std::uint64_t left = state.total_bytes - std::min(state.done_bytes, state.total_bytes);
  const double seconds = static_cast<double>(left) / state.bytes_per_second;
  constexpr double kNotWorthSaying = 1000.0 * 3600;
  if (seconds > kNotWorthSaying) return std::nullopt;
  return seconds;
}

std::string ProgressBar(const ProgressState& state, unsigned columns) {
  const std::size_t room = columns > 1 ? columns - 1 : 1;
  std::string line = state.phase;
  const auto append = [&](const std::string& part) {
    if (line.size() + 2 + part.size() <= room) line += "  " + part;
  };
  if (state.total_bytes > 0) {
    const double fraction = Fraction(state);
    // Rounded down: 100% means done.
    append(fmt::format("{:3}%", static_cast<int>(fraction * 100)));
    const auto filled = static_cast<std::size_t>(fraction * kBarCells);
    const std::string bar =
        "[" + std::string(filled, '#') + std::string(kBarCells - filled, '.') + "]";
    // The bar is worth its room only where the figures fit beside it.
    if (room >= 72) append(bar);
    append(FormatBytes(state.done_bytes) + " / " + FormatBytes(state.total_bytes));
  } else if (state.done_bytes > 0) {
    append(FormatBytes(state.done_bytes));
  }
  if (state.bytes_per_second > 0) append(Rate(state.bytes_per_second));
  if (const auto left = SecondsLeft(state)) append("ETA " + FormatClock(*left));
  if (!state.file.empty()) append(Printable(state.file));
  if (line.size() > room) line.resize(room);
  return line;
}

std::string ProgressLine(const ProgressState& state) {
  std::string line = state.phase;
  if (state.total_bytes > 0) {
    line += fmt::format(": {} of {} ({}%)", FormatBytes(state.done_bytes),
                        FormatBytes(state.total_bytes), static_cast<int>(Fraction(state) * 100));
  } else if (state.done_bytes > 0) {
    line += ": " + FormatBytes(state.done_bytes);
  }
  if (state.bytes_per_second > 0) line += ", " + Rate(state.bytes_per_second);
  if (const auto left = SecondsLeft(state); left && state.done_bytes > 0) {
    line += ", " + FormatSeconds(*left) + " left";
  }
  return line;
}

}  // namespace dsv3::cli
