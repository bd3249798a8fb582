#include "migration/channel/rdma/ibverbs_devices.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

// Entries of a port's table of addresses that are looked at, each of which names its interface.
constexpr int kMostAddresses = 16;

std::vector<std::string> NetDevices(absl::string_view device) {
  std::vector<std::string> found;
  for (int i = 0; i < kMostAddresses; i++) {
    const absl::StatusOr<Fd> file =
        OpenFile(absl::StrCat("/sys/class/infiniband/", device, "/ports/1/gid_attrs/ndevs/", i), O_RDONLY);
    std::array<char, 64> text;
    const ssize_t bytes = file.ok() ? read(file->get(), text.data(), text.size()) : -1;
    if (bytes <= 0) continue;
    const absl::string_view name = absl::StripAsciiWhitespace({text.data(), static_cast<size_t>(bytes)});
    if (std::ranges::find(found, name) == found.end()) found.emplace_back(name);
  }
  return found;
}

std::string StateName(ibv_port_state state) {
  switch (state) {
    case IBV_PORT_NOP:
      return "nothing known";
    case IBV_PORT_DOWN:
      return "down";
    case IBV_PORT_INIT:
      return "initializing";
    case IBV_PORT_ARMED:
      return "armed";
    case IBV_PORT_ACTIVE:
      return "active";
    case IBV_PORT_ACTIVE_DEFER:
      return "active, deferred";
  }
  return "unknown";
}

std::string TransportName(ibv_transport_type transport, uint8_t link_layer) {
  if (transport == IBV_TRANSPORT_IWARP) return "iWARP";
  if (transport != IBV_TRANSPORT_IB) return "unspecified";
  return link_layer == IBV_LINK_LAYER_ETHERNET ? "RoCE" : "InfiniBand";
}

VerbsDevice Look(const RdmaLibrary& library, ibv_device* device) {
  VerbsDevice seen = {.name = library.verbs.get_device_name(device)};
  seen.transport = TransportName(device->transport_type, IBV_LINK_LAYER_UNSPECIFIED);
  ibv_context* const context = library.verbs.open_device(device);
  if (context == nullptr) {
    seen.port_state = std::string(ErrnoStatus("cannot be opened").message());
    return seen;
  }
  ibv_port_attr port = {};
  // What of it the function does not know stays 0; it writes the beginning of today's structure.
  if (library.verbs.query_port(context, 1, reinterpret_cast<_compat_ibv_port_attr*>(&port)) == 0) {
    seen.transport = TransportName(device->transport_type, port.link_layer);
    seen.port_state = StateName(port.state);
  }
  ibv_device_attr attributes = {};
  if (library.verbs.query_device(context, &attributes) == 0) {
    seen.most_registration = attributes.max_mr_size;
    seen.most_registrations = static_cast<uint32_t>(attributes.max_mr);
    seen.most_queue_pairs = static_cast<uint32_t>(attributes.max_qp);
  }
  ibv_device_attr_ex more = {};
  if (verbs_context* const its = verbs_get_ctx_op(context, query_device_ex);
      its != nullptr && its->query_device_ex(context, nullptr, &more, sizeof(more)) == 0) {
    seen.on_demand_paging = (more.odp_caps.general_caps & IBV_ODP_SUPPORT) != 0;
  }
  seen.net_devices = NetDevices(seen.name);
  library.verbs.close_device(context);
  return seen;
}

}  // namespace

absl::StatusOr<std::vector<VerbsDevice>> IbverbsDevices(const RdmaLibrary& library) {
  int count = 0;
  ibv_device** const list = library.verbs.get_device_list(&count);
  // A kernel without RDMA has none.
  if (list == nullptr && errno == ENOSYS) return std::vector<VerbsDevice>();
  if (list == nullptr) return absl::UnavailableError(ErrnoStatus("list the RDMA devices").message());
  std::vector<VerbsDevice> devices;
  for (ibv_device* device : std::span(list, static_cast<size_t>(count))) devices.push_back(Look(library, device));
  library.verbs.free_device_list(list);
  return devices;
}

}  // namespace ferrite::migration
