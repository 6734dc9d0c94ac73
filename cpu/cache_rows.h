// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Where the tokens of a cache are: end to end for each batch entry, or in pages that entries share.

#ifndef TERNFLASH_CPU_CACHE_ROWS_H_
#define TERNFLASH_CPU_CACHE_ROWS_H_

#include "simd.h"

namespace {

using ternflash::KeyPages;

// Whether every page is one of the cache's, or none. Fails the op otherwise.
bool check_pages(const KeyPages& pages, int64_t batch, Context& context) {
  const int32_t* table = static_cast<const int32_t*>(pages.table.data);
  for (int64_t i = 0; table && i < batch * pages.per_entry; i++) {
    if (table[i] >= -1 && table[i] < pages.count) continue;
    context.fail("expected pages of the cache, got one outside");
    return false;
  }
  return true;
}

// The row of a token, -1 if its page is none. Rows of tokens of one page follow each other.
TERNFLASH_INLINE int64_t page_row(const KeyPages& pages, int64_t entry, int64_t token) {
  const int32_t page = static_cast<const int32_t*>(pages.table.data)[entry * pages.per_entry + token / pages.size];
  return page < 0 ? -1 : page * pages.size + token % pages.size;
}

}  // namespace

#endif  // TERNFLASH_CPU_CACHE_ROWS_H_
