// Goes through all states of a small model, in the order of how many steps lead to them, so that a violation is told
// with the shortest way to it.
//
// A Model has a State (all of its bytes are its value: no padding, or zeroed), and
//   State Start();
//   template <typename Emit> void Steps(const State&, const Emit& emit);   emit(words, StepKind, next state)
//   const char* Violation(const State&);         null: none
//   bool MustEnd(const State&, bool by_person);  from here each way that things can take by themselves is to come to an
//   bool Ended(const State&);                    end; or one can be reached by what a person types besides
#ifndef FERRITE_TESTS_MODEL_EXPLORER_H_
#define FERRITE_TESTS_MODEL_EXPLORER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace ferrite::migration {

enum class StepKind : uint8_t {
  kCourse,  // what happens by itself where nothing goes wrong any more
  kPerson,  // a command that a person types
  kFault,
};

struct Exploration {
  std::string violation;           // empty: none
  std::vector<std::string> trace;  // the shortest way to it
  size_t states = 0;
  size_t steps = 0;
  size_t ends = 0;    // states in which all is over
  bool whole = true;  // all states were seen, or a violation was
};

template <typename Model>
class Explorer {
 public:
  using State = typename Model::State;
  static_assert(std::is_trivially_copyable_v<State> && std::has_unique_object_representations_v<State>);

  static Exploration Run(const Model& model, size_t most_states) { return Explorer(model, most_states).Explore(); }

 private:
  struct Node {
    State state;
    uint32_t from;
    const char* step;
  };
  struct Edge {
    uint32_t to;
    uint32_t from;
    bool operator<(const Edge& other) const { return to < other.to; }
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(const State& state) const {
      return absl::Hash<absl::string_view>()(absl::string_view(reinterpret_cast<const char*>(&state), sizeof(State)));
    }
  };
  struct Same {
    bool operator()(const State& a, const State& b) const { return std::memcmp(&a, &b, sizeof(State)) == 0; }
  };

  Explorer(const Model& model, size_t most_states) : model_(model), most_states_(most_states) {}

  Exploration Explore() {
    Add(model_.Start(), 0, "");
    // Nodes are found in the order of their distance.
    for (uint32_t at = 0; at < nodes_.size(); ++at) {
      const State state = nodes_[at].state;
      if (const char* const violation = model_.Violation(state); violation != nullptr) {
        return Found(violation, at);
      }
      if (nodes_.size() > most_states_) {
        result_.whole = false;
        break;
      }
      model_.Steps(state, [&](const char* words, StepKind kind, const State& next) {
        const uint32_t to = Add(next, at, words);
        ++result_.steps;
        if (kind != StepKind::kFault) {
          by_person_.push_back({to, at});
          if (kind == StepKind::kCourse) {
            by_course_.push_back({to, at});
          }
        }
      });
    }
    if (result_.whole) {
      for (const bool by_person : {false, true}) {
        if (const uint32_t stuck = FindStuck(by_person); stuck != kNone) {
          return Found(by_person ? "no end can be reached, whatever a person types"
                                 : "a move that could end does not end by itself",
                       stuck);
        }
      }
    }
    result_.states = nodes_.size();
    return std::move(result_);
  }

  static constexpr uint32_t kNone = UINT32_MAX;

  uint32_t Add(const State& state, uint32_t from, const char* step) {
    const auto [it, added] = indices_.try_emplace(state, static_cast<uint32_t>(nodes_.size()));
    if (added) {
      nodes_.push_back({state, from, step});
    }
    return it->second;
  }

  // The nearest state that must end and from which the course of things can go on for ever, or come to rest without an
  // end; or, for a person, from which no end can be reached.
  uint32_t FindStuck(bool by_person) {
    std::vector<Edge>& edges = by_person ? by_person_ : by_course_;
    std::sort(edges.begin(), edges.end());
    // Steps from each state whose next state is not known to end.
    std::vector<uint32_t> open(nodes_.size());
    for (const Edge& edge : edges) {
      ++open[edge.from];
    }
    std::vector<bool> ends(nodes_.size());
    std::vector<uint32_t> todo;
    for (uint32_t at = 0; at < nodes_.size(); ++at) {
      if (model_.Ended(nodes_[at].state)) {
        ends[at] = true;
        todo.push_back(at);
      }
    }
    result_.ends = todo.size();
    while (!todo.empty()) {
      const uint32_t to = todo.back();
      todo.pop_back();
      for (auto it = std::lower_bound(edges.begin(), edges.end(), Edge{to, 0}); it != edges.end() && it->to == to;
           ++it) {
        --open[it->from];
        if (!ends[it->from] && (by_person || open[it->from] == 0)) {
          ends[it->from] = true;
          todo.push_back(it->from);
        }
      }
    }
    for (uint32_t at = 0; at < nodes_.size(); ++at) {
      if (!ends[at] && model_.MustEnd(nodes_[at].state, by_person)) {
        return at;
      }
    }
    return kNone;
  }

  Exploration Found(const char* violation, uint32_t at) {
    result_.violation = violation;
    for (; at != 0; at = nodes_[at].from) {
      result_.trace.emplace_back(nodes_[at].step);
    }
    std::reverse(result_.trace.begin(), result_.trace.end());
    result_.states = nodes_.size();
    return std::move(result_);
  }

  const Model& model_;
  const size_t most_states_;
  Exploration result_;
  std::vector<Node> nodes_;
  absl::flat_hash_map<State, uint32_t, Hash, Same> indices_;
  std::vector<Edge> by_course_;
  std::vector<Edge> by_person_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_MODEL_EXPLORER_H_
