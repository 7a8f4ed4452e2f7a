#include "convert/verify/checksum_lists.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/open/hub.h"
#include "formats/checkpoint_files.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"
#include "formats/relative_name.h"
#include "formats/sums_file.h"
#include "formats/text_encoding.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::BadSumsLine;
using formats::SumsEntry;

constexpr std::array<std::string_view, 3> kSuffixes = {".sha256", ".sha256sum", ".sha256.txt"};

// What to do about a list that cannot be used. Anything else would vouch for what is there.
constexpr std::string_view kAdvice =
    "put the publisher's list in its place, or correct it; until then nothing says that the files "
    "are right";

// Of NAME.sha256 NAME; empty for names of lists of several files.
std::string SubjectOf(const std::string& list) {
  const std::string lower = formats::AsciiLower(list);
  for (const std::string_view suffix : kSuffixes) {
    if (lower.ends_with(suffix)) return list.substr(0, list.size() - suffix.size());
  }
  return "";
}

// Relative names of all lists below the directory and their signatures, SHA256SUMS first, then
// sorted.
std::vector<std::string> FindLists(const fs::path& directory) {
  std::vector<std::string> lists;
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    const std::string base = entry->path().filename().string();
    std::error_code ignored;
    if (entry->symlink_status(ignored).type() == fs::file_type::directory) {
      if (base == ".git" || base == ".cache") entry.disable_recursion_pending();
    } else if (formats::IsSumsName(base) || formats::IsSumsSignatureName(base)) {
      lists.push_back(entry->path().lexically_relative(directory).generic_string());
    }
  }
  if (error) throw IoError("list", directory.string(), error.value());
  std::sort(lists.begin(), lists.end(), [](const std::string& a, const std::string& b) {
    return std::pair(a != formats::kSumsName, std::string_view(a)) <
           std::pair(b != formats::kSumsName, std::string_view(b));
  });
  return lists;
}

// The kind of the first digest that is not a SHA-256.
std::string OtherDigestOf(const formats::SumsFile& sums) {
  const auto known = std::find_if(sums.other_digests.begin(), sums.other_digests.end(),
                                  [](const std::string& kind) { return !kind.empty(); });
  return known == sums.other_digests.end() ? "such as MD5 or SHA-512" : *known;
}

bool IsText(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < ' ' &&
           std::string_view("\t\n\v\f\r").find(c) == std::string_view::npos;
  });
}

// What a list is in which no line is of a known form.
std::string DescribeUseless(const std::string& text, const formats::SumsFile& sums) {
  const auto all = [&](BadSumsLine form) {
    return std::count(sums.bad_forms.begin(), sums.bad_forms.end(), form) * 2 >
           static_cast<std::ptrdiff_t>(sums.bad_forms.size());
  };
  const std::string utf8 = formats::ToUtf8(text);
  const std::size_t begin = utf8.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "it is empty";
  if (utf8[begin] == '<') {
    return "it is an HTML or XML page, perhaps a login or error page that was saved instead of the "
           "list";
  }
  if (ParseLfsPointer(utf8)) return "it is a git-lfs pointer instead of the list itself";
  if (utf8[begin] == '{' || utf8[begin] == '[') {
    return "it is a JSON text and not a list as `sha256sum` writes it";
  }
  if (!IsText(utf8)) return "it is not a text; where it is compressed, unpack it";
  if (all(BadSumsLine::kSwapped)) {
    return "its columns are swapped: each line has the file's name first and the digest second, "
           "and the digest must come first, as `sha256sum` writes it";
  }
  if (all(BadSumsLine::kOtherDigest)) {
    return fmt::format("its digests are of another kind, {}, and SHA-256 is needed",
                       OtherDigestOf(sums));
  }
  if (all(BadSumsLine::kCutName)) {
    return "the names of its files are cut off, as PowerShell does where a table does not fit into "
           "the console; make it again with `Format-List`";
  }
  return "no line of it is of a form that is known (\"SHA-256  NAME\", \"SHA256 (NAME) = "
         "SHA-256\")";
}

std::string DescribeBadLine(const formats::SumsFile& sums, std::size_t i) {
  switch (sums.bad_forms[i]) {
    case BadSumsLine::kSwapped:
      return "it has the file's name first and the digest second";
    case BadSumsLine::kOtherDigest:
      return fmt::format(
          "its digest is of another kind than SHA-256, {}",
          sums.other_digests[i].empty() ? "which one is not known" : sums.other_digests[i]);
    case BadSumsLine::kCutName:
      return "the file's name is cut off at \"...\"";
    case BadSumsLine::kUnknown:
      break;
  }
  return "it is not of the form \"SHA-256  NAME\"";
}

// Lists that were made on Windows have backslashes between folders.
std::string WithSlashes(std::string name) {
  std::replace(name.begin(), name.end(), '\\', '/');
  return name;
}

// Without characters of `set` at both ends, unless it has no others.
std::string Trimmed(const std::string& text, std::string_view set) {
  const std::size_t begin = text.find_first_not_of(set);
  if (begin == std::string::npos) return text;
  return text.substr(begin, text.find_last_not_of(set) + 1 - begin);
}

std::string WithoutBlanks(const std::string& name) { return Trimmed(name, " \t"); }

// Puts what the lists of a directory say into one basis.
class Collector {
 public:
  explicit Collector(const fs::path& directory) : directory_(directory) {
    basis_.kind = CheckChecksumsReport::Basis::kSha256Sums;
  }

  // Throws Error (kBadInput) for a list that cannot be used.
  void Add(const std::string& list) {
    Add(List{list, list}, formats::ReadSmallFile(directory_ / list, formats::kMaxSumsBytes));
  }

  // The same for a list from elsewhere, which is shown by its path.
  void AddFrom(const fs::path& path) {
    // BLAKE3 has as many digits as SHA-256.
    const std::string_view other = formats::OtherDigestOfName(path.filename().string());
    if (!other.empty()) {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: its name says that its digests are of another kind, {}, and "
                              "SHA-256 is needed; {}",
                              formats::ShownPath(path), other, kAdvice),
                  {path.string(), ""});
    }
    Add(List{path.string(), path.filename().string()},
        formats::ReadSmallFile(path, formats::kMaxSumsBytes));
  }

  // Nothing where no list names a file.
  std::optional<ChecksumBasis> Take() {
    if (lists_.empty()) return std::nullopt;
    basis_.name = lists_[0];
    const std::size_t more = lists_.size() - 1;
    if (more == 1) basis_.name += " and 1 more list";
    if (more > 1) basis_.name += fmt::format(" and {} more lists", more);
    return std::move(basis_);
  }

 private:
  struct List {
    std::string shown;
    std::string place;  // relative to the directory
  };

  void Add(const List& list, const std::string& text) {
    formats::SumsFile sums = formats::ParseSums(text);
    if (sums.entries.empty() && !SubjectOf(list.place).empty()) {
      // A digest alone with blanks behind it.
      sums = formats::ParseSums(Trimmed(formats::ToUtf8(text), " \t\r\n"));
    }
    if (sums.entries.empty()) {
      if (IsSignature(list.place, text)) {
        basis_.lists.insert(list.place);
        return;
      }
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: {}; {}", formats::ShownPath(list.shown),
                              DescribeUseless(text, sums), kAdvice),
                  {list.shown, ""});
    }
    for (std::size_t i = 0; i < sums.bad_lines.size(); ++i) {
      Fault(list, fmt::format("line {} cannot be used: {}; correct the line, or put the "
                              "publisher's list in its place",
                              sums.bad_lines[i], DescribeBadLine(sums, i)));
    }
    lists_.push_back(list.shown);
    basis_.lists.insert(list.place);
    if (sums.entries.size() == 1 && TakeSubject(list, sums.entries[0])) return;
    const std::string above = FolderAbove(list, sums.entries);
    for (const SumsEntry& entry : sums.entries) AddEntry(list, entry, above);
  }

  bool Exists(const std::string& name) const { return formats::Exists(directory_ / name); }

  // The signature of a list that is another file. What lies alone under such a name was to be a
  // list.
  bool IsSignature(const std::string& name, std::string_view text) const {
    if (text.starts_with("-----BEGIN PGP SIGNATURE-----")) return true;
    const std::string base = fs::path(name).filename().string();
    return formats::IsSumsSignatureName(base) &&
           (!formats::IsSumsName(base) || Exists(name.substr(0, name.rfind('.'))));
  }

  // The folder, with a slash behind it, that all names begin with and that is not there: of lists
  // that were made from above the model. Empty where the names are right as they are, or where no
  // file is there without the folder either.
  std::string FolderAbove(const List& list, const std::vector<SumsEntry>& entries) const {
    const auto any_there = [&](std::size_t without) {
      return std::any_of(entries.begin(), entries.end(), [&](const SumsEntry& entry) {
        const std::string name = WithSlashes(entry.name).substr(without);
        return formats::OutsidePath(name).empty() && Exists(InFolderOf(list.place, name));
      });
    };
    std::string common = WithSlashes(entries.front().name);
    common.resize(common.rfind('/') + 1);  // to nothing where there is none
    for (const SumsEntry& entry : entries) {
      const std::string name = WithSlashes(entry.name);
      while (!name.starts_with(common)) {
        common.pop_back();
        common.resize(common.rfind('/') + 1);
      }
    }
    if (common.empty() || any_there(0)) return "";
    for (std::size_t slash = common.find('/'); slash != common.npos;
         slash = common.find('/', slash + 1)) {
      if (any_there(slash + 1)) return common.substr(0, slash + 1);
    }
    return "";
  }

  // What NAME.sha256 is about: NAME or NAME.safetensors, beside it or, where the lists have a
  // folder of their own, at the top.
  std::string FileOfSubject(const std::string& subject) const {
    constexpr const char* kWeights = ".safetensors";
    const std::string base = fs::path(subject).filename().string();
    for (const std::string& name : {subject, subject + kWeights, base, base + kWeights}) {
      if (Exists(name)) return name;
    }
    return subject;
  }

  // NAME.sha256 that is about NAME.
  bool TakeSubject(const List& list, const SumsEntry& entry) {
    const std::string given = SubjectOf(list.place);
    if (given.empty() || given.ends_with('/')) return false;
    const std::string subject = FileOfSubject(given);
    const std::string_view name = entry.name;
    const std::string_view last = name.substr(name.find_last_of("/\\") + 1);
    const bool about_it = name.empty() || name == "-" || last == fs::path(subject).filename();
    if (!about_it && (!Exists(subject) || Exists(InFolderOf(list.place, entry.name)))) return false;
    Expect(list, subject, entry.sha256);
    return true;
  }

  static std::string InFolderOf(const std::string& list, const std::string& name) {
    const fs::path folder = fs::path(list).parent_path();
    return folder.empty() ? name : (folder / name).lexically_normal().generic_string();
  }

  // `above`: see FolderAbove.
  void AddEntry(const List& list, const SumsEntry& entry, const std::string& above) {
    if (entry.name.empty()) {
      Fault(list, fmt::format("line {} cannot be used: it has a digest and no name; correct the "
                              "line, or put the publisher's list in its place",
                              entry.line));
      return;
    }
    if (entry.name == "-") {
      Fault(list, fmt::format("line {} cannot be used: it has the digest of a standard input "
                              "(\"-\"), which names no file; write the file's name in its place",
                              entry.line));
      return;
    }
    const std::string given =
        above.empty() ? entry.name : WithSlashes(entry.name).substr(above.size());
    const std::string_view outside = formats::OutsidePath(given);
    if (!outside.empty()) {
      Fault(list, fmt::format("it lists {}, {}; only files in the directory are checked",
                              QuoteForMessage(entry.name), outside));
      return;
    }
    const std::string file = FileOf(list, given);
    // A list that was made of all files holds a digest of what there was of itself then.
    if (file == list.place && list.shown == list.place) return;
    Expect(list, file, entry.sha256);
  }

  // The file that a list calls `given`, as programs and editors change names: Windows' slashes and
  // encodings, columns that blanks align, a column of sizes or git-lfs's marks before the name, and
  // lists in a folder of their own. A name under which there is nothing stays as it is.
  std::string FileOf(const List& list, const std::string& given) const {
    const std::string trimmed = WithoutBlanks(given);
    // `git lfs ls-files --long` marks a file that is not fetched by '-', and others by '*'.
    const std::size_t column =
        trimmed.starts_with("- ")
            ? 1
            : std::min(trimmed.find_first_not_of("0123456789"), trimmed.size());
    const bool has_column = column > 0 && column < trimmed.size() &&
                            WithoutBlanks(trimmed.substr(column)).size() < trimmed.size() - column;
    std::vector<std::string> names;
    for (const std::string& name :
         {given, trimmed, has_column ? WithoutBlanks(trimmed.substr(column)) : trimmed}) {
      names.push_back(InFolderOf(list.place, name));
      names.push_back(name);
    }
    for (const std::string& name : names) {
      for (const std::string& other : {name, WithSlashes(name), formats::Latin1ToUtf8(name)}) {
        if (formats::OutsidePath(other).empty() && Exists(other)) return other;
      }
    }
    return InFolderOf(list.place, trimmed);
  }

  void Expect(const List& list, const std::string& name, const std::string& sha256) {
    ExpectedFile& expected = basis_.files[name];
    if (!expected.sha256.empty() && expected.sha256 != sha256) {
      Fault(list,
            fmt::format("it gives {} another digest than {} does; find out which of them is the "
                        "publisher's",
                        formats::ShownPath(name),
                        expected.record == list.shown ? "an earlier line" : expected.record));
      return;
    }
    expected.sha256 = sha256;
    expected.record = list.shown;
  }

  void Fault(const List& list, const std::string& problem) {
    basis_.findings.push_back({.severity = formats::Severity::kError,
                               .kind = "bad-sums-line",
                               .file = list.shown,
                               .tensor = {},
                               .message = formats::ShownPath(list.shown) + ": " + problem,
                               .unreadable = false});
  }

  const fs::path& directory_;
  ChecksumBasis basis_;
  std::vector<std::string> lists_;
};

}  // namespace

SumsLists ReadSumsLists(const fs::path& directory) {
  SumsLists lists;
  Collector collector(directory);
  for (const std::string& list : FindLists(directory)) {
    try {
      collector.Add(list);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kIo) throw;
      lists.unreadable.push_back(error);
    }
  }
  lists.basis = collector.Take();
  return lists;
}

ChecksumBasis ReadSumsList(const fs::path& list, const fs::path& directory) {
  Collector collector(directory);
  collector.AddFrom(list);
  std::optional<ChecksumBasis> basis = collector.Take();
  if (!basis) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: it is the signature of a list; give the list itself",
                            formats::ShownPath(list)),
                {list.string(), ""});
  }
  return *std::move(basis);
}

}  // namespace dsv3::convert
