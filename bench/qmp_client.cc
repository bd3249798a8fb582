#include "bench/qmp_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

constexpr absl::Duration kAnswer = absl::Seconds(60);

absl::Status WaitToRead(const Fd& fd, MonotonicTime deadline) {
  const int64_t left = absl::ToInt64Milliseconds(deadline - MonotonicTime::Now());
  pollfd ready = {.fd = fd.get(), .events = POLLIN, .revents = 0};
  return left > 0 && poll(&ready, 1, static_cast<int>(left)) > 0
             ? absl::OkStatus()
             : absl::DeadlineExceededError("nothing came from QEMU's monitor");
}

}  // namespace

absl::StatusOr<std::unique_ptr<QmpClient>> QmpClient::Listen(const std::string& path) {
  Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is too long for a socket"));
  }
  path.copy(address.sun_path, path.size());
  if (!listener.valid() || bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener.get(), 1) != 0) {
    return ErrnoStatus(absl::StrCat("listen at ", path));
  }
  return std::unique_ptr<QmpClient>(new QmpClient(std::move(listener)));
}

absl::Status QmpClient::Accept(absl::Duration limit) {
  FERRITE_RETURN_IF_ERROR(WaitToRead(listener_, MonotonicTime::Now() + limit));
  socket_.Reset(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket_.valid()) {
    return ErrnoStatus("accept QEMU's monitor");
  }
  return Execute("qmp_capabilities").status();
}

absl::StatusOr<Json> QmpClient::Read(MonotonicTime deadline) {
  for (;;) {
    if (const size_t end = heard_.find('\n'); end != std::string::npos) {
      Json line = Json::parse(heard_.substr(0, end), nullptr, /*allow_exceptions=*/false);
      heard_.erase(0, end + 1);
      if (!line.is_object()) {
        return absl::InternalError("QEMU's monitor sent what is no JSON object");
      }
      return line;
    }
    FERRITE_RETURN_IF_ERROR(WaitToRead(socket_, deadline));
    char buffer[4096];
    const ssize_t bytes = read(socket_.get(), buffer, sizeof(buffer));
    if (bytes < 0) {
      return ErrnoStatus("read from QEMU's monitor");
    }
    if (bytes == 0) {
      return absl::UnavailableError("QEMU closed its monitor");
    }
    heard_.append(buffer, static_cast<size_t>(bytes));
  }
}

absl::StatusOr<Json> QmpClient::Execute(const std::string& command, Json arguments) {
  const std::string line = Json({{"execute", command}, {"arguments", std::move(arguments)}}).dump() + "\n";
  if (write(socket_.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    return ErrnoStatus("write to QEMU's monitor");
  }
  const MonotonicTime deadline = MonotonicTime::Now() + kAnswer;
  for (;;) {
    FERRITE_ASSIGN_OR_RETURN(Json answer, Read(deadline));
    if (answer.contains("return")) {
      return answer["return"];
    }
    if (answer.contains("error")) {
      return absl::InternalError(absl::StrCat("QEMU: ", command, ": ", answer["error"].dump()));
    }
    if (answer.contains("event")) {
      events_.push_back(std::move(answer));
    }
  }
}

absl::StatusOr<Json> QmpClient::WaitForEvent(const std::function<absl::StatusOr<bool>(const Json&)>& wanted,
                                             absl::Duration limit) {
  const MonotonicTime deadline = MonotonicTime::Now() + limit;
  for (;;) {
    if (events_.empty()) {
      FERRITE_ASSIGN_OR_RETURN(Json heard, Read(deadline));
      events_.push_back(std::move(heard));
    }
    const Json event = std::move(events_.front());
    events_.pop_front();
    FERRITE_ASSIGN_OR_RETURN(const bool found, wanted(event));
    if (found) {
      return event;
    }
  }
}

}  // namespace ferrite
