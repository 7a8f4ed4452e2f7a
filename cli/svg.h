#pragma once

#include <string>
#include <string_view>

namespace dsv3::cli {

// Elements of a picture in SVG, in user units of a pixel, appended to a string. Looks come from
// classes, so that one style sheet sets them for light and dark screens. Texts are escaped; equal
// calls give equal bytes.
class Svg {
 public:
  // Opens the picture. `title` and `description` are for readers that do not see it.
  Svg(double width, double height, std::string_view title, std::string_view description,
      std::string_view style);

  void Rect(double x, double y, double width, double height, std::string_view classes,
            double radius = 0);
  void Line(double x1, double y1, double x2, double y2, std::string_view classes);
  void Text(double x, double y, std::string_view text, std::string_view classes);
  // A path of data as SVG spells it.
  void Path(std::string_view data, std::string_view classes);
  // A group; what is drawn until EndGroup shows `title` under the pointer.
  void BeginGroup(std::string_view title);
  void EndGroup();

  // Closes the picture.
  std::string Take();

  // A coordinate, to a hundredth.
  static std::string Number(double value);

 private:
  std::string text_;
};

}  // namespace dsv3::cli
