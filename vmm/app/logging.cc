#include "vmm/app/logging.h"

#include <fmt/format.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/clean_text.h"
#include "base/directory.h"
#include "base/fd.h"
#include "base/status.h"
#include "vmm/app/text.h"

namespace ferrite {
namespace {

// The longest message. Ours are far shorter.
constexpr size_t kMaxMessage = 64 << 10;

// The pattern, and IndentRest(). What is in a message may be anybody's words.
class RecordFormatter final : public spdlog::formatter {
 public:
  explicit RecordFormatter(std::string pattern) : pattern_(std::move(pattern)), inner_(pattern_) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const std::string text = IndentRest(CleanLines({message.payload.data(), message.payload.size()}, kMaxMessage));
    spdlog::details::log_msg indented = message;
    indented.payload = {text.data(), text.size()};
    inner_.format(indented, out);
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<RecordFormatter>(pattern_); }

 private:
  const std::string pattern_;
  spdlog::pattern_formatter inner_;
};

// Threads that a guest, or a client, waits for log: none of them waits for who reads standard error.
bool WriteToStandardError(absl::string_view text) {
  // In pieces that a pipe takes whole or not at all.
  while (!text.empty()) {
    const absl::string_view piece = text.substr(0, PIPE_BUF);
    const ssize_t written =
        WriteWithoutWaiting(STDERR_FILENO, {reinterpret_cast<const uint8_t*>(piece.data()), piece.size()});
    if (written < 0) {
      return false;
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

class StandardErrorSink final : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (lost_ > 0 &&
        WriteToStandardError(fmt::format("ferrite: warning: {} messages that nobody read are lost here\n", lost_))) {
      lost_ = 0;
    }
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    if (lost_ > 0 || !WriteToStandardError({line.data(), line.size()})) {
      ++lost_;
    }
  }
  void flush_() override {}

 private:
  uint64_t lost_ = 0;
};

spdlog::sink_ptr MakeStandardErrorSink() {
  auto sink = std::make_shared<StandardErrorSink>();
  sink->set_level(spdlog::level::warn);
  sink->set_formatter(std::make_unique<RecordFormatter>("ferrite: %l: %v"));
  return sink;
}

// Goes on after an error (the disk was full): each message is a new try. Where some are missing a line says how many,
// and standard error is told when that begins.
class FileSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  FileSink(std::string path, Fd file) : path_(std::move(path)), file_(std::move(file)) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (lost_ > 0) {
      spdlog::details::log_msg notice = message;
      const std::string text = fmt::format("{} messages are missing here: {}", lost_, why_);
      notice.level = spdlog::level::warn;
      notice.payload = {text.data(), text.size()};
      // What was written of the first of them is no line of its own.
      if (!Write(notice, ends_inside_a_line_ ? "\n" : "")) {
        ++lost_;
        return;
      }
      lost_ = 0;
      ends_inside_a_line_ = false;
    }
    if (!Write(message, "")) {
      lost_ = 1;
      (void)WriteToStandardError(fmt::format("ferrite: warning: the log is not complete: {}\n", why_));
    }
  }
  void flush_() override {}

 private:
  // The whole record, behind `before`, or false and why_.
  bool Write(const spdlog::details::log_msg& message, absl::string_view before) {
    spdlog::memory_buf_t record;
    formatter_->format(message, record);
    std::string text(before);
    text.append(record.data(), record.size());
    absl::string_view rest = text;
    while (!rest.empty()) {
      const ssize_t written = write(file_.get(), rest.data(), rest.size());
      if (written < 0 && errno == EINTR) {
        continue;
      }
      if (written <= 0) {
        why_ = std::string(ErrnoStatus(absl::StrCat("write ", path_)).message());
        if (rest.size() < text.size()) {
          ends_inside_a_line_ = text[text.size() - rest.size() - 1] != '\n';
        }
        return false;
      }
      rest.remove_prefix(static_cast<size_t>(written));
    }
    return true;
  }

  const std::string path_;
  const Fd file_;
  uint64_t lost_ = 0;
  std::string why_;
  bool ends_inside_a_line_ = false;
};

void Use(std::vector<spdlog::sink_ptr> sinks) {
  auto logger = std::make_shared<spdlog::logger>("ferrite", sinks.begin(), sinks.end());
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace

void LogToStandardError() { Use({MakeStandardErrorSink()}); }

absl::Status LogToFileToo(const std::string& path) {
  FERRITE_ASSIGN_OR_RETURN(Fd file, OpenForAppending(path, AppendTo::kRegularFile));
  LogToFileToo(std::move(file), path);
  return absl::OkStatus();
}

void LogToFileToo(Fd file, const std::string& path) {
  auto sink = std::make_shared<FileSink>(path, std::move(file));
  sink->set_formatter(std::make_unique<RecordFormatter>("%Y-%m-%dT%H:%M:%S.%e %l %v"));
  Use({MakeStandardErrorSink(), std::move(sink)});
}

}  // namespace ferrite
