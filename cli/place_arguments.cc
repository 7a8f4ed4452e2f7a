#include "cli/place_arguments.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/given_paths.h"
#include "formats/io/dead_link.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"
#include "formats/text_encoding.h"

namespace dsv3::cli {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSchemeEnd = "://";
constexpr std::string_view kDefaultRevision = "main";

// The scheme of "scheme://…"; empty for a path.
std::string_view SchemeOf(std::string_view value) {
  const std::size_t end = value.find(kSchemeEnd);
  if (end == std::string_view::npos || end == 0) return {};
  const std::string_view scheme = value.substr(0, end);
  const bool fits = std::all_of(scheme.begin(), scheme.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '+' || c == '-' || c == '.';
  });
  return fits ? scheme : std::string_view();
}

bool IsNamePart(std::string_view part) {
  return !part.empty() && part != "." && part != ".." &&
         std::all_of(part.begin(), part.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' ||
                  c == '.';
         });
}

// "org/name" of what has exactly these two parts, or more behind them where `more` are allowed.
std::optional<std::string> RepositoryIn(std::string_view text, bool more) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const std::size_t end = std::min(text.find('/', slash + 1), text.size());
  if (end != text.size() && !more) return std::nullopt;
  const std::string_view org = text.substr(0, slash);
  const std::string_view name = text.substr(slash + 1, end - slash - 1);
  if (!IsNamePart(org) || !IsNamePart(name)) return std::nullopt;
  return fmt::format("{}/{}", org, name);
}

// A repository of the hub, and the branch, tag or commit where one is named.
struct HubName {
  std::string repository;
  std::string revision;
};

// The revision in what follows "ORG/NAME" in a web address: "/tree/REVISION/…".
std::string RevisionBehind(std::string_view rest) {
  for (const std::string_view view : {"/tree/", "/blob/", "/resolve/", "/raw/", "/commit/"}) {
    if (!rest.starts_with(view)) continue;
    rest.remove_prefix(view.size());
    std::string revision(rest.substr(0, rest.find_first_of("/?#")));
    constexpr std::string_view kSlash = "%2F";  // of "refs/pr/1"
    for (std::size_t at; (at = revision.find(kSlash)) != std::string::npos;) {
      revision.replace(at, kSlash.size(), "/");
    }
    return revision;
  }
  return "";
}

// "/pr/1" of "/pr/1/model.safetensors".
std::string FirstTwoParts(std::string_view rest) {
  return std::string(rest.substr(0, rest.find('/', rest.find('/', 1) + 1)));
}

// What `value` names on the hub: ORG/NAME, hf://ORG/NAME@REVISION, or a web address.
std::optional<HubName> NameOnHub(std::string_view value) {
  constexpr std::string_view kOfHub = "hf://";
  const bool of_hub = value.starts_with(kOfHub);
  std::string_view rest = value;
  bool web = false;
  if (of_hub) {
    rest.remove_prefix(kOfHub.size());
    constexpr std::string_view kModels = "models/";
    if (rest.starts_with(kModels)) rest.remove_prefix(kModels.size());
  }
  for (const std::string_view prefix :
       {"https://huggingface.co/", "http://huggingface.co/", "https://hf.co/",
        "https://hf-mirror.com/", "huggingface.co/", "hf.co/"}) {
    if (web || of_hub || !value.starts_with(prefix)) continue;
    web = true;
    rest.remove_prefix(prefix.size());
  }
  if (!of_hub && !web && !SchemeOf(value).empty()) return std::nullopt;
  // Neither of these is a model.
  if (rest.starts_with("datasets/") || rest.starts_with("spaces/")) return std::nullopt;
  HubName name;
  const std::size_t end = std::min(rest.find('/', rest.find('/') + 1), rest.size());
  std::string_view repository = rest.substr(0, end);
  if (const std::size_t at = repository.find('@'); at != std::string_view::npos) {
    name.revision = repository.substr(at + 1);
    repository = repository.substr(0, at);
    // The hub has these with slashes: refs/pr/1 and refs/convert/NAME.
    if (name.revision == "refs") name.revision += FirstTwoParts(rest.substr(end));
  } else if (web) {
    name.revision = RevisionBehind(rest.substr(end));
  }
  if (name.revision == kDefaultRevision) name.revision.clear();
  // A path may have more parts; an address may name a file of the repository.
  const bool more = of_hub || web || rest.substr(end) == "/";
  const auto found = RepositoryIn(repository, false);
  if (!found || (end != rest.size() && !more)) return std::nullopt;
  name.repository = *found;
  return name;
}

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Where huggingface_hub keeps its cache.
fs::path HubCache() {
  if (const std::string cache = Environment("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const std::string home = Environment("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  if (const std::string xdg = Environment("XDG_CACHE_HOME"); !xdg.empty()) {
    return fs::path(xdg) / "huggingface/hub";
  }
  return fs::path(Environment("HOME")) / ".cache/huggingface/hub";
}

// The first line of a small file; empty where there is none.
std::string FirstLine(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The repository's directory in the cache, or the snapshot of the revision that is named; empty
// where the cache does not hold it.
fs::path Cached(const HubName& name) {
  const std::size_t slash = name.repository.find('/');
  const fs::path directory =
      HubCache() / fmt::format("models--{}--{}", name.repository.substr(0, slash),
                               name.repository.substr(slash + 1));
  std::error_code ignored;
  if (name.revision.empty()) return fs::is_directory(directory, ignored) ? directory : fs::path();
  if (name.revision.find("..") != std::string::npos) return {};
  const std::string commit = FirstLine(directory / "refs" / name.revision);
  const fs::path snapshot = directory / "snapshots" / (commit.empty() ? name.revision : commit);
  return fs::is_directory(snapshot, ignored) ? snapshot : fs::path();
}

// Whether a path names another machine or a store, as scp, rsync and rclone write it: with ':'
// before the first '/'.
bool IsRemote(std::string_view value) {
  const std::size_t colon = value.find(':');
  return colon != std::string_view::npos && colon > 0 && colon < value.find('/');
}

bool IsAddress(std::string_view value) { return !SchemeOf(value).empty() || IsRemote(value); }

// What to do about an address of a place that is known better than others; empty for these.
std::string AdviceFor(std::string_view value) {
  constexpr std::string_view kFile = "file://";
  if (value.starts_with(kFile)) {
    const std::string_view path =
        value.substr(std::min(value.find('/', kFile.size()), value.size()));
    return path.empty() ? "" : fmt::format("give {}", formats::ShownPath(std::string(path)));
  }
  if (value.size() > 2 && value[1] == ':' && (value[2] == '\\' || value[2] == '/') &&
      std::isalpha(static_cast<unsigned char>(value[0])) != 0) {
    return fmt::format("it is a path of Windows: its Linux has that drive under /mnt/{}",
                       formats::AsciiLower(std::string(value.substr(0, 1))));
  }
  return "";
}

// The repository of ModelScope that an address names.
std::optional<std::string> NameOnModelScope(std::string_view value) {
  for (const std::string_view prefix :
       {"ms://", "modelscope://", "https://modelscope.cn/models/",
        "https://www.modelscope.cn/models/", "https://modelscope.ai/models/"}) {
    if (value.starts_with(prefix)) return RepositoryIn(value.substr(prefix.size()), true);
  }
  return std::nullopt;
}

[[noreturn]] void FailAddress(const std::string& name, const std::string& value,
                              std::string_view advice) {
  const std::string known = AdviceFor(value);
  const std::string local =
      SchemeOf(value).empty() && known.empty()
          ? fmt::format(" (a path on this machine: {})", formats::ShownPath("./" + value))
          : std::string();
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: {} is an address, not a path{}; {}", name, formats::ShownPath(value),
                          local, known.empty() ? advice : known),
              {value, ""});
}

// "~" as no shell leaves it: it would be a directory of that name.
void RefuseTilde(const std::string& name, const std::string& value) {
  if (value != "~" && !value.starts_with("~/")) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: {}: the shell puts the home directory in place of ~ only at the "
                          "beginning of a word and outside of quotes; write $HOME in its place (a "
                          "directory of that name: ./~)",
                          name, formats::ShownPath(value)),
              {value, ""});
}

// Names of directories that a shell or another program would have understood otherwise.
void RefuseMarks(const std::string& name, const std::string& value) {
  RefuseTilde(name, value);
  if (value != "-") return;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: - names no directory; neither standard input nor output is used in "
                          "place of one (a directory of that name: ./-)",
                          name),
              {value, ""});
}

bool LooksLikeAFile(const fs::path& path) {
  constexpr std::array<std::string_view, 18> kSuffixes = {
      ".safetensors", ".gguf", ".bin", ".pt",  ".pth", ".ckpt", ".h5",  ".msgpack", ".onnx",
      ".json",        ".txt",  ".zip", ".tar", ".tgz", ".gz",   ".zst", ".xz",      ".npz"};
  const std::string suffix = formats::AsciiLower(path.extension().string());
  return std::find(kSuffixes.begin(), kSuffixes.end(), suffix) != kSuffixes.end();
}

}  // namespace

std::string InputPath(const std::string& name, const std::string& value) {
  if (formats::EntryExists(value)) return value;
  // What opens it says where the link leads.
  if (!formats::DeadLinkProblem(value).empty()) return value;
  RefuseMarks(name, value);
  if (const auto model = NameOnModelScope(value)) {
    FailAddress(name, value,
                fmt::format("`modelscope download --model {} --local_dir DIR` brings it into a "
                            "directory; then give that",
                            *model));
  }
  const std::optional<HubName> hub = NameOnHub(value);
  if (!hub) {
    if (!IsAddress(value)) return value;
    FailAddress(name, value, "copy the files to a local directory first, and give that");
  }
  if (const fs::path cached = Cached(*hub); !cached.empty()) return cached.string();
  // A path like "models/v3" may also be misspelled, so the message names both possibilities.
  const std::string download = fmt::format(
      "`hf download {}{}` brings it into the cache {}", hub->repository,
      hub->revision.empty() ? "" : " --revision " + hub->revision, formats::ShownPath(HubCache()));
  if (!SchemeOf(value).empty()) {
    FailAddress(name, value, download + "; then give the same address, or its directory");
  }
  if (value.starts_with('.') || formats::Exists(fs::path(value).parent_path())) return value;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: {}: there is no such file or directory; correct the path. Where it is "
                  "the name of a repository on the Hugging Face hub: {}",
                  name, formats::ShownPath(value), download),
      {value, ""});
}

std::string OutputDirectory(const std::string& name, const std::string& value) {
  if (formats::EntryExists(value)) return value;
  RefuseMarks(name, value);
  if (IsAddress(value)) {
    FailAddress(name, value, "write to a local directory, and copy it there when it is complete");
  }
  if (LooksLikeAFile(value)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: {} is the name of a file, and a directory is written; name a "
                            "directory",
                            name, formats::ShownPath(value)),
                {value, ""});
  }
  return value;
}

std::string PlacedPath(PathUse use, const std::string& name, const std::string& value) {
  formats::NoteGivenPath(value);
  if (use == PathUse::kCheckpoint) return InputPath(name, value);
  if (use == PathUse::kOutputDirectory) return OutputDirectory(name, value);
  if (use == PathUse::kNone || formats::Exists(value)) return value;
  RefuseTilde(name, value);
  if (!IsAddress(value)) return value;
  FailAddress(name, value,
              use == PathUse::kInputFile
                  ? "copy the file to a local directory first, and give that file"
                  : "write to a local file, and copy it there when it is complete");
}

}  // namespace dsv3::cli
