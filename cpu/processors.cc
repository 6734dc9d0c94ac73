// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "processors.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace ternflash::cpu {

namespace {

// quota / period, 0 unless both are positive numbers: "max" and -1 stand for no limit.
double ratio(std::istream&& quota, std::istream&& period) {
  double time = 0, of = 0;
  if (!(quota >> time) || !(period >> of) || time <= 0 || of <= 0) return 0;
  return time / of;
}

// Of one group's folder.
double group_limit(const std::string& folder, bool second_version) {
  if (!second_version)
    return ratio(std::ifstream(folder + "/cpu.cfs_quota_us"), std::ifstream(folder + "/cpu.cfs_period_us"));
  std::ifstream file(folder + "/cpu.max");
  std::string quota, period;
  if (!(file >> quota >> period)) return 0;
  return ratio(std::istringstream(quota), std::istringstream(period));
}

bool names_cpu(const std::string& controllers) {
  std::istringstream list(controllers);
  for (std::string each; std::getline(list, each, ',');)
    if (each == "cpu") return true;
  return false;
}

}  // namespace

double container_limit(const std::string& root) {
  std::ifstream groups(root + "/proc/self/cgroup");
  double least = 0;
  for (std::string line; std::getline(groups, line);) {  // number:controllers:path
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool second_version = controllers.empty();
    if (!second_version && !names_cpu(controllers)) continue;
    const std::string top = root + "/sys/fs/cgroup" + (second_version ? "" : "/" + controllers);
    // Within a container the path may be that of the host, which is not there: then only the top is.
    for (std::string path = line.substr(second + 1);; path.resize(path.find_last_of('/'))) {
      const double limit = group_limit(top + path, second_version);
      if (limit > 0) least = least > 0 ? std::min(least, limit) : limit;
      if (path.find('/') == std::string::npos) break;
    }
  }
  return least;
}

int processors() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) count = CPU_COUNT(&set);
#endif
  const double limit = container_limit();
  if (limit > 0) count = std::min(count, static_cast<int>(std::ceil(std::min(limit, 1e6))));
  return std::max(count, 1);
}

}  // namespace ternflash::cpu
