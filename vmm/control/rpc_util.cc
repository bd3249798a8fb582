#include "vmm/control/rpc_util.h"

#include <cstring>
#include <string>

#include "base/clean_text.h"
#include "base/log.h"
#include "base/out_of_memory.h"

namespace ferrite {

std::string Summary(const kj::Exception& exception) {
  const absl::string_view text = FromKj(exception.getDescription());
  return CleanText(text.substr(0, text.find('\n')));
}

void FillError(const absl::Status& status, control::Error::Builder error) {
  error.setCode(static_cast<uint16_t>(status.code()));
  if (!status.ok()) {
    error.setMessage(ToKj(std::string(status.message())));
  }
}

absl::Status ReadError(control::Error::Reader error) {
  if (error.getCode() == 0) {
    return absl::OkStatus();
  }
  const bool known = error.getCode() <= static_cast<uint16_t>(absl::StatusCode::kUnauthenticated);
  return absl::Status(known ? static_cast<absl::StatusCode>(error.getCode()) : absl::StatusCode::kUnknown,
                      CleanText(FromKj(error.getMessage()), kMaxLongText));
}

void KjLogRedirect::logMessage(kj::LogSeverity, const char*, int, int, kj::String&& text) {
  IfThereIsMemory([&] { Log().debug("control: {}", CleanText(FromKj(text))); });
}

}  // namespace ferrite
