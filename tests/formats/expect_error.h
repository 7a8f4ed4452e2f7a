#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"

namespace dsv3::testing {

// The Error that `call` throws; a failure of the test, and an empty error, when it throws none.
template <typename Call>
Error ErrorOf(Call&& call) {
  try {
    std::forward<Call>(call)();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "an Error was expected";
  return Error(ErrorCode::kInternal, "");
}

// Expects `call` to throw kBadInput with a message that holds all of `words`.
template <typename Call, typename... Words>
void ExpectBadInput(Call&& call, const Words&... words) {
  const Error error = ErrorOf(std::forward<Call>(call));
  EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
  EXPECT_THAT(error.message(), ::testing::AllOf(::testing::HasSubstr(words)...));
}

}  // namespace dsv3::testing
