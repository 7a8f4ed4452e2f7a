#include "cli/svg.h"

#include <utility>

#include <fmt/format.h>

#include "cli/junit.h"

namespace dsv3::cli {

std::string Svg::Number(double value) {
  std::string text = fmt::format("{:.2f}", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

Svg::Svg(double width, double height, std::string_view title, std::string_view description,
         std::string_view style) {
  text_ = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" role=\"img\" aria-labelledby=\"title description\">\n"
      "<title id=\"title\">{2}</title>\n<desc id=\"description\">{3}</desc>\n"
      "<style>\n{4}</style>\n",
      Number(width), Number(height), XmlText(title), XmlText(description), style);
}

void Svg::Rect(double x, double y, double width, double height, std::string_view classes,
               double radius) {
  text_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"", Number(x), Number(y),
                       Number(width), Number(height));
  if (radius > 0) text_ += fmt::format(" rx=\"{}\"", Number(radius));
  text_ += fmt::format(" class=\"{}\"/>\n", classes);
}

void Svg::Line(double x1, double y1, double x2, double y2, std::string_view classes) {
  text_ += fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" class=\"{}\"/>\n", Number(x1),
                       Number(y1), Number(x2), Number(y2), classes);
}

void Svg::Text(double x, double y, std::string_view text, std::string_view classes) {
  text_ += fmt::format("<text x=\"{}\" y=\"{}\" class=\"{}\">{}</text>\n", Number(x), Number(y),
                       classes, XmlText(text));
}

void Svg::Path(std::string_view data, std::string_view classes) {
  text_ += fmt::format("<path class=\"{}\" d=\"{}\"/>\n", classes, data);
}

void Svg::BeginGroup(std::string_view title) {
  text_ += fmt::format("<g><title>{}</title>\n", XmlText(title));
}

void Svg::EndGroup() { text_ += "</g>\n"; }

std::string Svg::Take() {
  text_ += "</svg>\n";
  return std::move(text_);
}

}  // namespace dsv3::cli
