/* What a backend offers. Arrays are rows without gaps; a result is the index of the first row that is refused, or -1 for
   none, or NO_MEMORY. The output is undefined where a row is refused. */
#ifndef VESICA_BACKEND_H
#define VESICA_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#define NO_MEMORY (-2)
#define MAX_BATCHES 2 /* of points that one call sums with the same scalars */

/* A piece of every message of a batch: bytes that all share (`stride` 0), or one row each, of which, if `lengths` is
   not NULL, only the first lengths[i] bytes count. */
struct part {
    const uint8_t *bytes;
    size_t stride, width;
    const uint8_t *lengths;
};

struct backend {
    const char *name;
    size_t decoded; /* bytes of a decoded row: an element in the limbs of this backend, whose bytes no other knows */
    /* SHA-512 of the n messages that the parts make, cut to `size` bytes each. */
    int64_t (*sha512)(uint8_t *digests, size_t size, size_t n, const struct part *parts, size_t count);
    /* 64-byte rows to elements. */
    int64_t (*from_uniform)(uint8_t *elements, const uint8_t *uniform, size_t n);
    /* scalar * element; the scalars, 1 .. L-1, lie `stride` apart: 0 is one for all, and 32 is one each. */
    int64_t (*multiply)(uint8_t *products, const uint8_t *elements, const uint8_t *scalars, size_t stride, size_t n);
    int64_t (*multiply_decoded)(uint8_t *products, const uint8_t *decoded, const uint8_t *scalars, size_t stride, size_t n);
    /* scalar * from_uniform(row). */
    int64_t (*multiply_uniform)(uint8_t *products, const uint8_t *uniform, const uint8_t *scalars, size_t stride, size_t n);
    /* Strict decoding, without the identity. */
    int64_t (*decode)(uint8_t *decoded, const uint8_t *elements, size_t n);
    /* Of each of `count` batches of n decoded rows, sum scalar[i] * row[i]. Its time depends on the scalars. */
    int64_t (*multi_scalar_vartime)(uint8_t *sums, const uint8_t *scalars, const uint8_t *const *decoded, size_t count,
                                    size_t n);
    /* The sum of elements, among which the identity is allowed. */
    int64_t (*sum)(uint8_t sum[32], const uint8_t *elements, size_t n);
};

extern const struct backend backend_portable;
#if defined(__x86_64__)
#define VESICA_X86 1
extern const struct backend backend_avx2, backend_ifma;
#endif

#endif
