/* Five limbs of radix 2^51: what all backends do at the ends (bytes, the one representative), and what the backends that
   compute with such limbs share: everything but the carries after sums, products and squares.

   The operators work on one number (portable) as on a register of several (GNU C vectors). */
#define LIMB_MASK ((1ull << 51) - 1)

/* The one representative below p. For any limbs below 2^62. */
FIELD fe51 fe51_freeze(fe51 a) {
    lanes carry;
    UNROLLED for (int i = 0; i < 4; i++) {
        a.limb[i + 1] += a.limb[i] >> 51;
        a.limb[i] &= LIMB_MASK;
    }
    a.limb[0] += 19 * (a.limb[4] >> 51); /* now below 2^255 + 19 * 2^12 < 2p */
    a.limb[4] &= LIMB_MASK;
    carry = (a.limb[0] + 19) >> 51; /* a >= p exactly if a + 19 >= 2^255 */
    UNROLLED for (int i = 1; i < 5; i++) carry = (a.limb[i] + carry) >> 51;
    a.limb[0] += 19 * carry;
    UNROLLED for (int i = 0; i < 4; i++) {
        a.limb[i + 1] += a.limb[i] >> 51;
        a.limb[i] &= LIMB_MASK;
    }
    a.limb[4] &= LIMB_MASK; /* and drop the 2^255 */
    return a;
}

/* Four little-endian words a lane; bit 255 is dropped. */
FIELD fe51 fe51_from_words(const lanes w[4]) {
    fe51 r;
    r.limb[0] = w[0] & LIMB_MASK;
    r.limb[1] = (w[0] >> 51 | w[1] << 13) & LIMB_MASK;
    r.limb[2] = (w[1] >> 38 | w[2] << 26) & LIMB_MASK;
    r.limb[3] = (w[2] >> 25 | w[3] << 39) & LIMB_MASK;
    r.limb[4] = (w[3] >> 12) & LIMB_MASK;
    return r;
}

/* Of a frozen element. */
FIELD void fe51_to_words(lanes w[4], fe51 a) {
    w[0] = a.limb[0] | a.limb[1] << 51;
    w[1] = a.limb[1] >> 13 | a.limb[2] << 38;
    w[2] = a.limb[2] >> 26 | a.limb[3] << 25;
    w[3] = a.limb[3] >> 39 | a.limb[4] << 12;
}

#if LIMBS == 5

FIELD fe fe_freeze(fe a) { return fe51_freeze(a); }
FIELD fe fe_from_words(const lanes w[4]) { return fe51_from_words(w); }
FIELD void fe_to_words(lanes w[4], fe a) { fe51_to_words(w, a); }

FIELD fe fe_settle(fe a); /* after a sum: nothing, or a carry where factors may not exceed 52 bits */

FIELD fe fe_constant(const uint64_t limbs[5]) {
    fe r;
    UNROLLED for (int i = 0; i < 5; i++) r.limb[i] = lanes_all(limbs[i]);
    return r;
}

/* One pass of carries, all at once: limbs below 2^62 become less than 2^51 + 19 * 2^11. */
FIELD fe fe_carry(fe a) {
    fe r;
    lanes top = a.limb[4] >> 51;
    r.limb[0] = (a.limb[0] & LIMB_MASK) + top + (top << 1) + (top << 4); /* 2^255 = 19 */
    UNROLLED for (int i = 1; i < 5; i++) r.limb[i] = (a.limb[i] & LIMB_MASK) + (a.limb[i - 1] >> 51);
    return r;
}

FIELD fe fe_add(fe a, fe b) {
    fe r;
    UNROLLED for (int i = 0; i < 5; i++) r.limb[i] = a.limb[i] + b.limb[i];
    return fe_settle(r);
}

/* a + 4p - b. The limbs of b are not above those of 4p, so that none falls below zero. */
FIELD fe fe_sub(fe a, fe b) {
    fe r;
    BELOW(a, EVEN);
    BELOW(b, EVEN);
    BELOW(b.limb[0], 4 * (LIMB_MASK - 18) + 1);
    r.limb[0] = a.limb[0] + 4 * (LIMB_MASK - 18) - b.limb[0];
    UNROLLED for (int i = 1; i < 5; i++) r.limb[i] = a.limb[i] + 4 * LIMB_MASK - b.limb[i];
    return fe_settle(r);
}

/* 4p - a, which may be subtracted again. */
FIELD fe fe_negate(fe a) {
    fe r;
    BELOW(a, EVEN);
    BELOW(a.limb[0], 4 * (LIMB_MASK - 18) + 1);
    r.limb[0] = 4 * (LIMB_MASK - 18) - a.limb[0];
    UNROLLED for (int i = 1; i < 5; i++) r.limb[i] = 4 * LIMB_MASK - a.limb[i];
    return fe_settle(r);
}

#endif
