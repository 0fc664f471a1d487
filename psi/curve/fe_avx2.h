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

/* F is 2f, and h is 19g. */
FIELD fe fe_mul(fe f, fe g) {
    BELOW(f, LOOSE);
    BELOW(g, LOOSE);
    const lanes nineteen = lanes_all(19);
    const lanes f0 = f.limb[0], f1 = f.limb[1], f2 = f.limb[2], f3 = f.limb[3], f4 = f.limb[4];
    const lanes f5 = f.limb[5], f6 = f.limb[6], f7 = f.limb[7], f8 = f.limb[8], f9 = f.limb[9];
    const lanes g0 = g.limb[0], g1 = g.limb[1], g2 = g.limb[2], g3 = g.limb[3], g4 = g.limb[4];
    const lanes g5 = g.limb[5], g6 = g.limb[6], g7 = g.limb[7], g8 = g.limb[8], g9 = g.limb[9];
    const lanes F1 = f1 + f1, F3 = f3 + f3, F5 = f5 + f5, F7 = f7 + f7, F9 = f9 + f9;
    const lanes h1 = times(g1, nineteen), h2 = times(g2, nineteen), h3 = times(g3, nineteen), h4 = times(g4, nineteen);
    const lanes h5 = times(g5, nineteen), h6 = times(g6, nineteen), h7 = times(g7, nineteen), h8 = times(g8, nineteen);
    const lanes h9 = times(g9, nineteen);
    lanes r0 = times(f0, g0) + times(F1, h9) + times(f2, h8) + times(F3, h7) + times(f4, h6) + times(F5, h5) +
               times(f6, h4) + times(F7, h3) + times(f8, h2) + times(F9, h1);
    lanes r1 = times(f0, g1) + times(f1, g0) + times(f2, h9) + times(f3, h8) + times(f4, h7) + times(f5, h6) +
               times(f6, h5) + times(f7, h4) + times(f8, h3) + times(f9, h2);
    lanes r2 = times(f0, g2) + times(F1, g1) + times(f2, g0) + times(F3, h9) + times(f4, h8) + times(F5, h7) +
               times(f6, h6) + times(F7, h5) + times(f8, h4) + times(F9, h3);
    lanes r3 = times(f0, g3) + times(f1, g2) + times(f2, g1) + times(f3, g0) + times(f4, h9) + times(f5, h8) +
               times(f6, h7) + times(f7, h6) + times(f8, h5) + times(f9, h4);
    lanes r4 = times(f0, g4) + times(F1, g3) + times(f2, g2) + times(F3, g1) + times(f4, g0) + times(F5, h9) +
               times(f6, h8) + times(F7, h7) + times(f8, h6) + times(F9, h5);
    lanes r5 = times(f0, g5) + times(f1, g4) + times(f2, g3) + times(f3, g2) + times(f4, g1) + times(f5, g0) +
               times(f6, h9) + times(f7, h8) + times(f8, h7) + times(f9, h6);
    lanes r6 = times(f0, g6) + times(F1, g5) + times(f2, g4) + times(F3, g3) + times(f4, g2) + times(F5, g1) +
               times(f6, g0) + times(F7, h9) + times(f8, h8) + times(F9, h7);
    lanes r7 = times(f0, g7) + times(f1, g6) + times(f2, g5) + times(f3, g4) + times(f4, g3) + times(f5, g2) +
               times(f6, g1) + times(f7, g0) + times(f8, h9) + times(f9, h8);
    lanes r8 = times(f0, g8) + times(F1, g7) + times(f2, g6) + times(F3, g5) + times(f4, g4) + times(F5, g3) +
               times(f6, g2) + times(F7, g1) + times(f8, g0) + times(F9, h9);
    lanes r9 = times(f0, g9) + times(f1, g8) + times(f2, g7) + times(f3, g6) + times(f4, g5) + times(f5, g4) +
               times(f6, g3) + times(f7, g2) + times(f8, g1) + times(f9, g0);
    return fe_fold(r0, r1, r2, r3, r4, r5, r6, r7, r8, r9);
}

/* Q is 4f. */
FIELD fe fe_square(fe f) {
    BELOW(f, LOOSE);
    const lanes nineteen = lanes_all(19);
    const lanes f0 = f.limb[0], f1 = f.limb[1], f2 = f.limb[2], f3 = f.limb[3], f4 = f.limb[4];
    const lanes f5 = f.limb[5], f6 = f.limb[6], f7 = f.limb[7], f8 = f.limb[8], f9 = f.limb[9];
    const lanes F0 = f0 + f0, F1 = f1 + f1, F2 = f2 + f2, F3 = f3 + f3, F4 = f4 + f4;
    const lanes F5 = f5 + f5, F6 = f6 + f6, F7 = f7 + f7, F8 = f8 + f8, F9 = f9 + f9;
    const lanes Q1 = F1 + F1, Q3 = F3 + F3, Q5 = F5 + F5, Q7 = F7 + F7;
    const lanes h5 = times(f5, nineteen), h6 = times(f6, nineteen), h7 = times(f7, nineteen), h8 = times(f8, nineteen);
    const lanes h9 = times(f9, nineteen);
    lanes r0 = times(f0, f0) + times(Q1, h9) + times(F2, h8) + times(Q3, h7) + times(F4, h6) + times(F5, h5);
    lanes r1 = times(F0, f1) + times(F2, h9) + times(F3, h8) + times(F4, h7) + times(F5, h6);
    lanes r2 = times(F0, f2) + times(F1, f1) + times(Q3, h9) + times(F4, h8) + times(Q5, h7) + times(f6, h6);
    lanes r3 = times(F0, f3) + times(F1, f2) + times(F4, h9) + times(F5, h8) + times(F6, h7);
    lanes r4 = times(F0, f4) + times(Q1, f3) + times(f2, f2) + times(Q5, h9) + times(F6, h8) + times(F7, h7);
    lanes r5 = times(F0, f5) + times(F1, f4) + times(F2, f3) + times(F6, h9) + times(F7, h8);
    lanes r6 = times(F0, f6) + times(Q1, f5) + times(F2, f4) + times(F3, f3) + times(Q7, h9) + times(f8, h8);
    lanes r7 = times(F0, f7) + times(F1, f6) + times(F2, f5) + times(F3, f4) + times(F8, h9);
    lanes r8 = times(F0, f8) + times(Q1, f7) + times(F2, f6) + times(Q3, f5) + times(f4, f4) + times(F9, h9);
    lanes r9 = times(F0, f9) + times(F1, f8) + times(F2, f7) + times(F3, f6) + times(F4, f5);
    return fe_fold(r0, r1, r2, r3, r4, r5, r6, r7, r8, r9);
}

/* For the formulas of points: inlined there, products would not fit into the instruction cache. */
APART void fe_mul_called(fe *result, const fe *a, const fe *b) { *result = fe_mul(*a, *b); }
APART void fe_square_called(fe *result, const fe *a) { *result = fe_square(*a); }
#define FE_MUL fe_mul_called
#define FE_SQUARE fe_square_called
