#include "formats/hash/sha256.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include "formats/hash/sha256_ni.h"
#include "tests/support/files.h"

namespace dsv3::formats {
namespace {

using testing::AsBytes;
using testing::RandomBytes;

std::string OpenSslHex(std::span<const std::byte> data) {
  Sha256::Digest digest;
  unsigned size = 0;
  EXPECT_EQ(EVP_Digest(data.data(), data.size(), reinterpret_cast<unsigned char*>(digest.data()),
                       &size, EVP_sha256(), nullptr),
            1);
  EXPECT_EQ(size, digest.size());
  return ToHex(digest);
}

std::string Hex(std::span<const std::byte> data, Sha256::Backend backend) {
  Sha256 hash(backend);
  hash.Update(data);
  return hash.FinishHex();
}

constexpr Sha256::Backend kBackends[] = {Sha256::Backend::kFastest, Sha256::Backend::kOpenSsl};

TEST(Sha256Test, GivesTheDigestsOfTheStandard) {
  // FIPS 180-4 examples.
  const std::pair<std::string, std::string> examples[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmn"
       "o"
       "pqrsmnopqrstnopqrstu",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {std::string(1'000'000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const Sha256::Backend backend : kBackends) {
    for (const auto& example : examples) {
      EXPECT_EQ(Hex(AsBytes(example.first), backend), example.second);
    }
  }
}

TEST(Sha256Test, EqualsOpenSslAtEveryLength) {
  const std::string text = RandomBytes(300, 1);
  for (std::size_t length = 0; length <= text.size(); ++length) {
    const auto data = AsBytes(text).first(length);
    EXPECT_EQ(Hex(data, Sha256::Backend::kFastest), OpenSslHex(data)) << length;
  }
}

TEST(Sha256Test, DoesNotDependOnWhereTheDataIsCut) {
  const std::string text = RandomBytes(200, 2);
  const auto data = AsBytes(text);
  const std::string expected = OpenSslHex(data);
  for (const Sha256::Backend backend : kBackends) {
    for (std::size_t first = 0; first <= data.size(); ++first) {
      for (const std::size_t second :
           {first, std::min(first + 64, data.size()), (first + data.size()) / 2, data.size()}) {
        Sha256 hash(backend);
        hash.Update(data.first(first));
        hash.Update(data.subspan(first, second - first));
        hash.Update(data.subspan(second));
        ASSERT_EQ(hash.FinishHex(), expected) << first << " " << second;
      }
    }
  }
}

TEST(Sha256Test, CountsMoreBitsThanFitIn32) {
  const std::string text = RandomBytes(std::size_t{64} << 20, 3);
  Sha256 ours;
  Sha256 reference(Sha256::Backend::kOpenSsl);
  for (int i = 0; i < 9; ++i) {  // 576 MiB
    ours.Update(AsBytes(text));
    reference.Update(AsBytes(text));
  }
  EXPECT_EQ(ours.FinishHex(), reference.FinishHex());
}

TEST(Sha256Test, UpdatesPairsOfAnyTwoLengths) {
  const std::string a_text = RandomBytes(700, 4);
  const std::string b_text = RandomBytes(700, 5);
  for (std::size_t a_length = 0; a_length < 700; a_length += 37) {
    for (std::size_t b_length = 0; b_length < 700; b_length += 41) {
      const auto a_data = AsBytes(a_text).first(a_length);
      const auto b_data = AsBytes(b_text).first(b_length);
      Sha256 a;
      Sha256 b;
      // Both enter the pair with an unfinished block.
      a.Update(a_data.first(a_length / 3));
      b.Update(b_data.first(b_length / 2));
      Sha256::UpdateMany(std::array{Sha256::Part{&a, a_data.subspan(a_length / 3)},
                                    Sha256::Part{&b, b_data.subspan(b_length / 2)}});
      ASSERT_EQ(a.FinishHex(), OpenSslHex(a_data)) << a_length << " " << b_length;
      ASSERT_EQ(b.FinishHex(), OpenSslHex(b_data)) << a_length << " " << b_length;
    }
  }
}

TEST(Sha256Test, UpdatesAnyNumberOfStreams) {
  for (std::size_t count = 0; count <= 2 * sha256_ni::kMaxLanes + 1; ++count) {
    std::vector<std::string> texts;
    std::vector<Sha256> hashes(count);
    std::vector<Sha256::Part> parts;
    for (std::size_t i = 0; i < count; ++i) texts.push_back(RandomBytes(1000 + 777 * i, i));
    for (int half = 0; half < 2; ++half) {
      parts.clear();
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t middle = texts[i].size() / 3;
        const auto data = AsBytes(texts[i]);
        parts.push_back({&hashes[i], half == 0 ? data.first(middle) : data.subspan(middle)});
      }
      Sha256::UpdateMany(parts);
    }
    for (std::size_t i = 0; i < count; ++i) {
      EXPECT_EQ(hashes[i].FinishHex(), OpenSslHex(AsBytes(texts[i]))) << i << " of " << count;
    }
  }
}

TEST(Sha256Test, UpdatesStreamsOfDifferentBackendsTogether) {
  const std::string text = RandomBytes(1000, 6);
  Sha256 fastest;
  Sha256 openssl(Sha256::Backend::kOpenSsl);
  Sha256::UpdateMany(
      std::array{Sha256::Part{&fastest, AsBytes(text)}, Sha256::Part{&openssl, AsBytes(text)}});
  EXPECT_EQ(fastest.FinishHex(), OpenSslHex(AsBytes(text)));
  EXPECT_EQ(openssl.FinishHex(), OpenSslHex(AsBytes(text)));
}

TEST(Sha256Test, MovesInTheMiddleOfAStream) {
  const std::string text = RandomBytes(100, 7);
  for (const Sha256::Backend backend : kBackends) {
    Sha256 first(backend);
    first.Update(AsBytes(text));
    Sha256 second(std::move(first));
    second.Update(AsBytes(text));
    first = std::move(second);
    EXPECT_EQ(first.FinishHex(), OpenSslHex(AsBytes(text + text)));
  }
}

TEST(ToHexTest, WritesTwoLowercaseDigitsAByte) {
  EXPECT_EQ(ToHex({}), "");
  EXPECT_EQ(ToHex(AsBytes(std::string_view("\x00\x0f\xa5\xff", 4))), "000fa5ff");
}

}  // namespace
}  // namespace dsv3::formats
