/* The functions of a backend, over any fe_<isa>.h: elements in groups of LANES, groups in chunks that share an inversion.

   Rows that fill up the last group count as zero: the identity, with scalar 0, which nothing refuses and nobody reads. */
#ifndef VESICA_BATCH_H
#define VESICA_BATCH_H

#define GROUPS 32 /* a chunk: 256 elements of eight lanes share an inversion (0.3 % of the work), in 80 KB */

static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t lanes_left(size_t n, size_t at) { return at < n ? smaller(n - at, LANES) : 0; }

/* Returns room for `count` blocks, at an address that vectors accept; release with free. */
static void *room_for(size_t count, size_t size) { return aligned_alloc(64, (count * size + 64) / 64 * 64); }

static inline void forget(void *memory, size_t size) {
    memset(memory, 0, size);
    __asm__ __volatile__("" : : "r"(memory) : "memory"); /* so that it is not left out */
}

/* Returns the first of `rows` rows, from `base` on, that is not in `good`; or -1. The outcome is public. */
static inline int64_t first_bad(mask good, size_t base, size_t rows) {
    for (size_t lane = 0; lane < rows; lane++)
        if (!(mask_bits(good) >> lane & 1)) return (int64_t)(base + lane);
    return -1;
}

/* Strictly decodes WIDE groups from row `base` on; returns the first bad row, or -1. */
static int64_t decode_groups(point *p, const uint8_t *elements, size_t base, size_t n, int identity_allowed) {
    fe s[WIDE];
    mask canonical[WIDE], zero[WIDE], good[WIDE];
    int64_t bad = -1;
    for (size_t j = 0; j < WIDE; j++) {
        const size_t at = base + j * LANES, rows = lanes_left(n, at);
        s[j] = fe_load(elements + 32 * (rows ? at : 0), 32, rows, &canonical[j], &zero[j]);
    }
    ristretto_decode(p, good, s, WIDE);
    for (size_t j = 0; j < WIDE && bad < 0; j++) {
        const size_t at = base + j * LANES;
        const mask decoded = good[j] & canonical[j];
        bad = first_bad(identity_allowed ? decoded : decoded & ~zero[j], at, lanes_left(n, at));
    }
    return bad;
}

/* Decoded elements: affine points as (Y+X, Y-X, 2dT), a row of words each, at any address. */
#define DECODED ((3 * LIMBS + 7) / 8 * 8)
static const uint64_t IDENTITY_ROW[DECODED] = {[0] = 1, [LIMBS] = 1};

/* limbs[k] of lane l = word k of row from[l], k < count; reads and writes up to the next multiple of eight. */
#ifndef LANES_GATHER
#define LANES_GATHER lanes_gather
static inline void lanes_gather(lanes *limbs, const void *const from[LANES], int count) {
    for (int k = 0; k < count; k++) {
        uint64_t row[LANES];
        for (size_t lane = 0; lane < LANES; lane++) memcpy(&row[lane], (const uint64_t *)from[lane] + k, sizeof *row);
        memcpy(&limbs[k], row, sizeof row);
    }
}
#endif

static inline void lanes_scatter(void *const to[LANES], const lanes *limbs, int count) {
    for (int k = 0; k < count; k++) {
        uint64_t row[LANES];
        memcpy(row, &limbs[k], sizeof row);
        for (size_t lane = 0; lane < LANES; lane++)
            if (to[lane]) memcpy((uint64_t *)to[lane] + k, &row[lane], sizeof *row);
    }
}

static int64_t batch_decode(uint8_t *decoded, const uint8_t *elements, size_t n) {
    for (size_t base = 0; base < n; base += WIDE * LANES) {
        point p[WIDE];
        const int64_t bad = decode_groups(p, elements, base, n, 0);
        if (bad >= 0) return bad;
        for (size_t j = 0; j < WIDE; j++) {
            const size_t at = base + j * LANES, rows = lanes_left(n, at);
            const fe fields[3] = {fe_tighten(fe_add(p[j].Y, p[j].X)), fe_tighten(fe_sub(p[j].Y, p[j].X)),
                                  fe_mul(p[j].T, fe_constant(TWICE_D))};
            void *to[LANES] = {0};
            for (size_t lane = 0; lane < rows; lane++) to[lane] = decoded + 8 * DECODED * (at + lane);
            lanes_scatter(to, (const lanes *)fields, 3 * LIMBS);
        }
    }
    return -1;
}

/* Reads WIDE groups of decoded rows from row `base` on, as (2x : 2y : 2 : 2xy). */
static void load_groups(point *p, const uint8_t *decoded, size_t base, size_t n) {
    for (size_t j = 0; j < WIDE; j++) {
        const size_t at = base + j * LANES, rows = lanes_left(n, at);
        const void *from[LANES];
        lanes limbs[DECODED];
        fe fields[3];
        for (size_t lane = 0; lane < LANES; lane++)
            from[lane] = lane < rows ? (const void *)(decoded + 8 * DECODED * (at + lane)) : IDENTITY_ROW;
        LANES_GATHER(limbs, from, 3 * LIMBS);
        memcpy(fields, limbs, sizeof fields);
        p[j].X = fe_tighten(fe_sub(fields[0], fields[1]));
        p[j].Y = fe_tighten(fe_add(fields[0], fields[1]));
        p[j].Z = fe_add(fe_constant(ONE), fe_constant(ONE));
        p[j].T = fe_mul(fields[2], fe_constant(INVERSE_D));
    }
}

/* Maps WIDE groups of 64-byte rows from row `base` on: the sum of the maps of both halves. */
static void map_groups(point *p, const uint8_t *uniform, size_t base, size_t n) {
    fe t[WIDE];
    point second[WIDE];
    for (size_t half = 0; half < 2; half++) {
        for (size_t j = 0; j < WIDE; j++) {
            const size_t at = base + j * LANES, rows = lanes_left(n, at);
            t[j] = fe_load(uniform + 64 * (rows ? at : 0) + 32 * half, 64, rows, NULL, NULL);
        }
        ristretto_map(half ? second : p, t, WIDE);
    }
    for (size_t j = 0; j < WIDE; j++) point_add(&p[j], &second[j]);
}

static int64_t batch_from_uniform(uint8_t *elements, const uint8_t *uniform, size_t n) {
    for (size_t base = 0; base < n; base += WIDE * LANES) {
        point p[WIDE];
        fe s[WIDE];
        map_groups(p, uniform, base, n);
        ristretto_encode(s, p, WIDE);
        for (size_t j = 0; j < WIDE; j++) {
            const size_t at = base + j * LANES, rows = lanes_left(n, at);
            if (rows) fe_store(elements + 32 * at, rows, s[j]);
        }
    }
    return -1;
}

/* The digits of half of each scalar of a group: products are encoded as the double of what is computed. */
static void load_digits(digits *d, const uint8_t *scalars, size_t stride, size_t rows) {
    uint64_t one[2][64], all[2][64][LANES];
    memset(all, 0, sizeof all);
    for (size_t lane = 0; lane < rows; lane++) {
        if (lane == 0 || stride) scalar_digits(one[0], one[1], scalar_half(scalar_load(scalars + lane * stride)));
        for (size_t i = 0; i < 64; i++) all[0][i][lane] = one[0][i], all[1][i][lane] = one[1][i];
    }
    memcpy(d->magnitude, all[0], sizeof d->magnitude);
    memcpy(d->negative, all[1], sizeof d->negative);
    forget(one, sizeof one);
    forget(all, sizeof all);
}

enum rows { ENCODED, UNIFORM, READY };

static int64_t products(uint8_t *out, const uint8_t *in, enum rows kind, const uint8_t *scalars, size_t stride, size_t n) {
    doubled *const doubles = room_for(GROUPS, sizeof(doubled));
    digits d;
    int64_t bad = -1;
    if (!doubles) return NO_MEMORY;
    if (n && !stride) load_digits(&d, scalars, 0, LANES);
    for (size_t base = 0; base < n && bad < 0; base += GROUPS * LANES) {
        size_t groups = 0;
        for (size_t wide = base; wide < smaller(n, base + GROUPS * LANES) && bad < 0; wide += WIDE * LANES) {
            point p[WIDE];
            if (kind == UNIFORM) map_groups(p, in, wide, n);
            else if (kind == READY) load_groups(p, in, wide, n);
            else bad = decode_groups(p, in, wide, n, 0);
            for (size_t j = 0; j < WIDE && bad < 0; j++) {
                const size_t at = wide + j * LANES, rows = lanes_left(n, at);
                if (!rows) break;
                if (stride) load_digits(&d, scalars + at * stride, stride, rows);
                point_multiply(&p[j], &d);
                ristretto_double(&doubles[groups++], &p[j]);
            }
        }
        if (bad >= 0) break;
        doubled_invert(doubles, groups);
        for (size_t group = 0; group < groups; group++) {
            const size_t at = base + group * LANES;
            fe_store(out + 32 * at, lanes_left(n, at), ristretto_encode_doubled(&doubles[group], doubles[group].efgh));
        }
    }
    forget(&d, sizeof d);
    free(doubles);
    return bad;
}

static int64_t batch_multiply(uint8_t *out, const uint8_t *elements, const uint8_t *scalars, size_t stride, size_t n) {
    return products(out, elements, ENCODED, scalars, stride, n);
}

static int64_t batch_multiply_uniform(uint8_t *out, const uint8_t *uniform, const uint8_t *scalars, size_t stride,
                                      size_t n) {
    return products(out, uniform, UNIFORM, scalars, stride, n);
}

static int64_t batch_multiply_decoded(uint8_t *out, const uint8_t *decoded, const uint8_t *scalars, size_t stride,
                                      size_t n) {
    return products(out, decoded, READY, scalars, stride, n);
}

#include "sums.h"

#define BACKEND(isa)                                        \
    const struct backend backend_##isa = {                  \
        .name = #isa,                                       \
        .decoded = 8 * DECODED,                             \
        .sha512 = batch_sha512,                             \
        .from_uniform = batch_from_uniform,                 \
        .multiply = batch_multiply,                         \
        .multiply_decoded = batch_multiply_decoded,         \
        .multiply_uniform = batch_multiply_uniform,         \
        .decode = batch_decode,                             \
        .multi_scalar_vartime = batch_multi_scalar_vartime, \
        .sum = batch_sum,                                   \
    }

#endif
