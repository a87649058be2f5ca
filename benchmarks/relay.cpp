// The relay of links.py: carries packets between pairs of descriptors, each packet late by the pair's delay, until
// stdin closes. Arguments, three for each pair: descriptor, descriptor, delay in nanoseconds.
//
// Where packets come all the time it handles them every 0.25 ms, several at once: half the wake-ups' cost for that
// much jitter. A packet that comes alone is read at once and written when it is due.

#include <poll.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr int64_t kPause = 250'000;  // nanoseconds
constexpr int kMost = 16;            // packets from one descriptor before the others have their turn

struct Packet {
  int64_t due;
  int target;
  std::string bytes;
};

struct End {
  int target;
  int64_t delay;
  std::deque<Packet>* line;
};

int64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

timespec span(int64_t nanoseconds) { return {nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000}; }

}  // namespace

int main(int count, char** arguments) {
  sched_param urgent{};
  urgent.sched_priority = 1;
  sched_setscheduler(0, SCHED_FIFO, &urgent);  // where allowed: on time beside busy programs, as a real line is

  std::map<int64_t, std::deque<Packet>> lines;  // packets of one delay leave in the order they came in
  std::vector<pollfd> watched{{STDIN_FILENO, POLLIN, 0}};
  std::vector<End> ends{{}};
  for (int i = 1; i + 2 < count; i += 3) {
    const int here = std::atoi(arguments[i]), there = std::atoi(arguments[i + 1]);
    const int64_t delay = std::atoll(arguments[i + 2]);
    for (const auto& [from, to] : {std::pair{here, there}, std::pair{there, here}}) {
      watched.push_back({from, POLLIN, 0});
      ends.push_back({to, delay, &lines[delay]});
    }
  }

  const timespec pause = span(kPause);
  static char buffer[65536];
  for (;;) {
    int64_t next = INT64_MAX;
    const int64_t sending = now();
    for (auto& [delay, line] : lines) {
      for (; !line.empty() && line.front().due <= sending; line.pop_front()) {
        const Packet& packet = line.front();
        if (write(packet.target, packet.bytes.data(), packet.bytes.size()) < 0) continue;  // lost
      }
      if (!line.empty() && line.front().due < next) next = line.front().due;
    }
    nanosleep(&pause, nullptr);
    const int64_t left = next == INT64_MAX ? 0 : next - now();
    const timespec until = span(left > 0 ? left : 0);
    if (ppoll(watched.data(), watched.size(), next == INT64_MAX ? nullptr : &until, nullptr) <= 0) continue;
    if (watched[0].revents != 0) return 0;
    const int64_t coming = now();
    for (size_t i = 1; i < watched.size(); ++i) {
      for (int n = 0; watched[i].revents != 0 && n < kMost; ++n) {
        const ssize_t size = read(watched[i].fd, buffer, sizeof buffer);
        if (size <= 0) break;
        ends[i].line->push_back({coming + ends[i].delay, ends[i].target, {buffer, size_t(size)}});
      }
    }
  }
}
