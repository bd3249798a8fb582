// What answers at a control socket may be anybody's program.
#include "vmm/control/client.h"

#include <capnp/capability.h>
#include <capnp/message.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <kj/debug.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "proto/control.capnp.h"
#include "tests/fakes/control_place.h"
#include "tests/fakes/test_thread.h"
#include "vmm/control/run_dir.h"

namespace ferrite {
namespace {

using capnp::rpc::Message;

constexpr absl::Duration kPatience = absl::Seconds(60);
// Of a call that is not answered.
constexpr absl::Duration kTimeout = absl::Milliseconds(300);
// Where a flood is to end; memory that nobody would miss.
constexpr int kFlood = 100'000;

// The answer to a bootstrap: capability 0.
void FillBootstrap(Message::Builder message) {
  auto answer = message.initReturn();
  answer.setAnswerId(0);
  auto results = answer.initResults();
  results.initCapTable(1)[0].setSenderHosted(0);
  capnp::BuilderCapabilityTable capabilities;
  capabilities.imbue(results.initContent())
      .setAs<capnp::Capability>(capnp::Capability::Client(KJ_EXCEPTION(FAILED, "not used")));
}

// The other end of a client's connection.
class Victim {
 public:
  explicit Victim(Fd fd) : fd_(std::move(fd)) {}

  // False when the client has gone. What it says meanwhile is read.
  bool SendBytes(const void* data, size_t size) {
    for (const auto* at = static_cast<const uint8_t*>(data); size > 0;) {
      char said[4096];
      pollfd polled = {fd_.get(), POLLIN | POLLOUT, 0};
      if (poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) != 1 ||
          ((polled.revents & POLLIN) != 0 && recv(fd_.get(), said, sizeof(said), MSG_DONTWAIT) == 0)) {
        return false;
      }
      const ssize_t n = send(fd_.get(), at, size, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno != EAGAIN) {
        return false;
      }
      at += n < 0 ? 0 : n;
      size -= n < 0 ? 0 : static_cast<size_t>(n);
    }
    return true;
  }
  bool Send(const std::function<void(Message::Builder)>& fill) {
    capnp::MallocMessageBuilder message;
    fill(message.initRoot<Message>());
    const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
    return SendBytes(words.asBytes().begin(), words.asBytes().size());
  }
  // All of them at once, reading nothing.
  void SendUnread(const std::vector<std::function<void(Message::Builder)>>& fills) {
    std::string bytes;
    for (const auto& fill : fills) {
      capnp::MallocMessageBuilder message;
      fill(message.initRoot<Message>());
      const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
      bytes.append(reinterpret_cast<const char*>(words.begin()), words.asBytes().size());
    }
    EXPECT_EQ(send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // One with a descriptor.
  void Send(const std::function<void(Message::Builder)>& fill, const Fd& attached) {
    capnp::MallocMessageBuilder message;
    fill(message.initRoot<Message>());
    const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
    iovec part = {const_cast<capnp::word*>(words.begin()), words.asBytes().size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    const int number = attached.get();
    memcpy(CMSG_DATA(rights), &number, sizeof(number));
    EXPECT_EQ(sendmsg(fd_.get(), &header, MSG_NOSIGNAL), static_cast<ssize_t>(part.iov_len));
  }
  void SendBootstrap() { Send(FillBootstrap); }
  // Reads until the client says no more.
  void Drain() {
    char buffer[4096];
    pollfd polled = {fd_.get(), POLLIN, 0};
    while (poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) == 1 &&
           recv(fd_.get(), buffer, sizeof(buffer), 0) > 0) {
    }
  }
  // Waits for words that stay unread.
  void AwaitWords() {
    pollfd polled = {fd_.get(), POLLIN, 0};
    EXPECT_EQ(poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))), 1);
  }
  // Waits for the first bytes of a call.
  void AwaitCall() {
    char buffer[4096];
    pollfd polled = {fd_.get(), POLLIN, 0};
    EXPECT_EQ(poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))), 1);
    EXPECT_GT(recv(fd_.get(), buffer, sizeof(buffer), 0), 0);
  }

 private:
  const Fd fd_;
};

void FillEvent(Message::Builder message, uint32_t number, uint64_t interface_id) {
  auto call = message.initCall();
  call.setQuestionId(number);
  call.initTarget().setImportedCap(0);
  call.setInterfaceId(interface_id);
  call.setMethodId(0);
  auto event = call.initParams().getContent().initAs<control::EventSink::EventParams>().initEvent();
  event.setKind(control::Event::Kind::RESET);
  event.setText(std::to_string(number).c_str());
}

class ClientTest : public ::testing::Test {
 protected:
  void TearDown() override { End(); }

  // A client of what does `attack` with the first connection, and closes it then.
  ControlClient& Attacked(std::function<void(Victim&)> attack, absl::Duration timeout = kPatience) {
    server_ = StartOrDie("server", [this, attack = std::move(attack)] {
      pollfd polled = {listener_.get(), POLLIN, 0};
      ASSERT_EQ(poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))), 1);
      Victim victim(Fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
      attack(victim);
    });
    client_ = place_.Connect(timeout);
    return *client_;
  }
  void End() {
    client_.reset();
    server_.Join();
  }
  static void ExpectRefused(const absl::Status& status, absl::string_view why) {
    EXPECT_TRUE(absl::IsInternal(status)) << status;
    EXPECT_TRUE(absl::StartsWith(status.message(), "what answers for machine vm is no monitor")) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), why)) << status;
  }

  ControlPlace place_;
  const Fd listener_ = place_.Listen();
  Thread server_;
  std::unique_ptr<ControlClient> client_;
};

TEST_F(ClientTest, CallsOfTheServerToTheClientEndTheConnection) {
  ControlClient& client = Attacked([](Victim& victim) {
    bool there = true;
    for (int i = 0; i < kFlood && there; ++i) {
      there = victim.Send([](Message::Builder message) { message.initBootstrap().setQuestionId(7); }) &&
              victim.Send([](Message::Builder message) { message.initFinish().setQuestionId(7); });
    }
    EXPECT_FALSE(there) << "the client takes whatever comes";
  });
  ExpectRefused(client.Describe().status(), "of a kind that none sends");
}

TEST_F(ClientTest, CallsToWhatIsNoEventSinkEndTheConnection) {
  ControlClient& client = Attacked([](Victim& victim) {
    victim.Send([](Message::Builder message) { FillEvent(message, 0, capnp::typeId<control::Control>()); });
    victim.Drain();
  });
  ExpectRefused(client.StartWatching(), "no event sink");
}

TEST_F(ClientTest, EventsWithoutAnEndAreNotAnsweredForEver) {
  ControlClient& client = Attacked([](Victim& victim) {
    bool there = true;
    victim.AwaitCall();
    for (uint32_t i = 0; i < kFlood && there; ++i) {
      there =
          victim.Send([i](Message::Builder message) { FillEvent(message, i, capnp::typeId<control::EventSink>()); });
    }
    EXPECT_FALSE(there) << "the client takes whatever comes";
  });
  ExpectRefused(client.StartWatching(), "too many unfinished calls");
}

TEST_F(ClientTest, LargeMessageIsRefusedByItsHeader) {
  ControlClient& client = Attacked([](Victim& victim) {
    const uint32_t header[2] = {0, 1 << 20};  // a segment of 8 MiB
    victim.SendBytes(header, sizeof(header));
    victim.Drain();
  });
  ExpectRefused(client.Describe().status(), "too large");
}

TEST_F(ClientTest, BytesThatTrickleHoldNobodyBeyondTheDeadline) {
  absl::Notification done;
  ControlClient& client = Attacked(
      [&](Victim& victim) {
        const uint32_t header[2] = {0, 1 << 12};
        victim.SendBytes(header, sizeof(header));
        do {
          victim.SendBytes("", 1);
        } while (!done.WaitForNotificationWithTimeout(absl::Milliseconds(5)));
      },
      kTimeout);
  const absl::Status status = client.Describe().status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  done.Notify();
  End();
}

// Whoever always has something to read still looks at the clock.
TEST_F(ClientTest, MessagesWithoutAnEndHoldNobodyBeyondTheDeadline) {
  std::atomic<bool> done = false;
  ControlClient& client = Attacked(
      [&](Victim& victim) {
        victim.AwaitCall();
        std::string block;
        for (int i = 0; i < 1000; ++i) {
          capnp::MallocMessageBuilder message;
          message.initRoot<Message>().initRelease();  // the sink, no times
          const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
          block.append(reinterpret_cast<const char*>(words.begin()), words.asBytes().size());
        }
        const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(20);
        while (!done && MonotonicTime::Now() < deadline && victim.SendBytes(block.data(), block.size())) {
        }
        EXPECT_LT(MonotonicTime::Now(), deadline) << "the client did not look at the clock";
      },
      kTimeout);
  const absl::Status status = client.StartWatching();
  done = true;
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  End();
}

// Events that nobody has asked for yet are kept, but not without bound.
TEST_F(ClientTest, FirstOfManyUnreadEventsAreMissed) {
  constexpr uint32_t kEvents = 1000;
  ControlClient& client = Attacked([](Victim& victim) {
    victim.AwaitCall();
    victim.SendBootstrap();
    for (uint32_t i = 0; i < kEvents; ++i) {
      ASSERT_TRUE(
          victim.Send([i](Message::Builder message) { FillEvent(message, i, capnp::typeId<control::EventSink>()); }));
      ASSERT_TRUE(victim.Send([i](Message::Builder message) { message.initFinish().setQuestionId(i); }));
    }
    victim.Send([](Message::Builder message) {
      auto answer = message.initReturn();
      answer.setAnswerId(1);
      answer.initResults().getContent().initAs<control::Control::WatchResults>();
    });
    victim.Drain();
  });
  ASSERT_TRUE(client.StartWatching().ok());
  const auto event = client.NextEvent();
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_GT(event->missed, kEvents / 2);
  EXPECT_EQ(event->event.text, std::to_string(event->missed));
}

TEST_F(ClientTest, WordsOfAnEndAreClean) {
  constexpr char kEscape[] = "\x1b]0;gone\a\x1b[31m";
  ControlClient& client = Attacked([&](Victim& victim) {
    victim.AwaitCall();
    victim.SendBootstrap();
    victim.Send([&](Message::Builder message) {
      auto answer = message.initReturn();
      answer.setAnswerId(1);
      answer.initException().setReason(kEscape);
    });
    victim.AwaitCall();
    victim.Send([&](Message::Builder message) { message.initAbort().setReason(kEscape); });
    victim.Drain();
  });
  absl::Status status = client.Pause();
  EXPECT_TRUE(absl::StrContains(status.message(), "?]0;gone??[31m")) << status;
  status = client.Pause();
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(absl::StrContains(status.message(), "\x1b")) << status;
}

// A monitor that ends may read no more, while what it has answered is still to be read.
TEST_F(ClientTest, LastAnswerIsReadThoughNothingCanBeSaidAnyMore) {
  ControlClient& client = Attacked([](Victim& victim) {
    victim.AwaitWords();
    victim.SendUnread({FillBootstrap, [](Message::Builder message) {
                         auto answer = message.initReturn();
                         answer.setAnswerId(1);
                         answer.initResults().getContent().initAs<control::Control::DescribeResults>();
                       }});
  });
  const auto machine = client.Describe();
  EXPECT_TRUE(machine.ok()) << machine.status();
}

// `stop` waits for the process, and says that it can be killed.
TEST_F(ClientTest, ProcessIsTheOneThatAnswersWhateverItSays) {
  ControlClient& client = Attacked([](Victim& victim) {
    victim.SendBootstrap();
    victim.AwaitWords();
    victim.Send([](Message::Builder message) {
      auto answer = message.initReturn();
      answer.setAnswerId(1);
      answer.initResults().getContent().initAs<control::Control::DescribeResults>().initMachine().setPid(1);
    });
    victim.Drain();
  });
  const auto machine = client.Describe();
  ASSERT_TRUE(machine.ok()) << machine.status();
  EXPECT_EQ(machine->pid, getpid());
}

// As seen from another pid namespace.
TEST_F(ClientTest, EndIsThatOfTheConnectionAndOfTheLock) {
  absl::Notification close;
  ControlClient& client = Attacked([&](Victim&) { close.WaitForNotification(); }, kTimeout);
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.AwaitEnd())) << "the monitor is connected";
  close.Notify();
  server_.Join();
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.AwaitEnd())) << "the name is taken";
  place_.RemoveDir();
  EXPECT_EQ(client.AwaitEnd(), absl::OkStatus());
  auto next = RunDir::Create(place_.base(), "vm");
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(client.AwaitEnd(), absl::OkStatus()) << "this is another one";
}

// A descriptor may be one whose closing hangs.
TEST_F(ClientTest, DescriptorsAreNotTaken) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const Fd read_end(ends[0]);
  ControlClient& client = Attacked([&](Victim& victim) {
    victim.AwaitCall();
    {
      const Fd write_end(ends[1]);
      victim.Send(
          [](Message::Builder message) {
            FillBootstrap(message);
            message.getReturn().getResults().getCapTable()[0].setAttachedFd(0);
          },
          write_end);
    }
    victim.Send([](Message::Builder message) {
      auto answer = message.initReturn();
      answer.setAnswerId(1);
      answer.initResults().getContent().initAs<control::Control::DescribeResults>();
    });
    victim.Drain();
  });
  const auto machine = client.Describe();
  ASSERT_TRUE(machine.ok()) << machine.status();
  pollfd polled = {read_end.get(), POLLIN, 0};
  EXPECT_EQ(poll(&polled, 1, 5000), 1) << "the client keeps it";
}

}  // namespace
}  // namespace ferrite
