#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "convert/layouts/layout_table.h"
#include "convert/layouts/read_layout.h"
#include "convert/layouts/write_layout.h"
#include "tests/convert/model/configs.h"

// A model in which every element has a number, and the tensors of a layout as formulas make them of
// it, apart from the table that a test is about.
namespace dsv3::convert::testing {

using Elements = std::vector<std::uint32_t>;

// SmallConfig with six RoPE rows a head: their sorted order is not its own inverse.
inline nlohmann::json RopeConfig() {
  nlohmann::json json = SmallConfig();
  json["qk_rope_head_dim"] = 6;
  return json;
}

struct ElementModel {
  ModelConfig config;
  std::vector<StackTensor> tensors;
  std::map<std::string, Elements> values;
  std::vector<StackTensor> stack;
  std::vector<Elements> stack_values;

  explicit ElementModel(const nlohmann::json& json = RopeConfig())
      : config(ParseModelConfig(json.dump(), "config.json")), tensors(ModelTensorsOf(config)) {
    std::uint32_t next = 0;
    for (const StackTensor& tensor : tensors) {
      Elements& elements = values[tensor.name];
      elements.resize(*formats::NumElements(tensor.shape));
      for (std::uint32_t& element : elements) element = next++;
    }
    // MTP layers repeat the embedding and the head.
    const std::string mtp = "model.layers." + std::to_string(config.num_hidden_layers);
    values[mtp + ".embed_tokens.weight"] = values["model.embed_tokens.weight"];
    values[mtp + ".shared_head.head.weight"] = values["lm_head.weight"];
  }

  const formats::Shape& ShapeOf(const std::string& name) const {
    for (const StackTensor& tensor : tensors) {
      if (tensor.name == name) return tensor.shape;
    }
    throw std::out_of_range(name);
  }
  std::uint32_t At(const std::string& name, std::uint64_t row, std::uint64_t col) const {
    return values.at(name).at(row * ShapeOf(name)[1] + col);
  }

  // Adds a tensor of the layout whose element at a position is what `element` gives.
  void Add(const std::string& name, const formats::Shape& shape,
           const std::function<std::uint32_t(std::uint64_t)>& element) {
    stack.push_back({name, shape});
    Elements elements;
    for (std::uint64_t i = 0; i < *formats::NumElements(shape); ++i) elements.push_back(element(i));
    stack_values.push_back(elements);
  }
  // Adds one that is a tensor of the model.
  void Same(const std::string& name, const std::string& model) {
    Add(name, ShapeOf(model), [&](std::uint64_t i) { return values.at(model)[i]; });
  }
  // Adds one whose row is that row of a tensor of the model which `row` gives.
  void Rows(const std::string& name, std::uint64_t rows, const std::string& model,
            const std::function<std::uint64_t(std::uint64_t)>& row) {
    const std::uint64_t cols = ShapeOf(model)[1];
    Add(name, {rows, cols}, [&](std::uint64_t i) { return At(model, row(i / cols), i % cols); });
  }
};

// The elements of a tensor made of sources; each must come from one part.
inline Elements Make(const ComposedTensor& tensor, const std::vector<Elements>& sources) {
  constexpr std::uint32_t kNone = UINT32_MAX;
  Elements made(*formats::NumElements(tensor.shape), kNone);
  EXPECT_EQ(tensor.matrix.rows * tensor.matrix.cols, made.size()) << tensor.name;
  for (const TensorPart& part : tensor.parts) {
    EXPECT_FALSE(part.box.empty()) << tensor.name;
    for (std::uint64_t r = 0; r < part.box.rows(); ++r) {
      for (std::uint64_t c = 0; c < part.box.cols(); ++c) {
        const std::uint64_t row = part.row + (part.transposed ? c : r);
        const std::uint64_t col = part.col + (part.transposed ? r : c);
        std::uint32_t& element = made.at(row * tensor.matrix.cols + col);
        EXPECT_LT(col, tensor.matrix.cols) << tensor.name;
        EXPECT_EQ(element, kNone) << tensor.name << " is made twice";
        element = sources.at(part.source)
                      .at((part.box.row_begin + r) * part.matrix.cols + part.box.col_begin + c);
      }
    }
  }
  return made;
}

// Reads the layout and expects every element of the model.
inline void ExpectReadsElements(const LayoutTable& table, const ElementModel& model) {
  const LayoutReading reading = ReadLayout(table, model.config, model.stack);
  ASSERT_EQ(reading.tensors.size(), model.tensors.size());
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    const ComposedTensor& tensor = reading.tensors[i];
    ASSERT_EQ(tensor.name, model.tensors[i].name);
    EXPECT_EQ(tensor.shape, model.tensors[i].shape) << tensor.name;
    EXPECT_EQ(Make(tensor, model.stack_values), model.values.at(tensor.name)) << tensor.name;
    std::uint64_t row = 0;  // the parts lie one below the other
    for (const TensorPart& part : tensor.parts) {
      EXPECT_EQ(part.row, row) << tensor.name;
      row += part.transposed ? part.box.cols() : part.box.rows();
    }
  }
}

// Writes the model and expects every element of the layout.
inline void ExpectWritesElements(const LayoutTable& table, const ElementModel& model,
                                 const std::vector<std::string_view>& variants = {}) {
  std::vector<Elements> sources;
  for (const StackTensor& tensor : model.tensors) sources.push_back(model.values.at(tensor.name));
  std::map<std::string, ComposedTensor> written;
  for (const auto& tensor : WriteLayout(table, model.config, model.tensors, variants)) {
    EXPECT_TRUE(written.emplace(tensor.name, tensor).second) << tensor.name;
  }
  EXPECT_EQ(written.size(), model.stack.size());
  for (std::size_t i = 0; i < model.stack.size(); ++i) {
    const std::string& name = model.stack[i].name;
    ASSERT_EQ(written.count(name), 1U) << name;
    EXPECT_EQ(written.at(name).shape, model.stack[i].shape) << name;
    EXPECT_EQ(Make(written.at(name), sources), model.stack_values[i]) << name;
  }
}

}  // namespace dsv3::convert::testing
