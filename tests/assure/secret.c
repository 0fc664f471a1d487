/* Runs under valgrind with the secrets marked undefined: memcheck reports a jump or an address that depends on one.

   Compiled with psi/curve/<isa>.c and -DUNDER_TEST=backend_<isa> (valgrind knows no AVX-512; the IFMA backend shares all
   code but fe_ifma.h). With an argument it does a forbidden thing on purpose, to show that it would be reported. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/memcheck.h>

#include "../../psi/curve/backend.h"
#include "../../psi/curve/constants.h"

#include "../../psi/curve/scalar.h"

enum { N = 5 };

static void fill(uint8_t *bytes, size_t size, uint32_t seed) {
    for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
}

static void finish(const char *what, void *output, size_t size, int64_t bad) {
    VALGRIND_MAKE_MEM_DEFINED(output, size);
    uint8_t all = 0;
    for (size_t i = 0; i < size; i++) all |= ((const uint8_t *)output)[i];
    if (bad != -1 || !all) exit((fprintf(stderr, "%s failed\n", what), 2));
    printf("%s: done\n", what);
}

int main(int count, char **arguments) {
    (void)arguments;
    const struct backend *const backend = &UNDER_TEST;
    uint8_t uniform[64 * N], points[32 * N], out[64 * N], scalars[32 * N];
    fill(uniform, sizeof uniform, 1);
    fill(scalars, sizeof scalars, 2);
    for (int i = 0; i < N; i++) scalars[32 * i + 31] &= 15; /* below L */
    backend->from_uniform(points, uniform, N);
    VALGRIND_MAKE_MEM_UNDEFINED(scalars, sizeof scalars);

    finish("multiply, one scalar", out, 32 * N, backend->multiply(out, points, scalars, 0, N));
    finish("multiply, a scalar each", out, 32 * N, backend->multiply(out, points, scalars, 32, N));
    uint8_t *const decoded = malloc(N * backend->decoded);
    backend->decode(decoded, points, N);
    finish("multiply decoded rows", out, 32 * N, backend->multiply_decoded(out, decoded, scalars, 0, N));
    free(decoded);
    VALGRIND_MAKE_MEM_UNDEFINED(uniform, sizeof uniform); /* hashes of identities */
    finish("hash and multiply", out, 32 * N, backend->multiply_uniform(out, uniform, scalars, 0, N));
    finish("map", out, 32 * N, backend->from_uniform(out, uniform, N));
    const struct part parts[] = {{(const uint8_t *)"prefix", 0, 6, NULL}, {uniform, 64, 64, NULL}};
    finish("sha512", out, 64 * N, backend->sha512(out, 64, N, parts, 2));
    scalar secret = scalar_load(scalars);
    scalar results[] = {scalar_invert(secret), scalar_reduce(uniform), scalar_multiply(secret, scalar_load(scalars + 32)),
                        scalar_negate(secret), scalar_half(secret)};
    finish("scalar arithmetic", results, sizeof results, -1);
    if (count > 1 && scalars[0] & 1) printf("a leak\n");
    return 0;
}
