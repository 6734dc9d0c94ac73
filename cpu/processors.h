// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#ifndef TERNFLASH_CPU_PROCESSORS_H_
#define TERNFLASH_CPU_PROCESSORS_H_

#include <string>

namespace ternflash::cpu {

// How many processors' time the control groups of this process grant it (the CPU limit of a container), 0 for no limit.
// Reads files of Linux below `root`: proc/self/cgroup, and of version 2 cpu.max, of version 1 cpu.cfs_quota_us and
// cpu.cfs_period_us, of the group and all above it.
double container_limit(const std::string& root = "/");

// Processors this process can keep busy: those it may run on, and no more than its container's limit, rounded up.
int processors();

}  // namespace ternflash::cpu

#endif  // TERNFLASH_CPU_PROCESSORS_H_
