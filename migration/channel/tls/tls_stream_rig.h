// Both ends of a TLS stream, for tests.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_TLS_STREAM_RIG_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_TLS_STREAM_RIG_H_

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"
#include "tests/fakes/tls_pair.h"
#include "tests/fakes/tls_place.h"

namespace ferrite::migration {

class TlsStreamTest : public testing::Test {
 protected:
  using Raw = std::pair<std::unique_ptr<SocketStream>, std::unique_ptr<SocketStream>>;
  void Open(Raw ends = *MakeStreamPair()) {
    TlsPair pair = ShakeHands(*place_.source(), *place_.destination(), std::move(ends));
    ASSERT_TRUE(pair.source.ok()) << pair.source.status();
    ASSERT_TRUE(pair.destination.ok()) << pair.destination.status();
    source_ = *std::move(pair.source);
    destination_ = *std::move(pair.destination);
  }

  const TlsPlace place_;
  std::unique_ptr<Stream> source_;
  std::unique_ptr<Stream> destination_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_TLS_STREAM_RIG_H_
