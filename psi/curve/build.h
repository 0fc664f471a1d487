/* How the kernel is compiled, and checked. In a build with -DVESICA_BOUNDS every limb is compared with the bound that stands beside its carry. */
#ifndef VESICA_BUILD_H
#define VESICA_BUILD_H

/* A field operation is inlined into its formula, so that elements stay in registers. A point operation is compiled once. */
#define FIELD static inline __attribute__((always_inline, unused))
#define APART static __attribute__((noinline, unused))

/* Before a loop over limbs: unless the loop is unrolled, its element stays in memory. */
#define UNROLLED _Pragma("GCC unroll 10")

#ifdef VESICA_BOUNDS
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static inline void limbs_below(const void *limbs, size_t size, uint64_t limit, const char *file, int line) {
    for (size_t at = 0; at < size; at += 8) {
        uint64_t limb;
        memcpy(&limb, (const char *)limbs + at, 8);
        if (limb >= limit) {
            fprintf(stderr, "%s:%d: limb %016llx is not below %016llx\n", file, line, (unsigned long long)limb,
                    (unsigned long long)limit);
            abort();
        }
    }
}
#define BELOW(element, limit) limbs_below(&(element), sizeof(element), (limit), __FILE__, __LINE__)
#else
#define BELOW(element, limit) ((void)0)
#endif

#endif
