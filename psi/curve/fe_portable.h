/* The field 2^255 - 19 in plain C: one element, five limbs of radix 2^51, products of 128 bits.

   Bounds. A product is *tight*: limbs below 2^51 + 2^15. Sums and differences are not carried: fe_add of two tight
   elements stays below EVEN, fe_sub below LOOSE. Operands of fe_sub are below EVEN, factors below LOOSE. */
#define LANES 1
#define LIMBS 5
#define WIDE 2 /* chains of squarings that run side by side */

typedef uint64_t lanes;
typedef uint64_t mask; /* all ones or zero */
typedef struct { lanes limb[5]; } fe51;
typedef fe51 fe;

#define TIGHT ((1ull << 51) + (1ull << 15))
#define EVEN ((1ull << 53) - 3) /* the limbs of 4p, but for the lowest, are at least that */
#define LOOSE (1ull << 54)

/* Keeps the compiler from knowing that a mask has two values only, and so from branching on it. */
FIELD mask mask_hidden(mask value) {
    __asm__("" : "+r"(value));
    return value;
}
FIELD mask lanes_equal(lanes a, uint64_t value) {
    uint64_t difference = a ^ value; /* the top bit of x | -x is 0 for x = 0 only */
    return mask_hidden(((difference | (0 - difference)) >> 63) - 1);
}
FIELD lanes lanes_select(mask choose, lanes yes, lanes no) { return no ^ (choose & (yes ^ no)); }
FIELD lanes lanes_all(uint64_t value) { return value; }
FIELD unsigned mask_bits(mask m) { return (unsigned)(m & 1); }
FIELD mask mask_from_bits(unsigned bits) { return mask_hidden(0 - (uint64_t)(bits & 1)); }

#include "fe51.h"

FIELD fe fe_settle(fe a) { return a; }
FIELD fe fe_tighten(fe a) { return fe_carry(a); }

/* The limbs of a product, each below 2^115, to a tight element. */
FIELD fe fe_fold(unsigned __int128 r0, unsigned __int128 r1, unsigned __int128 r2, unsigned __int128 r3,
                         unsigned __int128 r4) {
    fe r;
    r1 += (uint64_t)(r0 >> 51); /* a carry is below 2^64, for 115 - 51 = 64 */
    r2 += (uint64_t)(r1 >> 51);
    r3 += (uint64_t)(r2 >> 51);
    r4 += (uint64_t)(r3 >> 51);
    /* r4 has no term times 19, so is below 5 * 2^108 + 2^64: 19 times its carry is below 2^64 */
    uint64_t wrapped = ((uint64_t)r0 & LIMB_MASK) + 19 * (uint64_t)(r4 >> 51);
    r.limb[0] = wrapped & LIMB_MASK;
    r.limb[1] = ((uint64_t)r1 & LIMB_MASK) + (wrapped >> 51); /* below 2^51 + 2^13 */
    r.limb[2] = (uint64_t)r2 & LIMB_MASK;
    r.limb[3] = (uint64_t)r3 & LIMB_MASK;
    r.limb[4] = (uint64_t)r4 & LIMB_MASK;
    BELOW(r, TIGHT);
    return r;
}

/* These two are not inlined: several products at once overflow sixteen registers, which costs more than the calls. */
APART void product(fe *r, const fe *x, const fe *y) {
    const fe a = *x, b = *y;
    BELOW(a, LOOSE);
    BELOW(b, LOOSE);
    typedef unsigned __int128 wide;
    const uint64_t a0 = a.limb[0], a1 = a.limb[1], a2 = a.limb[2], a3 = a.limb[3], a4 = a.limb[4];
    const uint64_t b0 = b.limb[0], b1 = b.limb[1], b2 = b.limb[2], b3 = b.limb[3], b4 = b.limb[4];
    const uint64_t c1 = 19 * b1, c2 = 19 * b2, c3 = 19 * b3, c4 = 19 * b4; /* 2^255 = 19; below 2^59 */
    *r = fe_fold((wide)a0 * b0 + (wide)a1 * c4 + (wide)a2 * c3 + (wide)a3 * c2 + (wide)a4 * c1,
                   (wide)a0 * b1 + (wide)a1 * b0 + (wide)a2 * c4 + (wide)a3 * c3 + (wide)a4 * c2,
                   (wide)a0 * b2 + (wide)a1 * b1 + (wide)a2 * b0 + (wide)a3 * c4 + (wide)a4 * c3,
                   (wide)a0 * b3 + (wide)a1 * b2 + (wide)a2 * b1 + (wide)a3 * b0 + (wide)a4 * c4,
                   (wide)a0 * b4 + (wide)a1 * b3 + (wide)a2 * b2 + (wide)a3 * b1 + (wide)a4 * b0);
}

APART void square(fe *r, const fe *x) {
    const fe a = *x;
    BELOW(a, LOOSE);
    typedef unsigned __int128 wide;
    const uint64_t a0 = a.limb[0], a1 = a.limb[1], a2 = a.limb[2], a3 = a.limb[3], a4 = a.limb[4];
    const uint64_t d0 = 2 * a0, d1 = 2 * a1, d2 = 2 * a2, d3 = 2 * a3, c3 = 19 * a3, c4 = 19 * a4;
    *r = fe_fold((wide)a0 * a0 + (wide)d1 * c4 + (wide)d2 * c3, (wide)d0 * a1 + (wide)d2 * c4 + (wide)a3 * c3,
                   (wide)d0 * a2 + (wide)a1 * a1 + (wide)d3 * c4, (wide)d0 * a3 + (wide)d1 * a2 + (wide)a4 * c4,
                   (wide)d0 * a4 + (wide)d1 * a3 + (wide)a2 * a2);
}

FIELD fe fe_mul(fe a, fe b) {
    fe r;
    product(&r, &a, &b);
    return r;
}

FIELD fe fe_square(fe a) {
    fe r;
    square(&r, &a);
    return r;
}

#define FE_MUL product
#define FE_SQUARE square
