/* The field 2^255 - 19 with AVX-512 IFMA: eight elements, five limbs of radix 2^51, each in 52 of 64 bits of a lane.

   vpmadd52luq and vpmadd52huq add the low and the high 52 bits of a 104-bit product to 64-bit sums. The low half of
   a_i b_j has weight 2^(51 (i+j)), the high half 2^(51 (i+j) + 52): twice that of limb i+j+1, hence the doublings below.
   They read 52 bits of a factor and silently drop what is above: so every sum that feeds a product is carried
   (fe_settle), and inside a formula uncarried products are combined linearly first and carried once (fe_raw).

   Bounds. A carried element is tight: limbs below 2^51 + 2^16 < 2^52, which is all that a factor may be. With tight
   factors a low half is below 2^52, a high half below 2^50 + 2^17; a limb sums at most five of each, z < 5 * 2^52 +
   2 * 5 * (2^50 + 2^17) < 2^54.91, and the fold z_k + 19 z_(k+5) stays below RAW. */
#define LANES 8
#define LIMBS 5
#define WIDE 4 /* chains of squarings that run side by side, to fill the latency of one */

typedef uint64_t lanes __attribute__((vector_size(64)));
typedef __mmask8 mask;
typedef struct { lanes limb[5]; } fe51;
typedef fe51 fe;
typedef struct { lanes limb[LIMBS]; } fe_raw; /* a product before its carry */

#define TIGHT ((1ull << 51) + (1ull << 16))
#define EVEN (1ull << 52)
#define LOOSE (1ull << 52)
#define RAW (5ull << 57) /* 2^59.32 */
#define BIASED (RAW + (1ull << 61)) /* of a product that another is subtracted from */

FIELD lanes lanes_all(uint64_t value) { return (lanes)_mm512_set1_epi64((long long)value); }
FIELD mask lanes_equal(lanes a, uint64_t value) {
    return _mm512_cmpeq_epi64_mask((__m512i)a, (__m512i)lanes_all(value));
}
FIELD lanes lanes_select(mask choose, lanes yes, lanes no) {
    return (lanes)_mm512_mask_blend_epi64(choose, (__m512i)no, (__m512i)yes);
}
FIELD unsigned mask_bits(mask m) { return m; }
FIELD mask mask_from_bits(unsigned bits) { return (mask)bits; }

/* Rows become columns, eight words at a time: pairs of words, then of pairs, then of those. */
#define LANES_GATHER lanes_gather
FIELD void lanes_gather(lanes *limbs, const void *const from[LANES], int count) {
    UNROLLED for (int k = 0; k < count; k += 8) {
        __m512i row[8], two[8], four[8];
        UNROLLED for (int i = 0; i < 8; i++) row[i] = _mm512_loadu_si512((const uint64_t *)from[i] + k);
        UNROLLED for (int i = 0; i < 8; i += 2) {
            two[i] = _mm512_unpacklo_epi64(row[i], row[i + 1]);
            two[i + 1] = _mm512_unpackhi_epi64(row[i], row[i + 1]);
        }
        UNROLLED for (int i = 0; i < 8; i++) {
            const int pair = (i & 4) + (i & 1);
            four[i] = i & 2 ? _mm512_shuffle_i64x2(two[pair], two[pair + 2], 0xdd)
                            : _mm512_shuffle_i64x2(two[pair], two[pair + 2], 0x88);
        }
        UNROLLED for (int i = 0; i < 4; i++) {
            limbs[k + i] = (lanes)_mm512_shuffle_i64x2(four[i], four[i + 4], 0x88);
            limbs[k + i + 4] = (lanes)_mm512_shuffle_i64x2(four[i], four[i + 4], 0xdd);
        }
    }
}

#include "fe51.h"

FIELD fe fe_tighten(fe a) { return fe_carry(a); }
FIELD fe fe_settle(fe a) {
    fe r = fe_carry(a);
    BELOW(r, TIGHT);
    return r;
}

FIELD lanes add_low(lanes sum, lanes a, lanes b) {
    return (lanes)_mm512_madd52lo_epu64((__m512i)sum, (__m512i)a, (__m512i)b);
}
FIELD lanes add_high(lanes sum, lanes a, lanes b) {
    return (lanes)_mm512_madd52hi_epu64((__m512i)sum, (__m512i)a, (__m512i)b);
}

/* 19 a in one multiplication: from a plain constant the compiler makes shifts and additions, which are slower. */
FIELD lanes times19(lanes a) {
    __m512i nineteen = _mm512_set1_epi64(19);
    __asm__("" : "+v"(nineteen));
    return (lanes)_mm512_mullo_epi64((__m512i)a, nineteen);
}

/* The same of numbers below 2^32, in a shorter multiplication. */
FIELD lanes times19_short(lanes a) {
    __m512i nineteen = _mm512_set1_epi64(19);
    __asm__("" : "+v"(nineteen));
    return (lanes)_mm512_mul_epu32((__m512i)a, nineteen);
}

#define LOW(k, i, j) z##k = add_low(z##k, a##i, b##j)
#define HIGH(k, i, j) z##k = add_high(z##k, a##i, b##j)

/* z_k + 19 z_(k+5), for 2^255 = 19. */
FIELD fe_raw fe_wrap(lanes z0, lanes z1, lanes z2, lanes z3, lanes z4, lanes z5, lanes z6, lanes z7, lanes z8, lanes z9) {
    return (fe_raw){{z0 + times19(z5), z1 + times19(z6), z2 + times19(z7), z3 + times19(z8), z4 + times19(z9)}};
}

/* 2^10 p, limb k, over `parts`. A product begins with it where another is subtracted from it: no limb falls below zero. */
FIELD lanes fe_bias(int k, int parts) { return lanes_all(((k ? LIMB_MASK : LIMB_MASK - 18) << 10) / (uint64_t)parts); }

FIELD fe_raw fe_mul_from(fe a, fe b, int biased) {
    BELOW(a, LOOSE);
    BELOW(b, LOOSE);
    const lanes a0 = a.limb[0], a1 = a.limb[1], a2 = a.limb[2], a3 = a.limb[3], a4 = a.limb[4];
    const lanes b0 = b.limb[0], b1 = b.limb[1], b2 = b.limb[2], b3 = b.limb[3], b4 = b.limb[4];
    lanes z0 = lanes_all(0), z1 = z0, z2 = z0, z3 = z0, z4 = z0, z5 = z0, z6 = z0, z7 = z0, z8 = z0, z9 = z0;
    if (biased) z0 = fe_bias(0, 1), z1 = fe_bias(1, 2), z2 = fe_bias(2, 2), z3 = fe_bias(3, 2), z4 = fe_bias(4, 2);
    HIGH(1, 0, 0);
    HIGH(2, 0, 1); HIGH(2, 1, 0);
    HIGH(3, 0, 2); HIGH(3, 1, 1); HIGH(3, 2, 0);
    HIGH(4, 0, 3); HIGH(4, 1, 2); HIGH(4, 2, 1); HIGH(4, 3, 0);
    HIGH(5, 0, 4); HIGH(5, 1, 3); HIGH(5, 2, 2); HIGH(5, 3, 1); HIGH(5, 4, 0);
    HIGH(6, 1, 4); HIGH(6, 2, 3); HIGH(6, 3, 2); HIGH(6, 4, 1);
    HIGH(7, 2, 4); HIGH(7, 3, 3); HIGH(7, 4, 2);
    HIGH(8, 3, 4); HIGH(8, 4, 3);
    HIGH(9, 4, 4);
    z1 += z1, z2 += z2, z3 += z3, z4 += z4, z5 += z5, z6 += z6, z7 += z7, z8 += z8, z9 += z9; /* they count twice */
    LOW(0, 0, 0);
    LOW(1, 0, 1); LOW(1, 1, 0);
    LOW(2, 0, 2); LOW(2, 1, 1); LOW(2, 2, 0);
    LOW(3, 0, 3); LOW(3, 1, 2); LOW(3, 2, 1); LOW(3, 3, 0);
    LOW(4, 0, 4); LOW(4, 1, 3); LOW(4, 2, 2); LOW(4, 3, 1); LOW(4, 4, 0);
    LOW(5, 1, 4); LOW(5, 2, 3); LOW(5, 3, 2); LOW(5, 4, 1);
    LOW(6, 2, 4); LOW(6, 3, 3); LOW(6, 4, 2);
    LOW(7, 3, 4); LOW(7, 4, 3);
    LOW(8, 4, 4);
    const fe_raw r = fe_wrap(z0, z1, z2, z3, z4, z5, z6, z7, z8, z9);
    BELOW(r, biased ? BIASED : RAW);
    return r;
}

/* 4 high(a_i a_j) + 2 high(a_i^2) + 2 low(a_i a_j) + low(a_i^2) = 2 (2 high + high + low) + low, with i < j. */
FIELD fe_raw fe_square_from(fe a, int biased) {
    BELOW(a, LOOSE);
    const lanes a0 = a.limb[0], a1 = a.limb[1], a2 = a.limb[2], a3 = a.limb[3], a4 = a.limb[4];
    const lanes b0 = a0, b1 = a1, b2 = a2, b3 = a3, b4 = a4;
    lanes z0 = lanes_all(0), z1 = z0, z2 = z0, z3 = z0, z4 = z0, z5 = z0, z6 = z0, z7 = z0, z8 = z0, z9 = z0;
    if (biased) z0 = fe_bias(0, 1), z1 = fe_bias(1, 2), z2 = fe_bias(2, 4), z3 = fe_bias(3, 4), z4 = fe_bias(4, 4);
    HIGH(2, 0, 1);
    HIGH(3, 0, 2);
    HIGH(4, 0, 3); HIGH(4, 1, 2);
    HIGH(5, 0, 4); HIGH(5, 1, 3);
    HIGH(6, 1, 4); HIGH(6, 2, 3);
    HIGH(7, 2, 4);
    HIGH(8, 3, 4);
    z2 += z2, z3 += z3, z4 += z4, z5 += z5, z6 += z6, z7 += z7, z8 += z8;
    HIGH(1, 0, 0); HIGH(3, 1, 1); HIGH(5, 2, 2); HIGH(7, 3, 3); HIGH(9, 4, 4);
    LOW(1, 0, 1);
    LOW(2, 0, 2);
    LOW(3, 0, 3); LOW(3, 1, 2);
    LOW(4, 0, 4); LOW(4, 1, 3);
    LOW(5, 1, 4); LOW(5, 2, 3);
    LOW(6, 2, 4);
    LOW(7, 3, 4);
    z1 += z1, z2 += z2, z3 += z3, z4 += z4, z5 += z5, z6 += z6, z7 += z7, z8 += z8, z9 += z9;
    LOW(0, 0, 0); LOW(2, 1, 1); LOW(4, 2, 2); LOW(6, 3, 3); LOW(8, 4, 4);
    const fe_raw r = fe_wrap(z0, z1, z2, z3, z4, z5, z6, z7, z8, z9);
    BELOW(r, biased ? BIASED : RAW);
    return r;
}

FIELD fe_raw fe_mul_raw(fe a, fe b) { return fe_mul_from(a, b, 0); }
FIELD fe_raw fe_mul_biased(fe a, fe b) { return fe_mul_from(a, b, 1); }
FIELD fe_raw fe_square_raw(fe a) { return fe_square_from(a, 0); }
FIELD fe_raw fe_square_biased(fe a) { return fe_square_from(a, 1); }

/* Any limbs below 2^62 to a tight element: a carry is below 2^11, 19 of them below 2^15.3. */
FIELD fe fe_fold(fe_raw a) {
    fe r;
    BELOW(a, 1ull << 62);
    r.limb[0] = (a.limb[0] & LIMB_MASK) + times19_short(a.limb[4] >> 51);
    UNROLLED for (int i = 1; i < 5; i++) r.limb[i] = (a.limb[i] & LIMB_MASK) + (a.limb[i - 1] >> 51);
    BELOW(r, TIGHT);
    return r;
}

FIELD fe_raw fe_add_raw(fe_raw a, fe_raw b) {
    UNROLLED for (int i = 0; i < 5; i++) a.limb[i] += b.limb[i];
    return a;
}

/* a - b for a biased a: no limb falls below zero, since b is below what was added. */
FIELD fe_raw fe_sub_raw(fe_raw a, fe_raw b) {
    UNROLLED for (int i = 0; i < 5; i++) a.limb[i] -= b.limb[i];
    BELOW(a, 1ull << 62);
    return a;
}

FIELD fe_raw fe_double_biased(fe a) {
    fe_raw r;
    UNROLLED for (int i = 0; i < 5; i++) r.limb[i] = a.limb[i] + a.limb[i] + fe_bias(i, 1);
    return r;
}

FIELD fe fe_mul(fe a, fe b) { return fe_fold(fe_mul_raw(a, b)); }
FIELD fe fe_square(fe a) { return fe_fold(fe_square_raw(a)); }

/* The terms of point.h's formulas, whose sums of products are carried once. They read the whole `struct point`, which is
   not yet known here: hence macros. */
#define DOUBLE_TERMS(p, E, F, G, H) double_terms(&(p)->X, &(p)->Y, &(p)->Z, E, F, G, H)
FIELD void double_terms(const fe *X, const fe *Y, const fe *Z, fe *E, fe *F, fe *G, fe *H) {
    fe_raw A = fe_square_raw(*X), B = fe_square_biased(*Y), C = fe_square_biased(*Z), XY = fe_mul_raw(*X, *Y);
    *H = fe_fold(fe_add_raw(A, B));
    *G = fe_fold(fe_sub_raw(B, A));
    *E = fe_fold(fe_add_raw(XY, XY)); /* not (X+Y)^2 - A - B: the carry of X + Y costs more than a square saves */
    *F = fe_fold(fe_sub_raw(fe_add_raw(fe_add_raw(C, C), A), B)); /* 2C - G: below 3 RAW + 2^61 < 2^61.97 */
}

#define ADD_TERMS(p, plus, minus, T2d, Z2, E, H, difference, sum) \
    add_terms(&(p)->X, &(p)->Y, &(p)->Z, &(p)->T, plus, minus, T2d, Z2, E, H, difference, sum)
FIELD void add_terms(const fe *X, const fe *Y, const fe *Z, const fe *T, const fe *plus, const fe *minus, const fe *T2d,
                     const fe *Z2, fe *E, fe *H, fe *difference, fe *sum) {
    fe_raw A = fe_mul_raw(fe_sub(*Y, *X), *minus), B = fe_mul_biased(fe_add(*Y, *X), *plus);
    fe_raw C = fe_mul_raw(*T, *T2d), D2 = Z2 ? fe_mul_biased(*Z, *Z2) : fe_double_biased(*Z);
    *E = fe_fold(fe_sub_raw(B, A));
    *H = fe_fold(fe_add_raw(B, A));
    *difference = fe_fold(fe_sub_raw(D2, C));
    *sum = fe_fold(fe_add_raw(D2, C));
}
