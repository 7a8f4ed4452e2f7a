#include "convert/recipes/sample_tokenizer.h"

#include <array>
#include <string_view>

#include "convert/recipes/byte_characters.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using formats::JsonWriter;

constexpr std::array<std::string_view, 3> kSpecialTokens = {
    "<\uFF5Cbegin\u2581of\u2581sentence\uFF5C>", "<\uFF5Cend\u2581of\u2581sentence\uFF5C>",
    "<\uFF5C\u2581pad\u2581\uFF5C>"};

void WriteByteLevel(JsonWriter& json, std::string_view key) {
  json.BeginObject(key);
  json.String("type", "ByteLevel");
  json.Bool("add_prefix_space", false);
  json.Bool("trim_offsets", true);
  json.Bool("use_regex", true);
  json.EndObject();
}

void WriteSpecialToken(JsonWriter& json, std::uint64_t id, std::string_view content) {
  json.BeginObject();
  json.Uint("id", id);
  json.String("content", content);
  for (const std::string_view key : {"single_word", "lstrip", "rstrip", "normalized"}) {
    json.Bool(key, false);
  }
  json.Bool("special", true);
  json.EndObject();
}

void WriteModel(JsonWriter& json) {
  json.BeginObject("model");
  json.String("type", "BPE");
  for (const std::string_view key :
       {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    json.Null(key);
  }
  json.Bool("fuse_unk", false);
  json.Bool("byte_fallback", false);
  json.BeginObject("vocab");
  std::uint64_t id = 0;
  for (const std::string_view token : kSpecialTokens) {
    json.Uint(token, id++);
  }
  for (const std::string& character : ByteCharacters()) {
    json.Uint(character, id++);
  }
  json.EndObject();
  json.BeginArray("merges");
  json.EndArray();
  json.EndObject();
}

}  // namespace

std::string SampleTokenizer() {
  JsonWriter json(2);
  json.BeginObject();
  json.String("version", "1.0");
  json.Null("truncation");
  json.Null("padding");
  json.BeginArray("added_tokens");
  for (std::size_t id = 0; id < kSpecialTokens.size(); ++id) {
    WriteSpecialToken(json, id, kSpecialTokens[id]);
  }
  json.EndArray();
  json.Null("normalizer");
  WriteByteLevel(json, "pre_tokenizer");
  json.Null("post_processor");
  WriteByteLevel(json, "decoder");
  WriteModel(json);
  json.EndObject();
  return json.Take() + "\n";
}

std::string SampleTokenizerConfig() {
  JsonWriter json(2);
  json.BeginObject();
  json.String("bos_token", kSpecialTokens[0]);
  json.Bool("clean_up_tokenization_spaces", false);
  json.String("eos_token", kSpecialTokens[1]);
  json.Uint("model_max_length", 163840);
  json.String("pad_token", kSpecialTokens[2]);
  json.String("tokenizer_class", "PreTrainedTokenizerFast");
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::convert
