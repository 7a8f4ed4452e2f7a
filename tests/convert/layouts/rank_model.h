#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "convert/layouts/megatron_names.h"
#include "convert/layouts/megatron_ranks.h"
#include "convert/layouts/write_layout.h"
#include "formats/error.h"
#include "tests/convert/layouts/element_model.h"
#include "tests/convert/support/conversion.h"

// A model in which every element has a number, as the ranks of Megatron-Core hold it.
namespace dsv3::convert::testing {

inline bool Has(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// The rows or columns of a tensor that are given, in this order.
inline Elements Taken(const Elements& elements, std::uint64_t cols,
                      const std::vector<std::uint64_t>& rows, std::uint64_t col_begin,
                      std::uint64_t col_end) {
  Elements taken;
  for (const std::uint64_t row : rows) {
    for (std::uint64_t col = col_begin; col < col_end; ++col) {
      taken.push_back(elements.at(row * cols + col));
    }
  }
  return taken;
}

inline std::vector<std::uint64_t> Range(std::uint64_t begin, std::uint64_t end) {
  std::vector<std::uint64_t> rows;
  for (std::uint64_t row = begin; row < end; ++row) rows.push_back(row);
  return rows;
}

// A checkpoint of ranks, as Megatron-Core's ranks hold the model.
struct RankModel {
  ElementModel model;
  MegatronSizes sizes;
  std::vector<std::uint64_t> stage_layers;  // of each pipeline rank
  bool down_is_cut = true;                  // as up to 0.13
  std::vector<MegatronRank> ranks;
  std::vector<std::vector<Elements>> values;  // as the tensors of `ranks`

  explicit RankModel(const nlohmann::json& json, MegatronSizes ranks_of,
                     std::vector<std::uint64_t> layers)
      : model(json), sizes(ranks_of), stage_layers(std::move(layers)) {}

  // All files, or for each stage one of each tensor rank, with that expert rank.
  void Save(bool all, const std::vector<std::string_view>& variants = {"live", "live-mtp"}) {
    std::vector<Elements> sources;
    for (const StackTensor& tensor : model.tensors) sources.push_back(model.values[tensor.name]);
    const auto whole = WriteLayout(MegatronNames(), model.config, model.tensors, variants);
    for (std::uint64_t pipeline = 0; pipeline < sizes.pipeline; ++pipeline) {
      for (std::uint64_t stage = 0; stage < sizes.virtual_stages; ++stage) {
        for (std::uint64_t tensor = 0; tensor < sizes.tensor; ++tensor) {
          for (std::uint64_t expert = 0; expert < sizes.expert; ++expert) {
            if (!all && expert != tensor) continue;
            MegatronRank rank{fmt::format("mp_rank_{:02}_{:03}_{:03}", tensor, pipeline, expert),
                              tensor,
                              pipeline,
                              stage,
                              expert,
                              {}};
            values.emplace_back();
            for (const ComposedTensor& one : whole) AddTo(rank, one, Make(one, sources));
            ranks.push_back(rank);
          }
        }
      }
    }
  }

  // Adds the rank's slice, if it has one.
  void AddTo(MegatronRank& rank, const ComposedTensor& tensor, const Elements& elements) {
    std::string name = tensor.name;
    const std::uint64_t last = sizes.pipeline - 1;
    const bool is_last = rank.pipeline == last && rank.virtual_stage == sizes.virtual_stages - 1;
    const std::string layers = "decoder.layers.";
    if (name.starts_with(layers)) {
      const std::uint64_t layer = std::stoull(name.substr(layers.size()));
      std::uint64_t begin = 0;
      if (sizes.virtual_stages > 1) {
        begin = rank.virtual_stage * model.config.num_hidden_layers / sizes.virtual_stages +
                rank.pipeline * stage_layers[0];
      } else {
        for (std::uint64_t i = 0; i < rank.pipeline; ++i) begin += stage_layers[i];
      }
      if (layer < begin || layer >= begin + stage_layers[rank.pipeline]) return;
      name =
          fmt::format("{}{}{}", layers, layer - begin, name.substr(name.find('.', layers.size())));
    } else if (name.starts_with("embedding.")) {
      if ((rank.pipeline != 0 || rank.virtual_stage != 0) && !is_last) return;
    } else if (!is_last) {
      return;
    }
    std::uint64_t slices = sizes.tensor;
    if (Has(name, ".mlp.experts.")) {
      slices = sizes.expert_tensor;
      const bool sequential = Has(name, "local_experts.");
      const std::string before = sequential ? "local_experts." : ".weight";
      const std::size_t at = name.find(before) + before.size();
      const std::uint64_t expert = std::stoull(name.substr(at));
      const std::uint64_t held = model.config.n_routed_experts / sizes.expert;
      if (expert / held != rank.expert) return;
      name = name.substr(0, at) + std::to_string(expert % held) + name.substr(at + 1);
    }
    Cut(rank, name, tensor.shape, elements, rank.tensor % slices, slices);
  }

  void Cut(MegatronRank& rank, const std::string& name, formats::Shape shape,
           const Elements& elements, std::uint64_t i, std::uint64_t n) {
    const std::uint64_t rows = shape[0];
    const std::uint64_t cols = shape.size() == 2 ? shape[1] : 1;
    Elements slice = elements;
    const bool is_vector = shape.size() == 1;
    if (!is_vector && Has(name, "linear_fc1.weight")) {
      std::vector<std::uint64_t> taken = Range(i * rows / 2 / n, (i + 1) * rows / 2 / n);
      for (const std::uint64_t row : Range(i * rows / 2 / n, (i + 1) * rows / 2 / n)) {
        taken.push_back(rows / 2 + row);
      }
      slice = Taken(elements, cols, taken, 0, cols);
      shape[0] /= n;
    } else if (Has(name, "linear_fc2.weight") || Has(name, "linear_proj.weight")) {
      slice = Taken(elements, cols, Range(0, rows), i * cols / n, (i + 1) * cols / n);
      shape[1] /= n;
    } else if (!is_vector && !Has(name, "router") && (down_is_cut || !Has(name, "down_proj"))) {
      slice = Taken(elements, cols, Range(i * rows / n, (i + 1) * rows / n), 0, cols);
      shape[0] /= n;
    }
    rank.tensors.push_back({name, shape});
    values.back().push_back(slice);
  }

  RankReading Read() const { return ReadMegatronRanks(model.config, sizes, ranks); }

  void ExpectReads() const {
    std::vector<Elements> sources;
    for (const auto& of_rank : values)
      sources.insert(sources.end(), of_rank.begin(), of_rank.end());
    const RankReading reading = Read();
    ASSERT_EQ(reading.model.tensors.size(), model.tensors.size());
    std::set<std::uint32_t> reached;
    for (std::size_t i = 0; i < model.tensors.size(); ++i) {
      const ComposedTensor& tensor = reading.model.tensors[i];
      EXPECT_EQ(tensor.name, model.tensors[i].name);
      EXPECT_EQ(Make(tensor, sources), model.values.at(tensor.name)) << tensor.name;
      for (const TensorPart& part : tensor.parts) reached.insert(part.source);
    }
    // What is not read is a copy of what is.
    for (const EqualTensors& copy : reading.copies) {
      EXPECT_EQ(sources.at(copy.first), sources.at(copy.second));
      EXPECT_TRUE(reached.count(copy.first) == 1 && reached.insert(copy.second).second);
    }
    EXPECT_EQ(reached.size(), sources.size());
  }

  Error Refused() const {
    return dsv3::testing::ErrorOf([&] { Read(); });
  }
};

}  // namespace dsv3::convert::testing
