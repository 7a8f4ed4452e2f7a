#include "formats/pickle.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/pickle_parser.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/support/pickle_text.h"

namespace dsv3::formats {
namespace {

using ::testing::ElementsAre;
using testing::ExpectBadInput;
using testing::PickleText;

constexpr std::array<std::string_view, 3> kNames = {"torch.Size", "collections.OrderedDict",
                                                    "torch.bfloat16"};
constexpr std::array<std::string_view, 1> kPrefixes = {"megatron."};

Pickle Parse(std::string_view text) {
  return ParsePickle(text, {.names = kNames, .prefixes = kPrefixes},
                     {.file = "m.pt", .part = "data.pkl", .advice = "copy it again"});
}

template <typename... Words>
void ExpectRefused(const std::string& text, const Words&... words) {
  ExpectBadInput([&] { Parse(text); }, "m.pt: data.pkl ", words...);
}

TEST(PickleTest, ReadsScalars) {
  const std::string text = PickleText(5)
                               .Op("(N\x88\x89K\x07M")
                               .Number(0x1234, 2)
                               .Op("J")
                               .Number(0xFFFFFFFB, 4)
                               .Int(-5'000'000'000)
                               .Op("\x8A")
                               .Number(0, 1)
                               .Op("G\x3F\xF8")
                               .Number(0, 6)
                               .Text("caf\xC3\xA9")
                               .Op("\x8C\x01xC\x02\xFF\x80")
                               .Op("B")
                               .Number(1, 4)
                               .Op("b\x96")
                               .Number(1, 8)
                               .Op("at")
                               .Stop();
  const Pickle pickle = Parse(text);
  const std::span<const PickleId> items = pickle.Items(pickle.root());
  ASSERT_EQ(items.size(), 14U);
  EXPECT_EQ(pickle.Type(pickle.root()), PickleType::kTuple);
  EXPECT_EQ(pickle.Type(items[0]), PickleType::kNone);
  EXPECT_EQ(pickle.Bool(items[1]), true);
  EXPECT_EQ(pickle.Bool(items[2]), false);
  EXPECT_EQ(pickle.Int(items[3]), 7);
  EXPECT_EQ(pickle.Int(items[4]), 0x1234);
  EXPECT_EQ(pickle.Int(items[5]), -5);
  EXPECT_EQ(pickle.Int(items[6]), -5'000'000'000);
  EXPECT_EQ(pickle.Int(items[7]), 0);
  EXPECT_EQ(pickle.Float(items[8]), 1.5);
  EXPECT_EQ(pickle.Text(items[9]), "caf\xC3\xA9");
  EXPECT_EQ(pickle.Text(items[10]), "x");
  EXPECT_EQ(pickle.Bytes(items[11]), "\xFF\x80");
  EXPECT_EQ(pickle.Bytes(items[12]), "b");
  EXPECT_EQ(pickle.Bytes(items[13]), "a");
  EXPECT_EQ(pickle.Int(items[0]), std::nullopt);
  EXPECT_EQ(pickle.Text(items[11]), std::nullopt);
}

TEST(PickleTest, ReadsContainers) {
  // {"a": [1, 2, 3], "b": (None,), "a": {}, "s": {1, 2}}, the list and the set in two steps each
  const std::string text = PickleText(4)
                               .Op("}(")
                               .Text("a")
                               .Op("](K\x01K\x02"
                                   "eK\x03"
                                   "a")
                               .Text("b")
                               .Op("N\x85")
                               .Text("a")
                               .Op("}u")
                               .Text("s")
                               .Op("\x8F(K\x01\x90(K\x02\x90s")
                               .Stop();
  const Pickle pickle = Parse(text);
  const PickleId root = pickle.root();
  ASSERT_EQ(pickle.Items(root).size(), 8U);
  std::vector<std::int64_t> numbers;
  for (const PickleId id : pickle.Items(pickle.Items(root)[1])) {
    numbers.push_back(pickle.Int(id).value());
  }
  EXPECT_THAT(numbers, ElementsAre(1, 2, 3));
  EXPECT_EQ(pickle.Items(pickle.Get(root, "b")).size(), 1U);
  EXPECT_EQ(pickle.Type(pickle.Get(root, "a")), PickleType::kDict) << "the last one counts";
  EXPECT_EQ(pickle.Items(pickle.Get(root, "s")).size(), 2U);
  EXPECT_EQ(pickle.Get(root, "c"), kNoPickle);
  EXPECT_EQ(pickle.Get(pickle.Get(root, "s"), "c"), kNoPickle);
}

TEST(PickleTest, KeepsTheOrderOfManySegments) {
  PickleText text;
  text.Op("](");
  for (int i = 0; i < 2500; ++i) {
    if (i % 1000 == 999) text.Op("e(");
    text.Op("]").Int(i).Op("a");
  }
  const std::string whole = text.Op("e").Stop();
  const Pickle pickle = Parse(whole);
  const std::span<const PickleId> items = pickle.Items(pickle.root());
  ASSERT_EQ(items.size(), 2500U);
  for (std::size_t i = 0; i < items.size(); ++i) {
    ASSERT_EQ(pickle.Int(pickle.Items(items[i])[0]), i);
  }
}

TEST(PickleTest, CallsAreRecords) {
  const std::string text = PickleText()
                               .Global("collections", "OrderedDict")
                               .Op(")R(")
                               .Text("k")
                               .Size(std::array{2, 3})
                               .Op("u}")
                               .Text("extra")
                               .Op("Nsb")
                               .Stop();
  const Pickle pickle = Parse(text);
  const PickleRecord dict = pickle.Record(pickle.root()).value();
  EXPECT_EQ(dict.global, "collections.OrderedDict");
  EXPECT_TRUE(pickle.Items(dict.args).empty());
  EXPECT_EQ(pickle.Type(pickle.Get(dict.state, "extra")), PickleType::kNone);
  const PickleRecord size = pickle.Record(pickle.Get(dict.items, "k")).value();
  EXPECT_EQ(size.global, "torch.Size");
  EXPECT_EQ(size.state, kNoPickle);
  EXPECT_EQ(pickle.Int(pickle.Items(pickle.Items(size.args)[0])[1]), 3);
  EXPECT_EQ(pickle.Record(size.args), std::nullopt);
}

TEST(PickleTest, RecordsMayTakeElementsInSteps) {
  const std::string text = PickleText()
                               .Global("megatron.core", "Deque")
                               .Op(")\x81K\x01"
                                   "a(K\x02K\x03"
                                   "e")
                               .Stop();
  const Pickle pickle = Parse(text);
  const PickleRecord record = pickle.Record(pickle.root()).value();
  EXPECT_EQ(record.global, "megatron.core.Deque");
  EXPECT_EQ(pickle.Type(record.items), PickleType::kList);
  EXPECT_EQ(pickle.Items(record.items).size(), 3U);
}

TEST(PickleTest, SharedValuesAreOne) {
  const std::string text = PickleText().Op("]q\x05h\x05\x86q\x09h\x09\x86").Stop();
  const Pickle pickle = Parse(text);
  const std::span<const PickleId> root = pickle.Items(pickle.root());
  EXPECT_EQ(root[0], root[1]);
  EXPECT_EQ(pickle.Items(root[0])[0], pickle.Items(root[0])[1]);
}

TEST(PickleTest, ReadsPersistentIdsAndGlobals) {
  const std::string text =
      PickleText(4).Op("(").Text("storage").Text("torch").Text("bfloat16").Op("\x93tQ").Stop();
  const Pickle pickle = Parse(text);
  EXPECT_EQ(pickle.Type(pickle.root()), PickleType::kPersistent);
  const std::span<const PickleId> id = pickle.Items(pickle.Persistent(pickle.root()));
  ASSERT_EQ(id.size(), 2U);
  EXPECT_EQ(pickle.Global(id[1]), "torch.bfloat16");
  EXPECT_EQ(pickle.Persistent(id[1]), kNoPickle);
}

TEST(PickleTest, IntegersBeyond64BitsAreNoIntegers) {
  std::string text = PickleText().Op("\x8A\x20" + std::string(32, '\x01')).Stop();
  EXPECT_EQ(Parse(text).Int(Parse(text).root()), std::nullopt);
  EXPECT_EQ(Parse(text).Describe(Parse(text).root()), "an integer beyond 64 bits");
  text = PickleText().Op("\x8A\x21" + std::string(33, '\x01')).Stop();
  ExpectRefused(text, "an integer has 33 bytes, expected at most 32 (byte 2)", "copy it again");
}

TEST(PickleTest, DescribesValues) {
  const auto describe = [](const std::string& text) {
    const Pickle pickle = Parse(text);
    return pickle.Describe(pickle.root());
  };
  EXPECT_EQ(describe(PickleText().Op("N").Stop()), "None");
  EXPECT_EQ(describe(PickleText().Op("\x88").Stop()), "True");
  EXPECT_EQ(describe(PickleText().Int(-3).Stop()), "-3");
  EXPECT_EQ(describe(PickleText().Text("cpu").Stop()), "the text 'cpu'");
  EXPECT_EQ(describe(PickleText().Op("](NNe").Stop()), "a list of 2");
  EXPECT_EQ(describe(PickleText().Op("}NNs").Stop()), "a dict of 1");
  EXPECT_EQ(describe(PickleText().Global("torch", "Size").Stop()), "the global 'torch.Size'");
  EXPECT_EQ(describe(PickleText().Size(std::array{1}).Stop()), "a value made by 'torch.Size'");
}

TEST(PickleTest, RefusesOtherGlobalsWhereverTheyAre) {
  const std::string refused = "which weights do not need; nothing of it was run";
  ExpectRefused(PickleText().Global("os", "system").Text("ls").Op("\x85R").Stop(),
                "names the global 'os.system' (byte 2)", refused, "unless you trust its maker");
  // Named, never called, and not part of the result.
  ExpectRefused(PickleText().Op("](").Global("builtins", "eval").Op("eN\x86").Stop(),
                "'builtins.eval'", refused);
  ExpectRefused(PickleText(4).Text("posix").Text("system").Op("\x93").Stop(), "'posix.system'");
  ExpectRefused(PickleText().Global("torch", "load").Stop(), "'torch.load'");
  ExpectRefused(PickleText().Global("torch", "Size.mro").Stop(), "'torch.Size.mro'");
  ExpectRefused(PickleText().Global("megatronx", "y").Stop(), "'megatronx.y'");
  ExpectRefused(PickleText().Global("", "").Stop(), "'.'");
  ExpectRefused(PickleText().Global("a\x1B[2J", "b").Stop(), "'a\\x1b[2J.b'");
}

TEST(PickleTest, SaysWhatToSaveInPlaceOfTensorsOfOtherClasses) {
  const auto refused = [](std::string_view module, std::string_view name, std::string_view advice) {
    ExpectRefused(PickleText().Global(module, name).Stop(), name, advice);
  };
  refused("torch._tensor", "_rebuild_from_type_v2", "full_state_dict=True");
  refused("torch.distributed.tensor", "DTensor", "full_state_dict=True");
  refused("torch.distributed._shard.sharded_tensor.api", "ShardedTensor", "full_state_dict=True");
  refused("torch._utils", "_rebuild_meta_tensor_no_storage", "on the device meta");
}

TEST(PickleTest, RefusesOpcodesByName) {
  const auto opcode = [](std::string_view op, std::string_view name) {
    ExpectRefused(PickleText().Op("N").Op(op).Stop(),
                  "the opcode " + std::string(name) + " is not one that a checkpoint needs",
                  "(byte 3)");
  };
  opcode("i", "INST");
  opcode("o", "OBJ");
  opcode("\x82\x01", "EXT1");
  opcode("\x83\x01\x01", "EXT2");
  opcode("\x84\x01\x01\x01\x01", "EXT4");
  opcode("P1\n", "PERSID");
  opcode("I1\n", "INT");
  opcode("\x8B\x01\x01\x01\x01", "LONG4");
  opcode("\x92", "NEWOBJ_EX");
  opcode("\x97", "NEXT_BUFFER");
  opcode("0", "POP");
  opcode("\x80\x02", "PROTO");
  opcode("\xFF", "0xFF");
}

TEST(PickleTest, RefusesOtherProtocols) {
  ExpectRefused("", "it does not begin as a pickle of protocol 2 to 5");
  ExpectRefused("hello", "it does not begin as a pickle");
  ExpectRefused(PickleText(1).Op("N").Stop(), "its protocol is 1, expected 2 to 5");
  ExpectRefused(PickleText(6).Op("N").Stop(), "its protocol is 6");
}

TEST(PickleTest, EveryPrefixIsAnError) {
  const std::string text = PickleText(4)
                               .Op("\x95")
                               .Number(1, 8)
                               .Op("}(")
                               .Text("a")
                               .Size(std::array{300, 70'000})
                               .Op("G")
                               .Number(0, 8)
                               .Op("C\x01xu\x94")
                               .Get(0)
                               .Op("\x86")
                               .Stop();
  Parse(text);
  for (std::size_t length = 0; length < text.size(); ++length) {
    // A fresh block of exactly this size, so that a sanitizer sees a read beyond it.
    const auto copy = std::make_unique<char[]>(length);
    std::copy_n(text.data(), length, copy.get());
    ExpectBadInput([&] { Parse(std::string_view(copy.get(), length)); }, "m.pt: data.pkl ");
  }
}

TEST(PickleTest, RefusesLengthsBeyondTheEnd) {
  ExpectRefused(PickleText().Op("X").Number(0xFFFFFFFF, 4).Stop(),
                "ends at byte 8, but what begins at byte 2 needs 4.3 GB (4,294,967,295 bytes) from "
                "byte 7 on");
  ExpectRefused(PickleText(5).Op("\x96").Number(~std::uint64_t{0}, 8).Stop(), "ends at byte 12");
  ExpectRefused(PickleText(4).Op("\x95").Number(2, 8).Stop(), "a frame reaches behind its end");
  ExpectRefused(PickleText().Op("ctorch").Stop(), "the name of a global has no end");
}

TEST(PickleTest, RefusesBytesBehindItsEnd) {
  ExpectRefused(PickleText().Op("N").Stop() + "N", "1 byte follow");
}

TEST(PickleTest, RefusesTextThatIsNotUtf8) {
  ExpectRefused(PickleText().Text("\xC3").Stop(), "a text is not UTF-8 (byte 2)");
  ExpectRefused(PickleText().Global("torch", "\xFF").Stop(), "a text is not UTF-8");
}

TEST(PickleTest, RefusesStacksThatAreTooShort) {
  const std::string words = "an opcode needs more values than there are";
  for (const std::string_view ops :
       {"\x85", "NN\x87", "Na",
        "N\x94\x94"
        "e",
        "t", "(N\x86", "(e", "N(Na", "}N(Nu", "R", "(b", "q\x01", "N(q\x01", "Q", "(\x90"}) {
    const std::string text = PickleText().Op(ops).Stop();
    ExpectBadInput([&] { Parse(text); }, "m.pt: data.pkl is malformed");
  }
  ExpectRefused(PickleText().Op("t").Stop(), words);
  ExpectRefused(PickleText().Op("NN\x87").Stop(), words);
  ExpectRefused(PickleText().Op("N(Na").Stop(), words);
  ExpectRefused(PickleText().Op("N(N\x86t").Stop(), words);
  ExpectRefused(PickleText().Op("").Stop(), "it does not end with one value");
  ExpectRefused(PickleText().Op("NN").Stop(), "it does not end with one value");
  ExpectRefused(PickleText().Op("N(").Stop(), "it does not end with one value");
}

TEST(PickleTest, RefusesOperandsOfOtherTypes) {
  ExpectRefused(PickleText().Op("NNa").Stop(), "items are added to None");
  ExpectRefused(PickleText().Op("]NNs").Stop(), "items are added to a list of 0");
  ExpectRefused(PickleText(4).Op("](N\x90").Stop(), "items are added to a list of 0");
  ExpectRefused(PickleText().Op("](NNe(NNu").Stop(), "items are added to a list of 2");
  ExpectRefused(PickleText().Op("}(Nu").Stop(), "a key has no value");
  ExpectRefused(PickleText().Op("N)R").Stop(), "it would call None with a tuple of 0");
  ExpectRefused(PickleText().Global("torch", "Size").Op("]R").Stop(),
                "it would call the global 'torch.Size' with a list of 0");
  ExpectRefused(PickleText().Op("}Nb").Stop(), "a state is given to a dict of 0");
  ExpectRefused(PickleText().Size(std::array{1}).Op("NbNb").Stop(), "given its state twice");
  ExpectRefused(PickleText().Size(std::array{1}).Op("NaNNs").Stop(), "items are added to");
  ExpectRefused(PickleText(4).Op("NN\x93").Stop(), "the name of a global is not a text");
}

TEST(PickleTest, RefusesMemosThatWereNotMade) {
  ExpectRefused(PickleText().Op("h\x01").Stop(), "it recalls memo 1, which was not made");
  ExpectRefused(PickleText().Op("Nq\x02h\x01\x86").Stop(), "it recalls memo 1");
  ExpectRefused(PickleText().Op("N").Put(0xFFFFFFFF).Stop(),
                "memo 4294967295 is beyond what it can have made");
}

TEST(PickleTest, RefusesValuesThatContainThemselves) {
  const std::string words = "a value contains itself, or changes after another one took it";
  ExpectRefused(PickleText()
                    .Op("]q\x01h\x01"
                        "a")
                    .Stop(),
                words);
  ExpectRefused(PickleText()
                    .Op("]q\x01h\x01\x85"
                        "a")
                    .Stop(),
                words);
  ExpectRefused(PickleText().Op("}q\x01Nh\x01s").Stop(), words);
  ExpectRefused(PickleText()
                    .Size(std::array{1})
                    .Op("q\x01h\x01"
                        "b")
                    .Stop(),
                words);
  ExpectRefused(PickleText()
                    .Size(std::array{1})
                    .Op("q\x01]h\x01"
                        "aa")
                    .Stop(),
                words);
  // No circle, but how deep the outer list is would change behind its back.
  ExpectRefused(PickleText()
                    .Op("]q\x01]h\x01"
                        "ah\x01]a\x86")
                    .Stop(),
                words);
}

TEST(PickleTest, RefusesDeepNesting) {
  const auto nested = [](std::size_t depth, const std::string& open, const std::string& close) {
    PickleText text;
    for (std::size_t i = 0; i < depth; ++i) text.Op(open);
    text.Op("N");
    for (std::size_t i = 0; i < depth; ++i) text.Op(close);
    return text.Stop();
  };
  const std::string words = "nests values deeper than 100 levels";
  EXPECT_EQ(Parse(nested(100, "]", "a")).num_values(), 104U);
  ExpectRefused(nested(101, "]", "a"), words);
  ExpectRefused(nested(1'000'000, "]", "a"), words);
  ExpectRefused(nested(1'000'000, "(", "t"), words);
  ExpectRefused(nested(1'000'000, "", "\x85"), words);
  ExpectRefused(nested(1'000'000, "", "Q"), words);
  ExpectRefused(nested(1'000'000, "}N", "s"), words);
  ExpectRefused(nested(60, "ctorch\nSize\n)R", "a"), words);
  ExpectRefused(nested(101, "ctorch\nSize\n)R", "b"), words);
}

TEST(PickleTest, AMemoBombStaysSmall) {
  PickleText text;
  text.Op("N");
  for (std::uint32_t i = 0; i < 90; ++i) text.Put(i).Get(i).Op("\x86");
  const std::string bomb = text.Stop();
  EXPECT_LT(Parse(bomb).num_values(), 100U);
}

TEST(PickleTest, RefusesPicklesBeyondTheLimits) {
  const auto repeat = [](std::size_t count, std::string_view op) {
    std::string ops;
    ops.reserve(count * op.size());
    for (std::size_t i = 0; i < count; ++i) ops += op;
    return PickleText(4).Op("](").Op(ops).Stop();
  };
  ExpectRefused(std::string(kMaxPickleBytes + 1, '\x80'), "has 96.0 MB", "in several files");
  ExpectRefused(repeat((std::size_t{1} << 22) + 1, "N"), "more than 4,194,304 values at once");
  ExpectRefused(repeat(kMaxPickleValues / 3, "]]\x86"), "more than 12,000,000 values");
  ExpectRefused(repeat(std::size_t{7} << 20, "Ne("), "more than 20,000,000 items");
  std::string globals;
  for (int i = 0; i <= 10'000; ++i) globals += "cmegatron\n" + std::to_string(i) + "\n";
  ExpectRefused(repeat(1, globals), "more than 10,000 globals");
}

}  // namespace
}  // namespace dsv3::formats
