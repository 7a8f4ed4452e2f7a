#include "formats/sums_file.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

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
  line = TrimmedLeft(line);
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

std::optional<SumsEntry> ParseLine(std::string_view line) {
  const bool escaped = line.starts_with('\\');
  if (escaped) line.remove_prefix(1);
  std::string_view name;
  std::string_view digits;
  if (const std::optional<TaggedLine> tagged = ParseTagged(line);
      tagged && (tagged->algorithm == "SHA256" || tagged->algorithm == "SHA2256")) {
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
  while (plain->starts_with("./") && plain->size() > 2) plain->erase(0, 2);
  return SumsEntry{std::move(*plain), *sha256};
}

bool IsHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdefABCDEF") == text.npos;
}

// The likely nature of a line that has no known form.
BadSumsLine JudgeBadLine(std::string_view line) {
  line = TrimmedRight(TrimmedLeft(line));
  if (line.size() > kDigits && Digest(line.substr(line.size() - kDigits))) {
    const std::string_view before = line.substr(0, line.size() - kDigits);
    if (IsBlank(before.back()) && !TrimmedRight(before).ends_with('=')) {
      return BadSumsLine::kSwapped;
    }
  }
  // MD5, SHA-1, SHA-224, SHA-384, SHA-512.
  constexpr std::array<std::size_t, 5> kOthers = {32, 40, 56, 96, 128};
  const std::optional<TaggedLine> tagged = ParseTagged(line);
  const std::string_view first =
      tagged ? tagged->digits : line.substr(0, std::min(line.find_first_of(" \t"), line.size()));
  const bool other =
      IsHex(first) && std::find(kOthers.begin(), kOthers.end(), first.size()) != kOthers.end();
  return other ? BadSumsLine::kOtherDigest : BadSumsLine::kUnknown;
}

// Goes through a text's lines without their ends.
class Lines {
 public:
  explicit Lines(std::string_view text) : text_(text) {
    if (text.find('\n') != text.npos) return;
    // `sha256sum -z` ends lines with NUL, old editors with CR alone.
    end_ = text.find('\0') != text.npos ? '\0' : '\r';
  }

  std::optional<std::string_view> Next() {
    if (begin_ >= text_.size()) return std::nullopt;
    const std::size_t end = std::min(text_.find(end_, begin_), text_.size());
    std::string_view line = text_.substr(begin_, end - begin_);
    begin_ = end + 1;
    ++number_;
    if (line.ends_with('\r')) line.remove_suffix(1);
    return line;
  }
  std::size_t number() const { return number_; }  // of the last line, from 1

 private:
  std::string_view text_;
  char end_ = '\n';
  std::size_t begin_ = 0;
  std::size_t number_ = 0;
};

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

SumsFile ParseSums(std::string_view bytes) {
  const std::string text = ToUtf8(bytes);
  SumsFile sums;
  Lines lines(text);
  PgpFrame frame;
  while (const std::optional<std::string_view> line = lines.Next()) {
    const std::string_view shown = TrimmedLeft(*line);
    if (frame.Holds(*line) || shown.empty() || shown[0] == '#' || shown[0] == ';') continue;
    if (std::optional<SumsEntry> entry = ParseLine(*line)) {
      entry->line = lines.number();
      sums.entries.push_back(std::move(*entry));
    } else {
      sums.bad_lines.push_back(lines.number());
      sums.bad_forms.push_back(JudgeBadLine(*line));
    }
  }
  return sums;
}

}  // namespace dsv3::formats
