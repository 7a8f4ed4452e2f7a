#include "formats/signature_bundle.h"

#include <optional>
#include <utility>

#include "formats/base64.h"
#include "formats/json/json_writer.h"
#include "formats/message_text.h"
#include "formats/signature_json.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json";
constexpr std::string_view kPayloadType = "application/vnd.in-toto+json";

class BundleParser {
 public:
  BundleParser(std::string_view text, const std::string& file)
      : file_(file), json_(text, {file, "the signature", kSignatureAdvice}) {}

  SignatureBundle Parse() {
    ReadObject(json_, file_, "the signature", {"mediaType", "verificationMaterial", "dsseEnvelope"},
               [&](const std::string& key) {
                 if (key == "mediaType") {
                   RequireText("mediaType", kMediaType);
                 } else if (key == "verificationMaterial") {
                   Material();
                 } else if (key == "dsseEnvelope") {
                   Envelope();
                 } else {
                   Unknown("the signature", key);
                 }
               });
    json_.End();
    return std::move(bundle_);
  }

 private:
  void RequireText(std::string_view what, std::string_view expected) {
    const std::string found(json_.String());
    if (found == expected) return;
    FailSignature(file_, fmt::format("{} is {}, but '{}' was expected", what,
                                     QuoteForMessage(found), expected));
  }

  [[noreturn]] void Unknown(std::string_view where, const std::string& key) {
    FailSignature(file_, fmt::format("{} has an unknown member {}", where, QuoteForMessage(key)));
  }

  std::string Base64(std::string_view what) {
    if (std::optional<std::string> bytes = DecodeBase64(json_.String()); bytes && !bytes->empty()) {
      return *std::move(bytes);
    }
    FailSignature(file_, fmt::format("{} is not base64 text, or is empty", what));
  }

  void Material() {
    bool has_key = false;
    ReadObject(json_, file_, "verificationMaterial", {}, [&](const std::string& key) {
      if (key == "publicKey") {
        has_key = true;
        PublicKey();
      } else if (key == "tlogEntries") {
        // Entries of a transparency log belong to signatures without a key.
        json_.BeginArray();
        while (json_.NextElement()) json_.SkipValue();
      } else {
        json_.SkipValue();
      }
    });
    if (has_key) return;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: verificationMaterial lacks 'publicKey', so the signature was not "
                            "made with a key pair but with a certificate or an identity; verify it "
                            "with the Python tool: model_signing verify --help",
                            ShownPath(file_)),
                {.file = file_, .tensor = {}});
  }

  // Bundles of old versions have "rawBytes" instead of the hint.
  void PublicKey() {
    ReadObject(json_, file_, "publicKey", {}, [&](const std::string& key) {
      if (key == "hint" && json_.Peek() != JsonType::kNull) {
        bundle_.hint = json_.String();
      } else {
        json_.SkipValue();
      }
    });
  }

  void Envelope() {
    ReadObject(json_, file_, "dsseEnvelope", {"payload", "payloadType", "signatures"},
               [&](const std::string& key) {
                 if (key == "payload") {
                   bundle_.payload = Base64("payload");
                 } else if (key == "payloadType") {
                   RequireText("payloadType", kPayloadType);
                 } else if (key == "signatures") {
                   Signatures();
                 } else {
                   Unknown("dsseEnvelope", key);
                 }
               });
  }

  void Signatures() {
    std::size_t count = 0;
    json_.BeginArray();
    while (json_.NextElement()) {
      ++count;
      ReadObject(json_, file_, "a signature", {"sig"}, [&](const std::string& key) {
        if (key == "sig") {
          bundle_.signature = Base64("sig");
        } else if (key == "keyid") {
          if (json_.Peek() == JsonType::kNull) {
            json_.Null();
          } else {
            json_.String();
          }
        } else {
          Unknown("a signature", key);
        }
      });
    }
    if (count != 1) {
      FailSignature(file_, fmt::format("dsseEnvelope has {} signatures instead of one", count));
    }
  }

  const std::string& file_;
  JsonReader json_;
  SignatureBundle bundle_;
};

}  // namespace

std::string PreAuthenticationEncoding(std::string_view payload) {
  return fmt::format("DSSEv1 {} {} {} {}", kPayloadType.size(), kPayloadType, payload.size(),
                     payload);
}

std::string BundleText(const SignatureBundle& bundle) {
  JsonWriter json(0);
  json.BeginObject();
  json.String("mediaType", kMediaType);
  json.BeginObject("verificationMaterial");
  json.BeginObject("publicKey");
  json.String("hint", bundle.hint);
  json.EndObject();
  json.BeginArray("tlogEntries");
  json.EndArray();
  json.EndObject();
  json.BeginObject("dsseEnvelope");
  json.String("payload", EncodeBase64(bundle.payload));
  json.String("payloadType", kPayloadType);
  json.BeginArray("signatures");
  json.BeginObject();
  json.String("sig", EncodeBase64(bundle.signature));
  json.String("keyid", "");
  json.EndObject();
  json.EndArray();
  json.EndObject();
  json.EndObject();
  return json.Take();
}

SignatureBundle ParseBundle(std::string_view text, const std::string& file) {
  return BundleParser(text, file).Parse();
}

}  // namespace dsv3::formats
