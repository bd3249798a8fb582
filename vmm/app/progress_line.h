// How something goes, while it does.
#ifndef FERRITE_VMM_APP_PROGRESS_LINE_H_
#define FERRITE_VMM_APP_PROGRESS_LINE_H_

#include <nlohmann/json.hpp>
#include <string>

#include "absl/functional/function_ref.h"

namespace ferrite {

// On standard output: lines of JSON, or one line that changes on a terminal, or elsewhere a line for what is news.
class ProgressLine {
 public:
  explicit ProgressLine(bool json);

  void Show(bool is_news, absl::FunctionRef<std::string()> text, absl::FunctionRef<nlohmann::ordered_json()> json);
  // Makes room for other lines.
  void Finish() const;

 private:
  const bool json_;
  const bool live_;
  bool drawn_ = false;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_PROGRESS_LINE_H_
