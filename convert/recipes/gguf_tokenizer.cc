#include "convert/recipes/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "convert/model/config_fields-inl.h"
#include "convert/recipes/gguf_tiktoken.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/gguf.h"

namespace dsv3::convert {
namespace {

using Json = nlohmann::json;
using formats::GgufKeys;

constexpr char kTokenizer[] = "tokenizer.json";
constexpr char kTiktoken[] = "tiktoken.model";
constexpr char kTokenizerConfig[] = "tokenizer_config.json";
constexpr char kChatTemplate[] = "chat_template.jinja";
// Tokens behind those of a tiktoken file that Kimi's tokenizer has, named or reserved.
constexpr std::size_t kKimiSpecialTokens = 256;
constexpr std::uint64_t kMaxTokenizerBytes = std::uint64_t{64} << 20;

// llama.cpp's numbers of kinds of tokens.
constexpr std::int32_t kNormal = 1;
constexpr std::int32_t kControl = 3;
constexpr std::int32_t kUser = 4;
constexpr std::int32_t kUnused = 5;

// Special tokens by their names in tokenizer_config.json and in llama.cpp's keys.
struct SpecialName {
  const char* config;
  const char* key;
};
constexpr std::array<SpecialName, 7> kSpecialNames = {{{"bos", "bos_token_id"},
                                                       {"eos", "eos_token_id"},
                                                       {"unk", "unknown_token_id"},
                                                       {"sep", "seperator_token_id"},
                                                       {"pad", "padding_token_id"},
                                                       {"cls", "cls_token_id"},
                                                       {"mask", "mask_token_id"}}};

// Tokens of GLM that have these roles where its files name no others.
struct GlmToken {
  std::string_view token;
  const char* key;
};
constexpr std::array<GlmToken, 4> kGlmTokens = {{{"[gMASK]", "bos_token_id"},
                                                 {"<|user|>", "eot_token_id"},
                                                 {"<|endoftext|>", "unknown_token_id"},
                                                 {"<|observation|>", "eom_token_id"}}};

// Tokens that mean something to chat templates though their file does not call them special.
bool LooksSpecial(std::string_view token) {
  constexpr std::string_view kWideBar = "\uFF5C";
  const auto is_between = [&](const std::string& begin, const std::string& end) {
    return token.starts_with(begin) && token.ends_with(end);
  };
  return token == "<pad>" || token == "<mask>" || token == "<2mass>" || token == "[@BOS@]" ||
         is_between("<|", "|>") || is_between("<unused", ">") ||
         is_between("<" + std::string(kWideBar), std::string(kWideBar) + ">");
}

std::optional<Json> ReadJson(const std::filesystem::path& directory, const char* name) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(directory / name, ignored)) return std::nullopt;
  return ParseConfigObject(formats::ReadSmallFile(directory / name, kMaxTokenizerBytes), name);
}

void ReplaceAll(std::string_view what, std::string_view with, std::string& text) {
  for (std::size_t at = text.find(what); at != std::string::npos;
       at = text.find(what, at + with.size())) {
    text.replace(at, what.size(), with);
  }
}

class TokenizerReader {
 public:
  TokenizerReader(const std::filesystem::path& directory, const ModelConfig& config, Json tokenizer,
                  GgufKeys& keys)
      : directory_(directory), config_(config), tokenizer_(std::move(tokenizer)), keys_(keys) {}

  void Read(const std::string& config_text) {
    const Json& model = Member(tokenizer_, "model");
    if (!model.is_object() || Text(model, "type") != "BPE") {
      FailConfig(kTokenizer,
                 "its model is not BPE, and of tokenizers that alone becomes GGUF; go "
                 "on without one: --no-tokenizer");
    }
    Add("model", std::string("gpt2"));
    Add("pre", PreTokenizer());
    ReadTokens(model);
    ReadMerges(model);
    ReadSpecial(config_text);
  }

  // Kimi's: the tokens of a tiktoken file, and special ones behind them.
  void ReadTiktoken(const std::string& text, const std::string& config_text) {
    const TiktokenRanks ranks = ParseTiktoken(text, config_.vocab_size, kTiktoken);
    std::vector<std::string> tokens = PaddedTokens();
    std::vector<std::int32_t> types(tokens.size(), kUnused);
    for (const auto& [token, rank] : ranks) {
      tokens[rank] = AsByteCharacters(token);
      types[rank] = kNormal;
    }
    const std::optional<Json> own = ReadJson(directory_, kTokenizerConfig);
    const Json named = own ? Member(*own, "added_tokens_decoder") : Json();
    const std::size_t end = std::min(tokens.size(), ranks.size() + kKimiSpecialTokens);
    for (std::size_t id = ranks.size(); id < end; ++id) {
      if (types[id] != kUnused) Wrong(kTiktoken, "it leaves numbers out");
      const std::string name = Text(Member(named, fmt::format("{}", id).c_str()), "content");
      tokens[id] = name.empty() ? fmt::format("<|reserved_token_{}|>", id) : name;
      types[id] = kControl;
    }
    Add("model", std::string("gpt2"));
    Add("pre", std::string("kimi-k2"));
    Add("tokens", std::move(tokens));
    Add("token_type", std::move(types));
    std::vector<std::string> merges = MergesOfTiktoken(ranks);
    if (!merges.empty()) Add("merges", std::move(merges));
    ReadSpecial(config_text);
  }

 private:
  template <typename Value>
  void Add(std::string_view key, Value value) {
    keys_.emplace_back(fmt::format("tokenizer.ggml.{}", key), std::move(value));
  }

  [[noreturn]] static void Wrong(const char* file, std::string_view what) {
    FailConfig(file, fmt::format("{}; download the file again, or go on without a tokenizer: "
                                 "--no-tokenizer",
                                 what));
  }
  [[noreturn]] static void Wrong(std::string_view what) { Wrong(kTokenizer, what); }

  // A member, or null.
  static const Json& Member(const Json& object, const char* name) {
    static const Json null;
    if (!object.is_object()) return null;
    const auto found = object.find(name);
    return found == object.end() ? null : *found;
  }
  static std::string Text(const Json& object, const char* name) {
    const Json& value = Member(object, name);
    return value.is_string() ? value.get<std::string>() : "";
  }

  // llama.cpp's name of how text is split before it is merged: by the patterns, else by the model.
  std::string PreTokenizer() const {
    std::vector<std::string> patterns;
    const Json& all = Member(Member(tokenizer_, "pre_tokenizer"), "pretokenizers");
    if (all.is_array()) {
      for (const Json& each : all) {
        const std::string pattern = Text(Member(each, "pattern"), "Regex");
        if (!pattern.empty()) patterns.push_back(pattern);
      }
    }
    if (!patterns.empty() && patterns[0] == "\\p{N}{1,3}") return "deepseek-v3";
    if (patterns.size() > 1 && patterns[0] == "[\r\n]") {
      return patterns[1].starts_with("\\s?\\p{L}") ? "deepseek-coder" : "deepseek-llm";
    }
    if (config_.model_type == "kimi_k2") return "kimi-k2";
    if (config_.model_type == "glm_moe_dsa") return "glm4";
    return config_.model_type == "deepseek_v2" ? "deepseek-llm" : "deepseek-v3";
  }

  std::uint64_t IdOf(const Json& value, std::string_view token) const {
    if (!value.is_number_unsigned()) {
      Wrong(fmt::format("token {} has no number", QuoteForMessage(token)));
    }
    const auto id = value.get<std::uint64_t>();
    if (id >= config_.vocab_size) {
      Wrong(fmt::format("token {} has the number {}, and config.json says vocab_size {}",
                        QuoteForMessage(token), id, config_.vocab_size));
    }
    return id;
  }

  std::vector<std::string> PaddedTokens() const {
    std::vector<std::string> tokens(static_cast<std::size_t>(config_.vocab_size));
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = fmt::format("[PAD{}]", i);
    return tokens;
  }

  void ReadTokens(const Json& model) {
    std::vector<std::string> tokens = PaddedTokens();
    std::vector<std::int32_t> types(tokens.size(), kUnused);
    const Json& vocab = Member(model, "vocab");
    if (!vocab.is_object()) Wrong("it has no vocab");
    for (const auto& [token, number] : vocab.items()) {
      const auto id = static_cast<std::size_t>(IdOf(number, token));
      if (types[id] != kUnused) {
        Wrong(fmt::format("tokens {} and {} have the same number, {}", QuoteForMessage(tokens[id]),
                          QuoteForMessage(token), id));
      }
      tokens[id] = token;
      types[id] = kNormal;
    }
    const Json& added = Member(tokenizer_, "added_tokens");
    for (const Json& entry : added.is_array() ? added : Json::array()) {
      std::string token = Text(entry, "content");
      const auto id = static_cast<std::size_t>(IdOf(Member(entry, "id"), token));
      added_.emplace(token, static_cast<std::uint32_t>(id));
      const bool control = Member(entry, "special") == Json(true) || LooksSpecial(token);
      types[id] = control ? kControl : kUser;
      // llama.cpp takes these as they are in the text.
      if (!control) ReplaceAll("\u2581", " ", token);
      tokens[id] = std::move(token);
    }
    Add("tokens", std::move(tokens));
    Add("token_type", std::move(types));
  }

  void ReadMerges(const Json& model) {
    const Json& merges = Member(model, "merges");
    std::vector<std::string> texts;
    for (const Json& merge : merges.is_array() ? merges : Json::array()) {
      if (merge.is_string()) {
        texts.push_back(merge.get<std::string>());
        continue;
      }
      if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() ||
          !merge[1].is_string()) {
        Wrong(fmt::format("merge {} is not two texts", texts.size()));
      }
      std::array<std::string, 2> parts = {merge[0].get<std::string>(), merge[1].get<std::string>()};
      // A space parts the two; within one it is byte-level BPE's character for it.
      for (std::string& part : parts) ReplaceAll(" ", "\u0120", part);
      texts.push_back(parts[0] + " " + parts[1]);
    }
    if (!texts.empty()) Add("merges", std::move(texts));
  }

  // Whether the tokenizer itself puts bos before a text and eos behind it; nothing where it does
  // not say.
  struct Ends {
    std::optional<bool> bos;
    std::optional<bool> eos;
  };

  Ends PostProcessed(const std::string& bos, const std::string& eos) const {
    Ends ends;
    const Json& post = Member(tokenizer_, "post_processor");
    if (!post.is_object()) return ends;
    const Json& several = Member(post, "processors");
    for (const Json& processor : several.is_array() ? several : Json::array({post})) {
      const std::string type = Text(processor, "type");
      if (type == "ByteLevel") {
        if (!ends.bos) ends.bos = false;
        if (!ends.eos) ends.eos = false;
      } else if (type == "TemplateProcessing") {
        const Json& single = Member(processor, "single");
        if (!single.is_array() || single.size() < 2) continue;
        const std::string first = Text(Member(single.front(), "SpecialToken"), "id");
        const std::string last = Text(Member(single.back(), "SpecialToken"), "id");
        if (!first.empty()) ends.bos = first == bos;
        if (!last.empty()) ends.eos = last == eos;
      }
    }
    return ends;
  }

  static std::string TokenText(const Json& tokenizer_config, const char* name) {
    const Json& value = Member(tokenizer_config, name);
    return value.is_string() ? value.get<std::string>() : Text(value, "content");
  }

  void ReadSpecial(const std::string& config_text) {
    const std::optional<Json> own = ReadJson(directory_, kTokenizerConfig);
    const Json root = ParseConfigObject(config_text, formats::kConfigName);
    const Json& text = Member(root, "text_config");
    for (const SpecialName& name : kSpecialNames) {
      const auto found =
          own ? added_.find(TokenText(*own, fmt::format("{}_token", name.config).c_str()))
              : added_.end();
      if (found != added_.end()) {
        Add(name.key, found->second);
        continue;
      }
      const std::string field = fmt::format("{}_token_id", name.config);
      const Json* id = &Member(root, field.c_str());
      if (id->is_null()) id = &Member(text, field.c_str());
      if (id->is_number_unsigned() && *id < config_.vocab_size) {
        Add(name.key, id->get<std::uint32_t>());
      }
    }
    if (config_.model_type == "glm_moe_dsa") AddGlmTokens();
    if (own) {
      ReadEnds(*own);
    } else {
      ReadEnds(Json::object());
    }
    ReadChatTemplate(own ? *own : Json::object());
  }

  void AddGlmTokens() {
    for (const GlmToken& glm : kGlmTokens) {
      const auto found = added_.find(std::string(glm.token));
      const std::string key = fmt::format("tokenizer.ggml.{}", glm.key);
      if (found == added_.end() || formats::FindGgufKey(keys_, key) != nullptr) continue;
      Add(glm.key, found->second);
    }
  }

  void ReadEnds(const Json& own) {
    Ends ends = PostProcessed(TokenText(own, "bos_token"), TokenText(own, "eos_token"));
    const auto take = [&](const char* name, std::optional<bool>& end) {
      const Json& value = Member(own, name);
      if (!end && value.is_boolean()) end = value.get<bool>();
      if (end) Add(name, *end);
    };
    take("add_bos_token", ends.bos);
    take("add_eos_token", ends.eos);
  }

  void ReadChatTemplate(const Json& own) {
    std::string text = Text(own, "chat_template");
    std::error_code ignored;
    if (text.empty() && std::filesystem::is_regular_file(directory_ / kChatTemplate, ignored)) {
      text = formats::ReadSmallFile(directory_ / kChatTemplate, kMaxTokenizerBytes);
    }
    if (!text.empty()) keys_.emplace_back("tokenizer.chat_template", std::move(text));
  }

  const std::filesystem::path& directory_;
  const ModelConfig& config_;
  const Json tokenizer_;
  GgufKeys& keys_;
  std::map<std::string, std::uint32_t> added_;
};

}  // namespace

GgufKeys TokenizerGgufKeys(const std::filesystem::path& directory, const ModelConfig& config,
                           const std::string& config_text) {
  GgufKeys keys;
  if (std::optional<Json> tokenizer = ReadJson(directory, kTokenizer)) {
    TokenizerReader(directory, config, std::move(*tokenizer), keys).Read(config_text);
    return keys;
  }
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(directory / kTiktoken, ignored)) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tokenizer.json is missing (and Kimi's tiktoken.model), and a GGUF "
                            "file holds the tokenizer; put it beside config.json, or go on without "
                            "one: --no-tokenizer",
                            formats::ShownPath(directory)),
                {kTokenizer, ""});
  }
  TokenizerReader(directory, config, Json(), keys)
      .ReadTiktoken(formats::ReadSmallFile(directory / kTiktoken, kMaxTokenizerBytes), config_text);
  return keys;
}

}  // namespace dsv3::convert
