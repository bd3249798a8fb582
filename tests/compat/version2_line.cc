#include "tests/compat/version2_line.h"

#include <arpa/inet.h>
#include <kj/exception.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace ferrite::version2 {
namespace {

constexpr char kHost[] = "localhost";
constexpr char kBindLabel[] = "EXPORTER-ferrite-move-1";
constexpr int kPatienceSeconds = 30;

void SetUpSocket(int fd) {
  const timeval patience{.tv_sec = kPatienceSeconds, .tv_usec = 0};
  FERRITE_CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0);
  FERRITE_CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) == 0);
  const int on = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

absl::StatusOr<SocketAddress> Parse(absl::string_view address) {
  SocketAddress out;
  if (absl::ConsumePrefix(&address, "unix:")) {
    auto* const unix_address = reinterpret_cast<sockaddr_un*>(&out.storage);
    if (address.size() >= sizeof(unix_address->sun_path)) {
      return absl::InvalidArgumentError("a unix address that is too long");
    }
    unix_address->sun_family = AF_UNIX;
    std::copy(address.begin(), address.end(), unix_address->sun_path);
    out.length = sizeof(sockaddr_un);
    return out;
  }
  uint32_t port = 0;
  if (!absl::ConsumePrefix(&address, "tcp:127.0.0.1:") || !absl::SimpleAtoi(address, &port)) {
    return absl::InvalidArgumentError("neither unix:PATH nor tcp:127.0.0.1:PORT");
  }
  auto* const ip_address = reinterpret_cast<sockaddr_in*>(&out.storage);
  ip_address->sin_family = AF_INET;
  ip_address->sin_port = htons(static_cast<uint16_t>(port));
  ip_address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  out.length = sizeof(sockaddr_in);
  return out;
}

absl::Status TlsError(absl::string_view what) {
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return absl::UnavailableError(absl::StrCat(what, ": ", reason != nullptr ? reason : strerror(errno)));
}

absl::StatusOr<Fd> NewSocket(const SocketAddress& address) {
  // Of the library's, which writes as a file's are written.
  (void)signal(SIGPIPE, SIG_IGN);
  Fd fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) {
    return ErrnoStatus("socket");
  }
  SetUpSocket(fd.get());
  return fd;
}

}  // namespace

Tls::Tls(const std::string& directory, Side side)
    : side_(side), context_(SSL_CTX_new(side == Side::kSource ? TLS_client_method() : TLS_server_method())) {
  const std::string own = absl::StrCat(directory, side == Side::kSource ? "/client" : "/server");
  FERRITE_CHECK(SSL_CTX_set_min_proto_version(context_, TLS1_3_VERSION) == 1 &&
                SSL_CTX_set_num_tickets(context_, 0) == 1 &&
                SSL_CTX_load_verify_locations(context_, (directory + "/ca-cert.pem").c_str(), nullptr) == 1 &&
                SSL_CTX_use_certificate_chain_file(context_, (own + "-cert.pem").c_str()) == 1 &&
                SSL_CTX_use_PrivateKey_file(context_, (own + "-key.pem").c_str(), SSL_FILETYPE_PEM) == 1);
  SSL_CTX_set_verify(context_, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
}

Tls::~Tls() { SSL_CTX_free(context_); }

ssl_st* Tls::NewConnection() const {
  SSL* const ssl = SSL_new(context_);
  FERRITE_CHECK(ssl != nullptr);
  if (side_ == Side::kSource) {
    FERRITE_CHECK(SSL_set1_host(ssl, kHost) == 1 && SSL_set_tlsext_host_name(ssl, kHost) == 1);
  }
  return ssl;
}

absl::StatusOr<std::unique_ptr<Line>> Line::Create(Fd socket, const Tls* tls, bool is_source) {
  const int fd = socket.get();
  std::unique_ptr<Line> line(new Line(std::move(socket), tls != nullptr ? tls->NewConnection() : nullptr));
  if (tls == nullptr) {
    return line;
  }
  FERRITE_CHECK(SSL_set_fd(line->ssl_, fd) == 1);
  if ((is_source ? SSL_connect(line->ssl_) : SSL_accept(line->ssl_)) != 1) {
    return TlsError("TLS handshake");
  }
  uint8_t* der = nullptr;
  X509* const certificate = SSL_get0_peer_certificate(line->ssl_);
  const int bytes = certificate != nullptr ? i2d_X509(certificate, &der) : 0;
  if (bytes <= 0) {
    return TlsError("the other side's certificate");
  }
  line->party_.assign(reinterpret_cast<const char*>(der), static_cast<size_t>(bytes));
  OPENSSL_free(der);
  return line;
}

Line::~Line() {
  if (ssl_ != nullptr) {
    (void)SSL_shutdown(ssl_);
    SSL_free(ssl_);
    ERR_clear_error();
  }
}

absl::Status Line::Write(std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    size_t written = 0;
    if (ssl_ != nullptr) {
      if (SSL_write_ex(ssl_, bytes.data(), bytes.size(), &written) != 1) {
        return TlsError("write over TLS");
      }
    } else {
      const ssize_t sent = send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0) {
        return ErrnoStatus("write");
      }
      written = static_cast<size_t>(sent);
    }
    bytes = bytes.subspan(written);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Line::ReadUnlessEnded(std::span<uint8_t> out) {
  const size_t wanted = out.size();
  while (!out.empty()) {
    size_t bytes = 0;
    bool ended = false;
    if (ssl_ != nullptr) {
      if (const int result = SSL_read_ex(ssl_, out.data(), out.size(), &bytes); result != 1) {
        ended = SSL_get_error(ssl_, result) == SSL_ERROR_ZERO_RETURN;
        if (!ended) {
          return TlsError("read over TLS");
        }
      }
    } else {
      const ssize_t got = recv(socket_.get(), out.data(), out.size(), 0);
      if (got < 0) {
        return ErrnoStatus("read");
      }
      ended = got == 0;
      bytes = static_cast<size_t>(got);
    }
    if (ended) {
      return out.size() == wanted ? absl::StatusOr<bool>(false)
                                  : absl::UnavailableError("it ended in the middle of something");
    }
    out = out.subspan(bytes);
  }
  return true;
}

absl::Status Line::Read(std::span<uint8_t> out) {
  FERRITE_ASSIGN_OR_RETURN(const bool read, ReadUnlessEnded(out));
  return read ? absl::OkStatus() : absl::UnavailableError("it ended before what was due");
}

void Line::Wake() { (void)shutdown(socket_.get(), SHUT_RD); }

Bytes32 Line::Bind(const Bytes32& nonce) const {
  if (ssl_ == nullptr) {
    return nonce;
  }
  Bytes32 bound;
  FERRITE_CHECK(SSL_export_keying_material(ssl_, bound.data(), bound.size(), kBindLabel, sizeof(kBindLabel) - 1,
                                           nonce.data(), nonce.size(), /*use_context=*/1) == 1);
  return bound;
}

absl::StatusOr<std::unique_ptr<Line>> Dial(absl::string_view address, const Tls* tls) {
  FERRITE_ASSIGN_OR_RETURN(SocketAddress to, Parse(address));
  FERRITE_ASSIGN_OR_RETURN(Fd fd, NewSocket(to));
  if (connect(fd.get(), to.get(), to.length) != 0) {
    return ErrnoStatus(absl::StrCat("connect to ", address));
  }
  return Line::Create(std::move(fd), tls, /*is_source=*/true);
}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Create(absl::string_view address) {
  FERRITE_ASSIGN_OR_RETURN(SocketAddress at, Parse(address));
  FERRITE_ASSIGN_OR_RETURN(Fd fd, NewSocket(at));
  if (bind(fd.get(), at.get(), at.length) != 0 || listen(fd.get(), SOMAXCONN) != 0 ||
      getsockname(fd.get(), at.get(), &at.length) != 0) {
    return ErrnoStatus(absl::StrCat("listen at ", address));
  }
  std::string found(address);
  if (at.storage.ss_family == AF_INET) {
    found = absl::StrCat("tcp:127.0.0.1:", ntohs(reinterpret_cast<sockaddr_in*>(&at.storage)->sin_port));
  }
  return std::unique_ptr<Listener>(new Listener(std::move(fd), std::move(found)));
}

absl::StatusOr<std::unique_ptr<Line>> Listener::Accept(const Tls* tls) {
  Fd fd(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd.valid()) {
    return ErrnoStatus("accept");
  }
  SetUpSocket(fd.get());
  return Line::Create(std::move(fd), tls, /*is_source=*/false);
}

absl::StatusOr<Heard> Heard::Decode(std::span<const uint8_t> payload) {
  Heard heard;
  absl::Status status;
  heard.words_ = kj::heapArray<capnp::word>(payload.size() / sizeof(capnp::word));
  std::copy(payload.begin(), payload.end(), heard.words_.asBytes().begin());
  KJ_IF_MAYBE (exception, kj::runCatchingExceptions([&] {
                 heard.reader_ = std::make_unique<capnp::FlatArrayMessageReader>(heard.words_);
                 const auto which = heard.message().which();
                 if (which == Control::INVALID || which > Control::BROKEN) {
                   status = absl::InvalidArgumentError(
                       absl::StrCat("message ", static_cast<uint16_t>(which), " is none of version 2"));
                 }
               })) {
    return absl::InvalidArgumentError(absl::StrCat("a malformed message: ", exception->getDescription().cStr()));
  }
  FERRITE_RETURN_IF_ERROR(status);
  return heard;
}

Bytes FrameOf(const Fill& fill) {
  capnp::MallocMessageBuilder message;
  fill(message.initRoot<Control>());
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  return ControlFrame({words.asBytes().begin(), words.asBytes().size()});
}

absl::Status Talk::Say(const Fill& fill) { return line_->Write(FrameOf(fill)); }

absl::StatusOr<std::optional<Heard>> Talk::Next() {
  while (true) {
    ControlHeaderBytes head;
    FERRITE_ASSIGN_OR_RETURN(const bool read, line_->ReadUnlessEnded(head));
    if (!read) {
      return std::nullopt;
    }
    FERRITE_ASSIGN_OR_RETURN(const ControlHeader header, DecodeControlHeader(head, most_));
    Bytes payload(header.length);
    FERRITE_RETURN_IF_ERROR(line_->Read(payload));
    if (Crc32c(payload) != header.payload_crc) {
      return absl::DataLossError("control frame: the payload has another sum");
    }
    FERRITE_ASSIGN_OR_RETURN(Heard heard, Heard::Decode(payload));
    const Control::Reader message = heard.message();
    switch (message.which()) {
      case Control::PING:
        FERRITE_RETURN_IF_ERROR(
            Say([token = message.getPing().getToken()](Control::Builder out) { out.initPong().setToken(token); }));
        break;
      case Control::PONG:
        break;
      case Control::REFUSE:
        return absl::AbortedError(absl::StrCat("REFUSE: ", message.getRefuse().getReason().cStr()));
      case Control::ERROR:
        return absl::AbortedError(absl::StrCat("ERROR: ", message.getError().getMessage().cStr()));
      case Control::CANCEL:
        return absl::AbortedError(absl::StrCat("CANCEL: ", message.getCancel().getMessage().cStr()));
      default:
        return heard;
    }
  }
}

absl::StatusOr<Heard> Talk::Hear() {
  FERRITE_ASSIGN_OR_RETURN(std::optional<Heard> heard, Next());
  return heard.has_value() ? absl::StatusOr<Heard>(*std::move(heard))
                           : absl::UnavailableError("the control connection ended before what was due");
}

absl::Status Talk::HearEnd() {
  FERRITE_ASSIGN_OR_RETURN(const std::optional<Heard> heard, Next());
  return heard.has_value() ? absl::InvalidArgumentError(absl::StrCat(
                                 "message ", static_cast<uint16_t>(heard->message().which()), " came at the end"))
                           : absl::OkStatus();
}

absl::StatusOr<Heard> Talk::Hear(Control::Which due) {
  FERRITE_ASSIGN_OR_RETURN(Heard heard, Hear());
  if (heard.message().which() != due) {
    return absl::InvalidArgumentError(absl::StrCat("message ", static_cast<uint16_t>(heard.message().which()),
                                                   " came, and message ", static_cast<uint16_t>(due), " was due"));
  }
  return heard;
}

}  // namespace ferrite::version2
