#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/plan/expression.h"

namespace dsv3::convert {

// A value that is made of one other value, its origin, and of nothing else: it has the origin's
// sources.
class OriginExpression : public Expression {
 public:
  std::string parameters() const override {
    return fmt::format("{}({})", origin_->rule(), origin_->parameters());
  }
  std::vector<std::uint32_t> streamed_sources() const override {
    return origin_->streamed_sources();
  }
  bool streams_whole_source() const override { return origin_->streams_whole_source(); }
  std::vector<std::uint32_t> side_sources() const override { return origin_->side_sources(); }

 protected:
  OriginExpression(ExpressionPtr origin, formats::Dtype dtype, formats::Shape shape)
      : Expression(dtype, std::move(shape)), origin_(std::move(origin)) {}

  const Expression& origin() const { return *origin_; }

 private:
  const ExpressionPtr origin_;
};

}  // namespace dsv3::convert
