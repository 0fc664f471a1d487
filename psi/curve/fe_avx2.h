/* The field 2^255 - 19 with AVX2: four elements, ten limbs of radix 2^25.5 (26 and 25 bits in turn), each in a lane of
   64 bits, of which vpmuludq multiplies the lower 32.

   Limb i has weight 2^ceil(25.5 i). A product of two odd limbs counts twice; what reaches 2^255 counts 19 times.

   Bounds. A carried element is tight: even limbs below 2^26 + 2^17, odd ones below 2^25 + 2^17. fe_add does not carry: of
   two tight elements it stays below LOOSE / 1.6, of three below LOOSE. A factor is below LOOSE (even limbs) and half of it
   (odd ones): 19 times that is below 2^32, and a column of a product below (5 * 2^54.2 + 5 * 2^55.2) * 19 < 2^62.5.
   fe_sub and fe_negate carry. */
#define LANES 4
#define LIMBS 10
#define WIDE 2 /* chains of squarings that run side by side */

typedef uint64_t lanes __attribute__((vector_size(32)));
typedef lanes mask; /* all ones or zero in each lane */
typedef struct { lanes limb[5]; } fe51;
typedef struct { lanes limb[LIMBS]; } fe;

#define LOOSE 222000000ull /* 3 (2^26 + 2^17) < LOOSE = 2^27.73, and 19 LOOSE < 2^32 */
#define EVEN LOOSE

FIELD lanes lanes_all(uint64_t value) { return (lanes)_mm256_set1_epi64x((long long)value); }
FIELD mask lanes_equal(lanes a, uint64_t value) {
    return (mask)_mm256_cmpeq_epi64((__m256i)a, (__m256i)lanes_all(value));
}
FIELD lanes lanes_select(mask choose, lanes yes, lanes no) {
    return (lanes)_mm256_blendv_epi8((__m256i)no, (__m256i)yes, (__m256i)choose);
}
FIELD unsigned mask_bits(mask m) { return (unsigned)_mm256_movemask_pd((__m256d)m); }
FIELD mask mask_from_bits(unsigned bits) {
    const lanes each = {bits & 1, bits >> 1 & 1, bits >> 2 & 1, bits >> 3 & 1};
    return 0 - each;
}

#include "fe51.h"

/* Limbs 2k and 2k + 1 stand 26 bits apart, and make limb k of radix 2^51. */
FIELD fe fe_split(fe51 a) {
    fe r;
    UNROLLED for (int k = 0; k < 5; k++) {
        r.limb[2 * k] = a.limb[k] & ((1 << 26) - 1);
        r.limb[2 * k + 1] = a.limb[k] >> 26;
    }
    return r;
}
FIELD fe51 fe_join(fe a) {
    fe51 r;
    UNROLLED for (int k = 0; k < 5; k++) r.limb[k] = a.limb[2 * k] + (a.limb[2 * k + 1] << 26); /* below 2^54 */
    return r;
}
FIELD fe fe_freeze(fe a) { return fe_split(fe51_freeze(fe_join(a))); }
FIELD fe fe_from_words(const lanes w[4]) { return fe_split(fe51_from_words(w)); }
FIELD void fe_to_words(lanes w[4], fe a) { fe51_to_words(w, fe_join(a)); }
FIELD fe fe_constant(const uint64_t limbs[5]) {
    fe51 r;
    UNROLLED for (int k = 0; k < 5; k++) r.limb[k] = lanes_all(limbs[k]);
    return fe_split(r);
}

#define CARRY(from, bits, to) (to += from >> bits, from &= (1 << bits) - 1)

/* Any limbs below 2^63 to a tight element, in two chains that run side by side. The carry from limb 9 is below 2^38, 19 times
   that below 2^43, and the last carry from limb 0 below 2^17. */
FIELD fe fe_fold(lanes r0, lanes r1, lanes r2, lanes r3, lanes r4, lanes r5, lanes r6, lanes r7, lanes r8, lanes r9) {
    CARRY(r0, 26, r1), CARRY(r4, 26, r5);
    CARRY(r1, 25, r2), CARRY(r5, 25, r6);
    CARRY(r2, 26, r3), CARRY(r6, 26, r7);
    CARRY(r3, 25, r4), CARRY(r7, 25, r8);
    CARRY(r4, 26, r5), CARRY(r8, 26, r9);
    const lanes top = r9 >> 25;
    r9 &= (1 << 25) - 1;
    r0 += top + (top << 1) + (top << 4); /* 2^255 = 19 */
    CARRY(r0, 26, r1);
    fe r = {{r0, r1, r2, r3, r4, r5, r6, r7, r8, r9}};
    BELOW(r, (1 << 26) + (1 << 17));
    BELOW(r.limb[1], (1 << 25) + (1 << 17));
    return r;
}

FIELD fe fe_tighten(fe a) {
    return fe_fold(a.limb[0], a.limb[1], a.limb[2], a.limb[3], a.limb[4], a.limb[5], a.limb[6], a.limb[7], a.limb[8],
                   a.limb[9]);
}

FIELD fe fe_add(fe a, fe b) {
    UNROLLED for (int i = 0; i < LIMBS; i++) a.limb[i] += b.limb[i];
    BELOW(a, LOOSE);
    return a;
}

/* a + 4p - b: the limbs of 4p are 2^28 - 76, and 2^27 - 4 and 2^28 - 4 in turn. */
FIELD fe fe_sub(fe a, fe b) {
    BELOW(b, LOOSE);
    BELOW(b.limb[1], LOOSE / 2);
    a.limb[0] += (1 << 28) - 76 - b.limb[0];
    UNROLLED for (int i = 1; i < LIMBS; i++) a.limb[i] += (i % 2 ? (1 << 27) - 4 : (1 << 28) - 4) - b.limb[i];
    return fe_tighten(a);
}

FIELD fe fe_negate(fe a) {
    fe zero;
    UNROLLED for (int i = 0; i < LIMBS; i++) zero.limb[i] = lanes_all(0);
    return fe_sub(zero, a);
}

FIELD lanes times(lanes a, lanes b) { return (lanes)_mm256_mul_epu32((__m256i)a, (__m256i)b); }

/* Row by row: each limb of f meets all of g while ten sums stay in registers, so that a product reads memory once. ROW
   keeps the compiler from turning rows into columns, which would read it twice and spill. */
#define ROW(r) __asm__("" : "+x"(r[0]), "+x"(r[1]), "+x"(r[2]), "+x"(r[3]), "+x"(r[4]), "+x"(r[5]), "+x"(r[6]), "+x"(r[7]), \
                       "+x"(r[8]), "+x"(r[9]))

FIELD fe fe_mul(fe f, fe g) {
    BELOW(f, LOOSE);
    BELOW(g, LOOSE);
    const lanes nineteen = lanes_all(19);
    lanes h[LIMBS], r[LIMBS];
    UNROLLED for (int j = 1; j < LIMBS; j++) h[j] = times(g.limb[j], nineteen); /* what wraps around counts 19 times */
    UNROLLED for (int j = 0; j < LIMBS; j++) r[j] = times(f.limb[0], g.limb[j]);
    ROW(r);
    UNROLLED for (int i = 1; i < LIMBS; i++) {
        const lanes once = f.limb[i], twice = once + once; /* two odd limbs count twice */
        UNROLLED for (int j = 0; j < LIMBS; j++) {
            const lanes left = i % 2 && j % 2 ? twice : once;
            if (i + j < LIMBS) r[i + j] += times(left, g.limb[j]);
            else r[i + j - LIMBS] += times(left, h[j]);
        }
        ROW(r);
    }
    return fe_fold(r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9]);
}

/* As fe_mul, with f_i f_j and f_j f_i taken together. */
FIELD fe fe_square(fe f) {
    BELOW(f, LOOSE);
    const lanes nineteen = lanes_all(19);
    lanes h[LIMBS], r[LIMBS];
    UNROLLED for (int j = 5; j < LIMBS; j++) h[j] = times(f.limb[j], nineteen);
    const lanes f0 = f.limb[0], F0 = f0 + f0;
    r[0] = times(f0, f0);
    UNROLLED for (int j = 1; j < LIMBS; j++) r[j] = times(F0, f.limb[j]);
    ROW(r);
    UNROLLED for (int i = 1; i < LIMBS; i++) {
        const lanes once = f.limb[i], twice = once + once, four = twice + twice;
        UNROLLED for (int j = i; j < LIMBS; j++) {
            const int odd = i % 2 && j % 2;
            const lanes left = i == j ? (odd ? twice : once) : (odd ? four : twice);
            if (i + j < LIMBS) r[i + j] += times(left, f.limb[j]);
            else r[i + j - LIMBS] += times(left, h[j]);
        }
        ROW(r);
    }
    return fe_fold(r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9]);
}

/* For the formulas of points: inlined there, products would not fit into the instruction cache. */
APART void fe_mul_called(fe *result, const fe *a, const fe *b) { *result = fe_mul(*a, *b); }
APART void fe_square_called(fe *result, const fe *a) { *result = fe_square(*a); }
#define FE_MUL fe_mul_called
#define FE_SQUARE fe_square_called
