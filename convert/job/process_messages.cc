#include "convert/job/process_messages.h"

#include <charconv>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "formats/error.h"

namespace dsv3::convert {
namespace {

// The first line of a message, whose numbers one blank parts.
std::vector<std::uint64_t> TakeNumbers(std::string_view& text) {
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos) {
    throw Error(ErrorCode::kInternal, "a message of another process came in pieces");
  }
  std::vector<std::uint64_t> numbers;
  const char* at = text.data();
  while (at < text.data() + end) {
    std::uint64_t number = 0;
    const auto [next, error] = std::from_chars(at, text.data() + end, number);
    if (error != std::errc()) throw Error(ErrorCode::kInternal, "a message is not of this version");
    numbers.push_back(number);
    at = next + 1;
  }
  text.remove_prefix(end + 1);
  return numbers;
}

}  // namespace

bool IsShared(const WorkSharing* sharing) { return sharing != nullptr && sharing->processes() > 1; }

bool IsHelper(const WorkSharing* sharing) { return IsShared(sharing) && sharing->process() != 0; }

std::string WorkOrderText(const WorkOrder& order) {
  return fmt::format("{}\n{}", fmt::join(order.files, " "), JournalHeadLine(order.head));
}

WorkOrder ParseWorkOrder(const std::string& text) {
  std::string_view rest = text;
  WorkOrder order;
  order.files = TakeNumbers(rest);
  order.head = ParseJournalHead(rest);
  return order;
}

std::string WorkResultText(const WorkResult& result) {
  return fmt::format("{} {}\n{}", result.bytes_read, result.bytes_written,
                     JournalLines(result.records));
}

WorkResult ParseWorkResult(const std::string& text) {
  std::string_view rest = text;
  const std::vector<std::uint64_t> numbers = TakeNumbers(rest);
  WorkResult result;
  result.bytes_read = numbers.at(0);
  result.bytes_written = numbers.at(1);
  result.records = ParseJournalLines(rest);
  return result;
}

}  // namespace dsv3::convert
