#include "formats/sums_windows.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "formats/text_encoding.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kBlanks = " \t";

std::string_view Trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

// Takes the first word, in quotes or not, and the blanks behind it.
std::string_view TakeWord(std::string_view& text) {
  const std::size_t end = std::min(text.find_first_of(kBlanks), text.size());
  const std::string_view word = text.substr(0, end);
  text = Trimmed(text.substr(end));
  return word;
}

bool IsHexDigest(std::string_view text) {
  constexpr std::array<std::size_t, 5> kSizes = {32, 40, 64, 96, 128};
  return std::find(kSizes.begin(), kSizes.end(), text.size()) != kSizes.end() &&
         text.find_first_not_of("0123456789abcdefABCDEF") == text.npos;
}

bool IsAlgorithm(std::string_view word) {
  constexpr std::array<std::string_view, 9> kNames = {
      "md2", "md4", "md5", "sha1", "sha256", "sha384", "sha512", "mactripledes", "ripemd160"};
  return std::find(kNames.begin(), kNames.end(), AsciiLower(word)) != kNames.end();
}

// Whether PowerShell put dots in place of the end of a name.
bool IsCut(std::string_view name) { return name.ends_with("...") || name.ends_with("\u2026"); }

WindowsDigest Found(std::string_view algorithm, std::string_view digits, std::string_view name,
                    std::size_t lines) {
  return {std::string(algorithm), std::string(digits), std::string(name), IsCut(name), lines};
}

// "SHA256 hash of NAME:", "SHA256-Hash von NAME:", "Hachage SHA256 de NAME :" …: the algorithm and
// the name.
std::optional<std::pair<std::string_view, std::string_view>> CertutilHead(std::string_view line) {
  line = Trimmed(line);
  if (!line.ends_with(':')) return std::nullopt;
  line.remove_suffix(1);
  line = Trimmed(line);
  for (std::size_t at = 0; at < line.size();) {
    const std::size_t end = std::min(line.find_first_of(" \t-", at), line.size());
    const std::string_view word = line.substr(at, end - at);
    at = end + 1;
    if (!IsAlgorithm(word)) continue;
    std::string_view name = at < line.size() ? line.substr(at) : std::string_view();
    // The words before the name, in the languages that have them.
    constexpr std::array<std::string_view, 19> kWords = {
        "hash",         "of",      "file", "von",     "der",   "datei",   "de",
        "du",           "del",     "da",   "do",      "di",    "fichier", "archivo",
        "\u6587\u4ef6", "arquivo", "van",  "bestand", "\u7684"};
    for (std::string_view rest = name; !rest.empty();) {
      const std::string word_of_name = AsciiLower(TakeWord(rest));
      if (std::find(kWords.begin(), kWords.end(), word_of_name) == kWords.end()) break;
      if (!rest.empty()) name = rest;
    }
    if (name.empty()) return std::nullopt;
    return std::pair(word, name);
  }
  return std::nullopt;
}

std::optional<WindowsDigest> TakeCertutil(std::span<const std::string_view> lines) {
  const auto head = CertutilHead(lines[0]);
  if (!head || lines.size() < 2) return std::nullopt;
  std::string digits(lines[1]);
  std::erase_if(digits, [](char c) { return kBlanks.find(c) != kBlanks.npos; });
  if (!IsHexDigest(digits)) return std::nullopt;
  return Found(head->first, digits, head->second, 2);
}

// "Hash      : HEX": the member's name in lowercase and its value.
std::optional<std::pair<std::string, std::string>> ListMember(std::string_view line) {
  const std::size_t colon = line.find(':');
  if (colon == line.npos) return std::nullopt;
  const std::string name = AsciiLower(Trimmed(line.substr(0, colon)));
  if (name != "algorithm" && name != "hash" && name != "path") return std::nullopt;
  return std::pair(name, std::string(Trimmed(line.substr(colon + 1))));
}

std::optional<WindowsDigest> TakeFormatList(std::span<const std::string_view> lines) {
  WindowsDigest found;
  std::string last;
  for (; found.lines < lines.size(); ++found.lines) {
    const std::string_view line = lines[found.lines];
    if (Trimmed(line).empty()) break;
    const auto member = ListMember(line);
    const bool goes_on = !member && !last.empty() && kBlanks.find(line[0]) != kBlanks.npos;
    if (!member && !goes_on) break;
    if (member) last = member->first;
    std::string& value = last == "algorithm" ? found.algorithm
                         : last == "hash"    ? found.digits
                                             : found.name;
    if (member && !value.empty()) break;  // the next one, without an empty line between them
    value += member ? member->second : std::string(Trimmed(line));
  }
  if (found.digits.empty() || found.name.empty()) return std::nullopt;
  found.name_is_cut = IsCut(found.name);
  return found;
}

std::optional<WindowsDigest> TakeTableLine(std::string_view line) {
  std::string_view rest = Trimmed(line);
  const std::string_view algorithm = TakeWord(rest);
  const std::string_view digits = TakeWord(rest);
  if (!IsAlgorithm(algorithm) || !IsHexDigest(digits) || rest.empty()) return std::nullopt;
  return Found(algorithm, digits, rest, 1);
}

std::optional<WindowsDigest> TakeCsvLine(std::string_view line) {
  line = Trimmed(line);
  if (line.size() < 2 || line.front() != '"' || line.back() != '"') return std::nullopt;
  line = line.substr(1, line.size() - 2);
  constexpr std::string_view kBetween = "\",\"";
  std::vector<std::string_view> values;
  for (std::size_t end = line.find(kBetween); values.size() < 2 && end != line.npos;
       end = line.find(kBetween)) {
    values.push_back(line.substr(0, end));
    line.remove_prefix(end + kBetween.size());
  }
  if (values.size() != 2 || !IsAlgorithm(values[0]) || !IsHexDigest(values[1]) || line.empty()) {
    return std::nullopt;
  }
  return Found(values[0], values[1], line, 1);
}

}  // namespace

std::optional<WindowsDigest> TakeWindowsDigest(std::span<const std::string_view> lines) {
  if (lines.empty()) return std::nullopt;
  if (auto found = TakeTableLine(lines[0])) return found;
  if (auto found = TakeCsvLine(lines[0])) return found;
  if (auto found = TakeFormatList(lines)) return found;
  return TakeCertutil(lines);
}

bool IsWindowsFrame(std::string_view line) {
  // What certutil could not do has a number of the error.
  if (line.starts_with("CertUtil: ")) return line.find("0x") == line.npos;
  line = Trimmed(line);
  bool any = false;
  while (!line.empty()) {
    const std::string_view word = TakeWord(line);
    if (word.find_first_not_of('-') != word.npos && word != "Algorithm" && word != "Hash" &&
        word != "Path" && word != "\"Algorithm\",\"Hash\",\"Path\"") {
      return false;
    }
    any = true;
  }
  return any;
}

}  // namespace dsv3::formats
