#include "cli/progress_text.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "cli/units.h"

namespace dsv3::cli {

namespace {

constexpr double kRateSeconds = 4;  // bytes further back than this hardly count
constexpr std::size_t kMostBarCells = 20;
constexpr std::size_t kFewestBarCells = 8;  // fewer say nothing that the percentage does not

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
  std::size_t used = state.phase.size();
  // Parts are chosen and shown in the order in which a person needs them.
  const auto choose = [&](const std::string& part) -> std::string {
    if (part.empty() || used + 2 + part.size() > room) return "";
    used += 2 + part.size();
    return "  " + part;
  };
  const bool total = state.total_bytes > 0;
  const double fraction = total ? Fraction(state) : 0;
  // Rounded down: 100% means done.
  const std::string percent =
      choose(total ? fmt::format("{:3}%", static_cast<int>(fraction * 100)) : "");
  const auto left = SecondsLeft(state);
  const std::string eta = choose(left ? "ETA " + FormatClock(*left) : "");
  std::string amount;
  if (total) {
    amount = FormatBytes(state.done_bytes) + " / " + FormatBytes(state.total_bytes);
  } else if (state.done_bytes > 0) {
    amount = FormatBytes(state.done_bytes);
  }
  const std::string bytes = choose(amount);
  const std::string rate = choose(state.bytes_per_second > 0 ? Rate(state.bytes_per_second) : "");
  std::string bar;
  // Two brackets, and the two spaces before them.
  constexpr std::size_t kAround = 4;
  const bool all_figures = bytes.empty() == amount.empty() && eta.empty() == !left.has_value() &&
                           rate.empty() == (state.bytes_per_second <= 0);
  if (total && all_figures && used + kAround + kFewestBarCells <= room) {
    const std::size_t cells = std::min(kMostBarCells, room - used - kAround);
    const auto filled = static_cast<std::size_t>(fraction * static_cast<double>(cells));
    bar = choose("[" + std::string(filled, '#') + std::string(cells - filled, '.') + "]");
  }
  const std::string file = choose(Printable(state.file));
  std::string line = state.phase + percent + eta + bytes + rate + bar + file;
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
