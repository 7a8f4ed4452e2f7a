#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/layouts/layout_table.h"
#include "convert/layouts/read_layout.h"
#include "convert/layouts/write_layout.h"
#include "convert/model/expected_tensors.h"
#include "formats/error.h"
#include "tests/convert/model/configs.h"
#include "tests/convert/support/conversion.h"

// A training stack's tensors as a test composes them from the stack's description, apart from the
// table that it tests.
namespace dsv3::convert::testing {

struct Held {
  std::string name;  // of the model
  std::uint64_t row_begin = 0;
  std::uint64_t row_end = 0;
};

struct StackEntry {
  std::string name;
  formats::Shape shape;
  std::vector<Held> holds;  // in the order of the rows
};

struct StackModel {
  ModelConfig config = ParseModelConfig(SmallConfig().dump(), "config.json");
  std::vector<StackEntry> entries;
  // MTP tensors that the stack does not hold, and the main ones that they are copies of.
  std::map<std::string, std::string> copies;

  // A stack's tensor that is one of the model's.
  void Add(const std::string& name, const formats::Shape& shape, const std::string& model) {
    entries.push_back({name, shape, {{model, 0, MatrixOf(shape).rows}}});
  }
  // One that holds several of the model's, of equal or given numbers of rows.
  void AddRows(const std::string& name, const formats::Shape& shape,
               const std::vector<std::string>& models, std::vector<std::uint64_t> rows = {}) {
    if (rows.empty()) rows.assign(models.size(), MatrixOf(shape).rows / models.size());
    StackEntry entry{name, shape, {}};
    std::uint64_t row = 0;
    for (std::size_t i = 0; i < models.size(); ++i) {
      entry.holds.push_back({models[i], row, row + rows[i]});
      row += rows[i];
    }
    entries.push_back(entry);
  }

  StackEntry& Find(std::string_view name) {
    const auto found = std::find_if(entries.begin(), entries.end(),
                                    [&](const StackEntry& entry) { return entry.name == name; });
    if (found == entries.end()) throw std::out_of_range(std::string(name));
    return *found;
  }
  // Removes the tensors whose names contain this.
  void Remove(std::string_view text) {
    std::erase_if(entries, [&](const StackEntry& entry) {
      return entry.name.find(text) != std::string::npos;
    });
  }

  std::vector<StackTensor> Tensors() const {
    std::vector<StackTensor> tensors;
    for (const StackEntry& entry : entries) tensors.push_back({entry.name, entry.shape});
    return tensors;
  }
};

// Reads the stack and expects each tensor that the config predicts with the rows that the stack
// says.
inline void ExpectReads(const LayoutTable& table, const StackModel& stack) {
  const LayoutReading reading = ReadLayout(table, stack.config, stack.Tensors());
  std::map<std::string, std::pair<const StackEntry*, Held>> places;
  for (const StackEntry& entry : stack.entries) {
    for (const Held& held : entry.holds) places[held.name] = {&entry, held};
  }
  std::vector<ExpectedTensor> expected = ExpectedTensors(stack.config);
  if (!reading.has_mtp) std::erase_if(expected, [](const ExpectedTensor& t) { return t.mtp; });
  ASSERT_EQ(reading.tensors.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const ComposedTensor& tensor = reading.tensors[i];
    ASSERT_EQ(tensor.name, expected[i].name);
    EXPECT_EQ(tensor.shape, expected[i].shape) << tensor.name;
    const auto copy = stack.copies.find(tensor.name);
    const auto& [entry, held] = places.at(copy == stack.copies.end() ? tensor.name : copy->second);
    ASSERT_EQ(tensor.parts.size(), 1U) << tensor.name;
    EXPECT_EQ(tensor.parts[0].source, entry - stack.entries.data()) << tensor.name;
    EXPECT_EQ(tensor.parts[0].box,
              (Box{held.row_begin, held.row_end, 0, MatrixOf(entry->shape).cols}))
        << tensor.name << " in " << entry->name;
    EXPECT_EQ(tensor.parts[0].matrix, MatrixOf(entry->shape)) << tensor.name;
    EXPECT_EQ(tensor.parts[0].box.elements(), formats::NumElements(tensor.shape)) << tensor.name;
  }
}

// Writes the model in the order of its names and expects the stack's tensors.
inline void ExpectWrites(const LayoutTable& table, const StackModel& stack,
                         const std::vector<std::string_view>& variants = {}) {
  std::vector<StackTensor> model = ModelTensorsOf(stack.config);
  std::sort(model.begin(), model.end(),
            [](const StackTensor& a, const StackTensor& b) { return a.name < b.name; });
  std::map<std::string, ComposedTensor> written;
  for (const ComposedTensor& tensor : WriteLayout(table, stack.config, model, variants)) {
    EXPECT_TRUE(written.emplace(tensor.name, tensor).second) << tensor.name;
  }
  EXPECT_EQ(written.size(), stack.entries.size());
  for (const StackEntry& entry : stack.entries) {
    ASSERT_EQ(written.count(entry.name), 1U) << entry.name;
    const ComposedTensor& tensor = written.at(entry.name);
    EXPECT_EQ(tensor.shape, entry.shape) << entry.name;
    ASSERT_EQ(tensor.parts.size(), entry.holds.size()) << entry.name;
    for (std::size_t i = 0; i < entry.holds.size(); ++i) {
      const StackTensor& source = model[tensor.parts[i].source];
      EXPECT_EQ(source.name, entry.holds[i].name) << entry.name;
      EXPECT_EQ(tensor.parts[i].box, Whole(tensor.parts[i].matrix)) << entry.name;
      EXPECT_EQ(tensor.parts[i].box.elements(), formats::NumElements(source.shape)) << entry.name;
      EXPECT_EQ(tensor.parts[i].row, entry.holds[i].row_begin) << entry.name;
      EXPECT_EQ(tensor.parts[i].col, 0U) << entry.name;
    }
  }
}

// Expects that the stack is refused with a message about `tensor` that contains all of `texts`.
inline void ExpectRefuses(const LayoutTable& table, const StackModel& stack,
                          const std::string& tensor, const std::vector<std::string>& texts) {
  const Error error =
      dsv3::testing::ErrorOf([&] { ReadLayout(table, stack.config, stack.Tensors()); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
  EXPECT_EQ(error.place().tensor, tensor) << error.message();
  for (const std::string& text : texts) {
    EXPECT_THAT(error.message(), ::testing::HasSubstr(text));
  }
}

}  // namespace dsv3::convert::testing
