#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

// Whether elements y of a tensor are the elements x of another times a factor; an internal part of
// relation.h. Sums are made of each row first, so that they do not depend on panels.
namespace dsv3::convert {

// A BF16 number is within 2^-8 of what was rounded; both sides may be, and a little for the factor.
inline constexpr double kTwoRoundings = 1.05 / 128;
// Of the squared error a factor must explain more than the rest, or it is only noise.
inline constexpr double kUnexplained = 0.25;
// Or, near 1, it must be so many of its standard errors away from it.
inline constexpr double kStandardErrors = 8;
// Sums over elements.
struct Fit {
  std::uint64_t elements = 0;
  double squares = 0;
  double products = 0;

  double Factor() const { return squares == 0 ? 0 : products / squares; }
};

// The factors with which b is a rounded product of a, and the sums that say the likeliest of them.
struct Factors {
  Fit fit;
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();

  void Add(double a, double b, double low, double high) {
    ++fit.elements;
    fit.squares += a * a;
    fit.products += a * b;
    least = std::max(least, low);
    most = std::min(most, high);
  }
  void Add(const Factors& more) {
    fit.elements += more.fit.elements;
    fit.squares += more.fit.squares;
    fit.products += more.fit.products;
    least = std::max(least, more.least);
    most = std::min(most, more.most);
  }
  // Nothing where no factor is right in each element.
  std::optional<double> Best() const {
    if (!(least <= most) || fit.elements == 0) return std::nullopt;
    return std::clamp(fit.Factor(), least, most);
  }
};

struct RowFactors {
  Factors all;
  Factors differing;  // of elements that are not A's, rounded
};

// Sums over elements x of A and y of B, with the residual r = y − factor · x.
struct Residuals {
  bool fits = true;
  double error = 0;     // of (y − x)²
  double residual = 0;  // of r²
  double products = 0;  // of x · (y − x)
  double squares = 0;   // of x²
  double spread = 0;    // of x² · r²
  // The same with a BF16 number's last place, u, for x: another way of rounding changes all
  // numbers by one amount of these, whatever their digits.
  double place_products = 0;
  double place_squares = 0;

  void Add(double x, double y, double factor) {
    const double difference = y - x;
    const double r = y - factor * x;
    if (std::abs(r) > kTwoRoundings * std::abs(factor * x)) fits = false;
    error += difference * difference;
    residual += r * r;
    products += x * difference;
    squares += x * x;
    spread += x * x * r * r;
    if (x == 0) return;
    const double u = std::copysign(std::ldexp(1.0, std::ilogb(x) - 7), x);
    place_products += u * difference;
    place_squares += u * u;
  }
  void Add(const Residuals& more) {
    fits = fits && more.fits;
    error += more.error;
    residual += more.residual;
    products += more.products;
    squares += more.squares;
    spread += more.spread;
    place_products += more.place_products;
    place_squares += more.place_squares;
  }
  bool ExplainMost() const { return residual <= kUnexplained * error; }
  // Of a factor near 1, which changes few BF16 numbers, and those by a whole last place.
  bool ExplainMoreThanRounding() const {
    return std::abs(products) >= kStandardErrors * std::sqrt(spread) &&
           products * products * place_squares > place_products * place_products * squares;
  }
};

}  // namespace dsv3::convert
