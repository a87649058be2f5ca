// Work on independent parts, on as many threads as the caller allows. Results never depend on the number.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace phloem {

// Calls work(0) ... work(count - 1), each once; rethrows the error of the lowest number that has one.
template <class Work>
void in_parallel(size_t count, int threads, const Work& work) {
  const size_t most = threads < 1 ? 1 : static_cast<size_t>(threads);
  const size_t workers = count < most ? count : most;
  if (workers <= 1) {
    for (size_t i = 0; i < count; ++i) work(i);
    return;
  }
  std::atomic<size_t> next{0};
  std::vector<std::exception_ptr> errors(count);
  const auto run = [&] {
    for (size_t i = next++; i < count; i = next++) {
      try {
        work(i);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    }
  };
  std::vector<std::thread> others;
  others.reserve(workers - 1);
  try {
    while (others.size() + 1 < workers) others.emplace_back(run);
  } catch (const std::system_error&) {
    // fewer threads than allowed do the same work
  }
  run();
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace phloem
