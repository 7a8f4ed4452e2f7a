#include "formats/sums_file.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "formats/sums_windows.h"
#include "formats/text_encoding.h"

namespace dsv3::formats {
namespace {

constexpr std::size_t kDigits = 64;
constexpr std::string_view kEscaped = "\\\n\r";

// The digest in lowercase; nothing when the text is not a digest.
std::optional<std::string> Digest(std::string_view text) {
  if (text.size() != kDigits) return std::nullopt;
  std::string digest = AsciiLower(text);
  if (digest.find_first_not_of("0123456789abcdef") != digest.npos) return std::nullopt;
  return digest;
}

std::optional<std::string> Unescaped(std::string_view text) {
  std::string name;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      name.push_back(text[i]);
      continue;
    }
    if (++i == text.size()) return std::nullopt;
    switch (text[i]) {
      case '\\':
        name.push_back('\\');
        break;
      case 'n':
        name.push_back('\n');
        break;
      case 'r':
        name.push_back('\r');
        break;
      default:
        return std::nullopt;
    }
  }
  return name;
}

bool IsBlank(char c) { return c == ' ' || c == '\t'; }

std::string_view TrimmedLeft(std::string_view text) {
  while (!text.empty() && IsBlank(text.front())) text.remove_prefix(1);
  return text;
}

std::string_view TrimmedRight(std::string_view text) {
  while (!text.empty() && IsBlank(text.back())) text.remove_suffix(1);
  return text;
}

// The name of a digest without blanks and '-', in capitals: "SHA256".
std::string AlgorithmName(std::string_view text) {
  std::string name;
  for (const char c : text) {
    if (c == '-' || IsBlank(c)) continue;
    name.push_back(c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c);
  }
  return name;
}

// "ALGORITHM (NAME) = HEX", with or without the blanks.
struct TaggedLine {
  std::string algorithm;
  std::string_view name;
  std::string_view digits;
};

std::optional<TaggedLine> ParseTagged(std::string_view line) {
  line = TrimmedRight(line);
  const std::size_t equals = line.rfind('=');
  const std::size_t open = line.find('(');
  if (equals == line.npos || open == line.npos) return std::nullopt;
  const std::string_view before = TrimmedRight(line.substr(0, equals));
  if (!before.ends_with(')') || before.size() < open + 2) return std::nullopt;
  return TaggedLine{AlgorithmName(line.substr(0, open)),
                    before.substr(open + 1, before.size() - open - 2),
                    TrimmedLeft(line.substr(equals + 1))};
}

// "HEX  NAME", "HEX *NAME", "HEX NAME", or HEX alone.
struct PlainLine {
  std::string_view name;
  std::string_view digits;
};

std::optional<PlainLine> ParsePlain(std::string_view line) {
  constexpr std::string_view kPrefix = "sha256:";  // as registries write digests
  line = TrimmedLeft(line);
  if (AsciiLower(line.substr(0, kPrefix.size())) == kPrefix) line.remove_prefix(kPrefix.size());
  if (line.size() < kDigits) return std::nullopt;
  const std::string_view digits = line.substr(0, kDigits);
  std::string_view name = line.substr(kDigits);
  if (name.empty()) return PlainLine{"", digits};
  if (!IsBlank(name.front())) return std::nullopt;
  name.remove_prefix(1);
  // The second of two characters says whether the file was read as text; BSD has one blank alone.
  if (name.starts_with(' ') || name.starts_with('*')) name.remove_prefix(1);
  if (name.empty()) return std::nullopt;
  return PlainLine{name, digits};
}

bool IsHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdefABCDEF") == text.npos;
}

// `algorithm` as AlgorithmName gives it.
bool IsSha256(std::string_view algorithm) {
  return algorithm == "SHA256" || algorithm == "SHA2256";
}

// As most lists have names: relative to their own folder.
std::string WithoutDot(std::string name) {
  while (name.starts_with("./") && name.size() > 2) name.erase(0, 2);
  return name;
}

std::optional<SumsEntry> ParseLine(std::string_view line) {
  const bool escaped = line.starts_with('\\');
  if (escaped) line.remove_prefix(1);
  std::string_view name;
  std::string_view digits;
  if (const std::optional<TaggedLine> tagged = ParseTagged(line);
      tagged && IsSha256(tagged->algorithm)) {
    name = tagged->name;
    digits = tagged->digits;
    if (name.empty()) return std::nullopt;
  } else if (const std::optional<PlainLine> plain = ParsePlain(line)) {
    name = plain->name;
    digits = plain->digits;
  }
  const std::optional<std::string> sha256 = Digest(digits);
  std::optional<std::string> plain = escaped ? Unescaped(name) : std::string(name);
  if (!sha256 || !plain) return std::nullopt;
  return SumsEntry{WithoutDot(std::move(*plain)), *sha256};
}

// What a line that has no known form is.
struct BadLine {
  BadSumsLine form = BadSumsLine::kUnknown;
  std::string other_digest = {};
};

// The kind of a digest by its number of digits; empty for 64, which several kinds have.
std::string_view DigestOfSize(std::size_t digits) {
  constexpr std::array<std::pair<std::size_t, std::string_view>, 5> kKinds = {
      {{32, "MD5"}, {40, "SHA-1"}, {56, "SHA-224"}, {96, "SHA-384"}, {128, "SHA-512"}}};
  for (const auto& [size, name] : kKinds) {
    if (size == digits) return name;
  }
  return "";
}

// A digest of `algorithm`, as the line calls it.
BadLine OtherDigest(std::string_view algorithm, std::string_view digits) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 12> kNames = {
      {{"SHA1", "SHA-1"},
       {"SHA3256", "SHA3-256"},
       {"SHA3512", "SHA3-512"},
       {"BLAKE2B512", "BLAKE2b"},
       {"SHA224", "SHA-224"},
       {"SHA2224", "SHA-224"},
       {"SHA384", "SHA-384"},
       {"SHA2384", "SHA-384"},
       {"SHA512", "SHA-512"},
       {"SHA2512", "SHA-512"},
       {"BLAKE2B", "BLAKE2b"},
       {"BLAKE2S", "BLAKE2s"}}};
  if (digits.empty() || !IsHex(digits)) return {};
  const std::string name = AlgorithmName(algorithm);
  if (name.empty()) return {BadSumsLine::kOtherDigest, std::string(DigestOfSize(digits.size()))};
  for (const auto& [written, shown] : kNames) {
    if (written == name) return {BadSumsLine::kOtherDigest, std::string(shown)};
  }
  return {BadSumsLine::kOtherDigest, name};
}

// Whether the last word of a line is a digest behind a name: also of tables, CSV and JSON.
bool IsSwapped(std::string_view line) {
  constexpr std::string_view kFrame = " \t\"'`|,;:{}[]";
  const std::size_t end = line.find_last_not_of(kFrame) + 1;
  if (end <= kDigits || !Digest(line.substr(end - kDigits, kDigits))) return false;
  const std::string_view before = line.substr(0, end - kDigits);
  const bool is_word = kFrame.find(before.back()) != kFrame.npos;
  return is_word && before.find_first_not_of(kFrame) != before.npos &&
         !TrimmedRight(before).ends_with('=');
}

// The likely nature of a line that has no known form.
BadLine JudgeBadLine(std::string_view line) {
  line = TrimmedRight(TrimmedLeft(line));
  if (IsSwapped(line)) return {BadSumsLine::kSwapped};
  if (const std::optional<TaggedLine> tagged = ParseTagged(line)) {
    if (!IsSha256(tagged->algorithm)) return OtherDigest(tagged->algorithm, tagged->digits);
    return {};
  }
  const std::string_view first = line.substr(0, std::min(line.find_first_of(" \t"), line.size()));
  return DigestOfSize(first.size()).empty() ? BadLine() : OtherDigest("", first);
}

// The lines of a text without their ends.
std::vector<std::string_view> LinesOf(std::string_view text) {
  char last = '\n';
  // `sha256sum -z` ends lines with NUL, old editors with CR alone.
  if (text.find('\n') == text.npos) last = text.find('\0') != text.npos ? '\0' : '\r';
  std::vector<std::string_view> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(last, begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    begin = end + 1;
  }
  return lines;
}

// Says which lines of a text that PGP signed belong to its frame.
class PgpFrame {
 public:
  bool Holds(std::string_view line) {
    if (line.starts_with("-----BEGIN PGP SIGNED MESSAGE-----")) return in_head_ = true;
    if (line.starts_with("-----BEGIN PGP SIGNATURE-----")) return in_signature_ = true;
    if (in_head_ && TrimmedLeft(line).empty()) {
      in_head_ = false;
      return true;
    }
    return in_head_ || in_signature_;
  }

 private:
  bool in_head_ = false;
  bool in_signature_ = false;
};

}  // namespace

bool IsSumsName(std::string_view file_name) {
  constexpr std::array<std::string_view, 8> kEnds = {"sha256sums", "sha256sum", "shasums256",
                                                     "shasums",    "checksums", "checksum",
                                                     "sha256",     "sha-256"};
  std::string name = AsciiLower(file_name);
  for (const std::string_view extension : {".txt", ".asc"}) {
    if (name.ends_with(extension)) name.resize(name.size() - extension.size());
  }
  return std::any_of(kEnds.begin(), kEnds.end(),
                     [&](std::string_view end) { return name.ends_with(end); });
}

bool IsSumsSignatureName(std::string_view file_name) {
  constexpr std::array<std::string_view, 6> kExtensions = {".asc",  ".gpg",     ".sig",
                                                           ".sign", ".minisig", ".sigstore"};
  const std::string name = AsciiLower(file_name);
  return std::any_of(kExtensions.begin(), kExtensions.end(), [&](std::string_view extension) {
    return name.ends_with(extension) &&
           IsSumsName(std::string_view(name).substr(0, name.size() - extension.size()));
  });
}

std::string SumsLine(std::string_view name, std::string_view sha256) {
  std::string line;
  if (name.find_first_of(kEscaped) != name.npos) line.push_back('\\');
  line += sha256;
  if (!name.empty()) line += "  ";
  for (const char c : name) {
    if (c == '\\') {
      line += "\\\\";
    } else if (c == '\n') {
      line += "\\n";
    } else if (c == '\r') {
      line += "\\r";
    } else {
      line.push_back(c);
    }
  }
  line.push_back('\n');
  return line;
}

std::string_view OtherDigestOfName(std::string_view file_name) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 17> kKinds = {
      {{"md5", "MD5"},
       {"sha1", "SHA-1"},
       {"sha224", "SHA-224"},
       {"sha384", "SHA-384"},
       {"sha512", "SHA-512"},
       {"b2", "BLAKE2"},
       {"blake2", "BLAKE2"},
       {"b3", "BLAKE3"},
       {"blake3", "BLAKE3"},
       {"xxh64", "XXH64"},
       {"xxh128", "XXH128"},
       {"xxh32", "XXH32"},
       {"xxh3", "XXH3"},
       {"xxh", "xxHash"},
       {"crc32", "CRC32"},
       {"crc32c", "CRC32C"},
       {"sfv", "CRC32"}}};
  std::string name = AsciiLower(file_name);
  for (const std::string_view extension : {".txt", ".asc"}) {
    if (name.ends_with(extension)) name.resize(name.size() - extension.size());
  }
  const bool is_list = name.ends_with("sum") || name.ends_with("sums");
  if (is_list) name.resize(name.rfind("sum"));
  for (const auto& [kind, shown] : kKinds) {
    if (!name.ends_with(kind)) continue;
    const std::string_view before = std::string_view(name).substr(0, name.size() - kind.size());
    if (before.ends_with('.') ||
        (is_list && (before.empty() || before.ends_with('_') || before.ends_with('-')))) {
      return shown;
    }
  }
  return "";
}

bool MayBeSumsName(std::string_view file_name) {
  constexpr std::array<std::string_view, 6> kWords = {"sha256", "sha-256", "checksum",
                                                      "shasum", "hashes",  "digests"};
  constexpr std::array<std::string_view, 14> kExtensions = {
      ".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".yaml",
      ".yml", ".xml",  ".html",  ".gz",  ".zst", ".xz", ".zip"};
  const std::string name = AsciiLower(file_name);
  const auto in_name = [&](std::string_view word) { return name.find(word) != name.npos; };
  const auto at_end = [&](std::string_view extension) { return name.ends_with(extension); };
  return std::any_of(kWords.begin(), kWords.end(), in_name) &&
         (name.find('.') == name.npos ||
          std::any_of(kExtensions.begin(), kExtensions.end(), at_end));
}

SumsFile ParseSums(std::string_view bytes) {
  const std::string text = ToUtf8(bytes);
  const std::vector<std::string_view> lines = LinesOf(text);
  SumsFile sums;
  PgpFrame frame;
  bool in_table = false;  // of PowerShell, which puts blanks around names
  const auto add_bad = [&](std::size_t line, BadLine bad) {
    sums.bad_lines.push_back(line + 1);
    sums.bad_forms.push_back(bad.form);
    sums.other_digests.push_back(std::move(bad.other_digest));
  };
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string_view shown = TrimmedLeft(lines[i]);
    if (frame.Holds(lines[i]) || shown.empty() || shown[0] == '#' || shown[0] == ';') continue;
    if (std::optional<SumsEntry> entry = ParseLine(lines[i])) {
      entry->line = i + 1;
      if (in_table) entry->name = std::string(TrimmedRight(TrimmedLeft(entry->name)));
      sums.entries.push_back(std::move(*entry));
    } else if (const auto windows = TakeWindowsDigest(std::span(lines).subspan(i))) {
      const std::optional<std::string> sha256 = Digest(windows->digits);
      const std::string algorithm = AlgorithmName(windows->algorithm);
      if (!sha256 || !(algorithm.empty() || IsSha256(algorithm))) {
        add_bad(i, OtherDigest(windows->algorithm, windows->digits));
      } else if (windows->name_is_cut) {
        add_bad(i, {BadSumsLine::kCutName});
      } else {
        sums.entries.push_back({WithoutDot(windows->name), *sha256, i + 1});
      }
      i += windows->lines - 1;
    } else if (IsWindowsFrame(lines[i])) {
      in_table = true;
    } else {
      add_bad(i, JudgeBadLine(lines[i]));
    }
  }
  return sums;
}

}  // namespace dsv3::formats
