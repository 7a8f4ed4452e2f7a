#include "cli/place_arguments.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/dead_link.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSchemeEnd = "://";

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

// The repository of the hub that `value` names.
std::optional<std::string> HubRepository(std::string_view value) {
  if (SchemeOf(value).empty()) return RepositoryIn(value, false);
  for (const std::string_view prefix :
       {"hf://", "https://huggingface.co/", "http://huggingface.co/", "https://hf.co/"}) {
    if (value.starts_with(prefix)) return RepositoryIn(value.substr(prefix.size()), true);
  }
  return std::nullopt;
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

fs::path CachedRepository(const std::string& repository) {
  const std::size_t slash = repository.find('/');
  return HubCache() /
         fmt::format("models--{}--{}", repository.substr(0, slash), repository.substr(slash + 1));
}

[[noreturn]] void FailAddress(const std::string& name, const std::string& value,
                              std::string_view advice) {
  throw Error(
      ErrorCode::kUsage,
      fmt::format("{}: {} is an address, not a path; {}", name, formats::ShownPath(value), advice),
      {value, ""});
}

bool LooksLikeAFile(const fs::path& path) {
  constexpr std::array<std::string_view, 9> kSuffixes = {
      ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".json", ".zip", ".tar", ".onnx"};
  const std::string suffix = path.extension().string();
  return std::find(kSuffixes.begin(), kSuffixes.end(), suffix) != kSuffixes.end();
}

}  // namespace

std::string InputPath(const std::string& name, const std::string& value) {
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(value, ignored))) return value;
  // What opens it says where the link leads.
  if (!formats::DeadLinkProblem(value).empty()) return value;
  const std::optional<std::string> repository = HubRepository(value);
  if (!repository) {
    if (SchemeOf(value).empty()) return value;
    FailAddress(name, value, "copy the files to a local directory first, and give that");
  }
  const fs::path cached = CachedRepository(*repository);
  if (fs::is_directory(cached, ignored)) return cached.string();
  // A path like "models/v3" may also be misspelled, so the message names both possibilities.
  const std::string download = fmt::format("`hf download {}` brings it into the cache {}",
                                           *repository, formats::ShownPath(HubCache()));
  if (!SchemeOf(value).empty()) {
    FailAddress(name, value, download + "; then give the same address, or its directory");
  }
  if (value.starts_with('.') || fs::exists(fs::path(value).parent_path(), ignored)) return value;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: {}: there is no such file or directory; correct the path. Where it is "
                  "the name of a repository on the Hugging Face hub: {}",
                  name, formats::ShownPath(value), download),
      {value, ""});
}

std::string OutputDirectory(const std::string& name, const std::string& value) {
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(value, ignored))) return value;
  if (!SchemeOf(value).empty()) {
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
  if (use == PathUse::kCheckpoint) return InputPath(name, value);
  if (use == PathUse::kOutputDirectory) return OutputDirectory(name, value);
  std::error_code ignored;
  if (use == PathUse::kNone || SchemeOf(value).empty() || fs::exists(value, ignored)) return value;
  FailAddress(name, value,
              use == PathUse::kInputFile
                  ? "copy the file to a local directory first, and give that file"
                  : "write to a local file, and copy it there when it is complete");
}

}  // namespace dsv3::cli
