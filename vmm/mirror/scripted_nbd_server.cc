#include "vmm/mirror/scripted_nbd_server.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/status.h"

namespace ferrite {
namespace {

constexpr uint64_t kOptionMagic = 0x4948'4156'454f'5054;  // "IHAVEOPT"
constexpr uint64_t kOptionReplyMagic = 0x0003'e889'0455'65a9;
constexpr uint32_t kRequestMagic = 0x2560'9513;
constexpr uint32_t kReplyMagic = 0x6744'6698;
constexpr uint32_t kChunkMagic = 0x668e'33ef;

constexpr uint32_t kOptionAbort = 2;
constexpr uint32_t kOptionGo = 7;
constexpr uint32_t kOptionStructuredReply = 8;
constexpr uint32_t kReplyAck = 1;
constexpr uint32_t kReplyInfo = 3;
constexpr uint32_t kReplyUnsupported = 0x8000'0001;

template <typename T>
T Number(const uint8_t*& at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(static_cast<uint64_t>(value) << 8 | *at++);
  }
  return value;
}

std::string OptionReply(uint32_t option, uint32_t type, absl::string_view data = "") {
  return NbdBytes()
      .Add(kOptionReplyMagic)
      .Add(option)
      .Add(type)
      .Add(static_cast<uint32_t>(data.size()))
      .Text(data)
      .bytes();
}

}  // namespace

ScriptedNbdServer::ScriptedNbdServer(NbdScript script) : script_(std::move(script)) {
  int ends[2];
  FERRITE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  client_.Reset(ends[0]);
  server_.Reset(ends[1]);
  auto thread = Thread::Start("nbd-server", [this] { Run(); });
  FERRITE_CHECK(thread.ok());
  thread_ = *std::move(thread);
}

ScriptedNbdServer::~ScriptedNbdServer() {
  shutdown(server_.get(), SHUT_RDWR);
  thread_.Join();
}

std::string ScriptedNbdServer::Reply(const NbdRequest& request, uint32_t error, absl::string_view data) {
  return NbdBytes().Add(kReplyMagic).Add(error).Add(request.cookie).Text(data).bytes();
}

std::string ScriptedNbdServer::Chunk(const NbdRequest& request, uint16_t flags, uint16_t type, absl::string_view data) {
  return NbdBytes()
      .Add(kChunkMagic)
      .Add(flags)
      .Add(type)
      .Add(request.cookie)
      .Add(static_cast<uint32_t>(data.size()))
      .Text(data)
      .bytes();
}

void ScriptedNbdServer::Run() {
  if (!script_.raw.empty()) {
    Send(script_.raw);
  } else if (Negotiate()) {
    while (Serve()) {
    }
  }
  // The client hears of the end, and is not kept from telling what it has to.
  shutdown(server_.get(), SHUT_WR);
  while (Skip(1)) {
  }
}

bool ScriptedNbdServer::Negotiate() {
  std::array<uint8_t, 16> buffer;
  if (!Send(NbdBytes().Text("NBDMAGICIHAVEOPT").Add(uint16_t{3}).bytes()) || !Receive(buffer.data(), 4)) {
    return false;
  }
  for (;;) {
    if (!Receive(buffer.data(), 16)) {
      return false;
    }
    const uint8_t* at = buffer.data();
    const auto magic = Number<uint64_t>(at);
    const auto option = Number<uint32_t>(at);
    const auto length = Number<uint32_t>(at);
    if (magic != kOptionMagic || !Skip(length) || !AnswerOption(option) || option == kOptionAbort) {
      return false;
    }
    if (option == kOptionGo) {
      return true;
    }
  }
}

bool ScriptedNbdServer::AnswerOption(uint32_t option) {
  if (option == kOptionStructuredReply && script_.structured) {
    return Send(OptionReply(option, kReplyAck));
  }
  if (option != kOptionGo) {
    return Send(OptionReply(option, kReplyUnsupported));
  }
  std::string answer =
      OptionReply(option, kReplyInfo, NbdBytes().Add(uint16_t{0}).Add(script_.bytes).Add(script_.flags).bytes());
  if (script_.has_block_sizes) {
    answer +=
        OptionReply(option, kReplyInfo,
                    NbdBytes().Add(uint16_t{3}).Add(script_.least).Add(script_.preferred).Add(script_.most).bytes());
  }
  return Send(answer + OptionReply(option, kReplyAck));
}

bool ScriptedNbdServer::Serve() {
  std::array<uint8_t, 28> buffer;
  if (!Receive(buffer.data(), buffer.size())) {
    return false;
  }
  const uint8_t* at = buffer.data();
  const auto magic = Number<uint32_t>(at);
  NbdRequest request;
  request.flags = Number<uint16_t>(at);
  request.type = Number<uint16_t>(at);
  request.cookie = Number<uint64_t>(at);
  request.offset = Number<uint64_t>(at);
  request.bytes = Number<uint32_t>(at);
  if (magic == kRequestMagic && request.type == NbdRequest::kDisconnect) {
    good_bye_.Notify();
    return false;
  }
  if (magic != kRequestMagic) {
    return false;
  }
  if (request.type == NbdRequest::kWrite && !Skip(request.bytes)) {
    return false;
  }
  const NbdAnswer answer = script_.answer(request);
  if (!Send(answer.bytes)) {
    return false;
  }
  for (std::string more = answer.more ? answer.more() : ""; !more.empty(); more = answer.more()) {
    if (!Send(more)) {
      return false;
    }
  }
  return !answer.last;
}

bool ScriptedNbdServer::Send(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(server_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) {
      return false;
    }
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool ScriptedNbdServer::Receive(void* bytes, size_t count) {
  return count == 0 || recv(server_.get(), bytes, count, MSG_WAITALL) == static_cast<ssize_t>(count);
}

bool ScriptedNbdServer::Skip(uint64_t count) {
  std::array<uint8_t, 4096> buffer;
  while (count > 0) {
    const size_t now = std::min<uint64_t>(count, buffer.size());
    if (!Receive(buffer.data(), now)) {
      return false;
    }
    count -= now;
  }
  return true;
}

}  // namespace ferrite
