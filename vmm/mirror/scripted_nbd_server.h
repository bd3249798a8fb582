// An NBD server that answers as a test wants, also what no server should. (The NBD protocol's doc/proto.md.)
#ifndef FERRITE_VMM_MIRROR_SCRIPTED_NBD_SERVER_H_
#define FERRITE_VMM_MIRROR_SCRIPTED_NBD_SERVER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/thread.h"
#include "base/timed_mutex.h"

namespace ferrite {

struct NbdRequest {
  enum Type : uint16_t { kRead = 0, kWrite = 1, kDisconnect = 2, kFlush = 3, kTrim = 4, kZero = 6 };

  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint32_t bytes = 0;
};
inline constexpr uint16_t kNbdFlagFastZero = 1 << 4;

struct NbdAnswer {
  std::string bytes;
  bool last = false;  // the connection ends behind it
  // What goes on behind it, piece by piece, until one is "" or the client is gone.
  std::function<std::string()> more = nullptr;
};

struct NbdScript {
  // Of the export: has flags, flush, trim, zero, fast zero.
  static constexpr uint16_t kAllFlags = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 11;

  bool structured = true;
  uint64_t bytes = uint64_t{1} << 20;
  uint16_t flags = kAllFlags;
  bool has_block_sizes = true;
  uint32_t least = 512;
  uint32_t preferred = 4096;
  uint32_t most = 32 << 20;
  std::function<NbdAnswer(const NbdRequest&)> answer;
  // Sent in place of a handshake and of all answers, if it is not empty: then the connection ends.
  std::string raw;
};

// One connection, on a thread of its own. Nothing that the client says keeps it: it ends with its owner.
class ScriptedNbdServer {
 public:
  // The client's end is `client()`, once.
  explicit ScriptedNbdServer(NbdScript script);
  ~ScriptedNbdServer();

  Fd client() { return std::move(client_); }
  // Whether the client said within `limit` that it goes.
  bool AwaitGoodBye(absl::Duration limit) { return good_bye_.WaitFor(limit); }

  // A simple reply.
  static std::string Reply(const NbdRequest& request, uint32_t error, absl::string_view data = "");
  // A chunk of a structured reply.
  static std::string Chunk(const NbdRequest& request, uint16_t flags, uint16_t type, absl::string_view data);

 private:
  void Run();
  bool Serve();
  bool Negotiate();
  bool AnswerOption(uint32_t option);
  bool Send(absl::string_view bytes);
  bool Receive(void* bytes, size_t count);
  bool Skip(uint64_t count);

  const NbdScript script_;
  Fd client_;
  Fd server_;
  TimedNotification good_bye_;
  Thread thread_;
};

// Big-endian numbers, one behind the other.
class NbdBytes {
 public:
  template <typename T>
  NbdBytes& Add(T value) {
    for (size_t i = sizeof(T); i > 0; --i) {
      bytes_.push_back(static_cast<char>(static_cast<uint64_t>(value) >> (8 * (i - 1))));
    }
    return *this;
  }
  NbdBytes& Text(absl::string_view text) {
    bytes_.append(text.data(), text.size());
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_SCRIPTED_NBD_SERVER_H_
