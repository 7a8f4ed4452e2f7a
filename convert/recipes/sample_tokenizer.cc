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
  json.Key(key);
  json.BeginObject();
  json.Key("type");
  json.String("ByteLevel");
  json.Key("add_prefix_space");
  json.Bool(false);
  json.Key("trim_offsets");
  json.Bool(true);
  json.Key("use_regex");
  json.Bool(true);
  json.EndObject();
}

void WriteSpecialToken(JsonWriter& json, std::uint64_t id, std::string_view content) {
  json.BeginObject();
  json.Key("id");
  json.Uint(id);
  json.Key("content");
  json.String(content);
  for (const std::string_view key : {"single_word", "lstrip", "rstrip", "normalized"}) {
    json.Key(key);
    json.Bool(false);
  }
  json.Key("special");
  json.Bool(true);
  json.EndObject();
}

void WriteModel(JsonWriter& json) {
  json.Key("model");
  json.BeginObject();
  json.Key("type");
  json.String("BPE");
  for (const std::string_view key :
       {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    json.Key(key);
    json.Null();
  }
  json.Key("fuse_unk");
  json.Bool(false);
  json.Key("byte_fallback");
  json.Bool(false);
  json.Key("vocab");
  json.BeginObject();
  std::uint64_t id = 0;
  for (const std::string_view token : kSpecialTokens) {
    json.Key(token);
    json.Uint(id++);
  }
  for (const std::string& character : ByteCharacters()) {
    json.Key(character);
    json.Uint(id++);
  }
  json.EndObject();
  json.Key("merges");
  json.BeginArray();
  json.EndArray();
  json.EndObject();
}

}  // namespace

std::string SampleTokenizer() {
  JsonWriter json(2);
  json.BeginObject();
  json.Key("version");
  json.String("1.0");
  json.Key("truncation");
  json.Null();
  json.Key("padding");
  json.Null();
  json.Key("added_tokens");
  json.BeginArray();
  for (std::size_t id = 0; id < kSpecialTokens.size(); ++id) {
    WriteSpecialToken(json, id, kSpecialTokens[id]);
  }
  json.EndArray();
  json.Key("normalizer");
  json.Null();
  WriteByteLevel(json, "pre_tokenizer");
  json.Key("post_processor");
  json.Null();
  WriteByteLevel(json, "decoder");
  WriteModel(json);
  json.EndObject();
  return json.Take() + "\n";
}

std::string SampleTokenizerConfig() {
  JsonWriter json(2);
  json.BeginObject();
  json.Key("bos_token");
  json.String(kSpecialTokens[0]);
  json.Key("clean_up_tokenization_spaces");
  json.Bool(false);
  json.Key("eos_token");
  json.String(kSpecialTokens[1]);
  json.Key("model_max_length");
  json.Uint(163840);
  json.Key("pad_token");
  json.String(kSpecialTokens[2]);
  json.Key("tokenizer_class");
  json.String("PreTrainedTokenizerFast");
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::convert
