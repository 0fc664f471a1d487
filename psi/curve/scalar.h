/* Scalars: numbers modulo L = 2^252 + 27742317777372353535851937790883648493, four 64-bit words, in constant time. */
#ifndef VESICA_SCALAR_H
#define VESICA_SCALAR_H

typedef unsigned __int128 uint128;
typedef struct { uint64_t word[4]; } scalar;

static inline scalar scalar_load(const uint8_t bytes[32]) {
    scalar r;
    memcpy(r.word, bytes, 32);
    return r;
}

static inline scalar scalar_constant(const uint64_t words[4]) {
    return (scalar){{words[0], words[1], words[2], words[3]}};
}

/* r - L if that is not below zero, else r; `carry` is the fifth word of r. For values below 2L. */
static inline scalar scalar_once(scalar r, uint64_t carry) {
    scalar less;
    uint64_t borrow = 0;
    for (int i = 0; i < 4; i++) {
        uint128 difference = (uint128)r.word[i] - ORDER[i] - borrow;
        less.word[i] = (uint64_t)difference;
        borrow = (uint64_t)(difference >> 64) & 1;
    }
    uint64_t keep = 0 - (borrow & (carry ^ 1));
    __asm__("" : "+r"(keep));
    for (int i = 0; i < 4; i++) r.word[i] = less.word[i] ^ (keep & (less.word[i] ^ r.word[i]));
    return r;
}

/* a < L: 1 or 0. */
static inline uint64_t scalar_is_reduced(scalar a) {
    uint64_t borrow = 0;
    for (int i = 0; i < 4; i++) borrow = (uint64_t)(((uint128)a.word[i] - ORDER[i] - borrow) >> 64) & 1;
    return borrow;
}

static inline scalar scalar_add(scalar a, scalar b) {
    uint128 sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += (uint128)a.word[i] + b.word[i];
        a.word[i] = (uint64_t)sum;
        sum >>= 64;
    }
    return scalar_once(a, (uint64_t)sum);
}

/* L - a modulo L, for a <= L. */
static inline scalar scalar_negate(scalar a) {
    uint64_t borrow = 0;
    for (int i = 0; i < 4; i++) {
        uint128 difference = (uint128)ORDER[i] - a.word[i] - borrow;
        a.word[i] = (uint64_t)difference;
        borrow = (uint64_t)(difference >> 64) & 1;
    }
    return scalar_once(a, 0);
}

/* a b / 2^256 mod L (Montgomery). For a any 256 bits and b < L: (a b + m L) / 2^256 < 2L. */
static inline scalar scalar_montgomery(scalar a, scalar b) {
    uint64_t t[6] = {0};
    for (int i = 0; i < 4; i++) {
        uint128 sum = 0;
        for (int j = 0; j < 4; j++) {
            sum += (uint128)a.word[i] * b.word[j] + t[j];
            t[j] = (uint64_t)sum;
            sum >>= 64;
        }
        sum += t[4];
        t[4] = (uint64_t)sum;
        t[5] = (uint64_t)(sum >> 64);
        uint64_t m = t[0] * ORDER_NEGINV; /* so that the lowest word of t + m L is zero */
        sum = ((uint128)m * ORDER[0] + t[0]) >> 64;
        for (int j = 1; j < 4; j++) {
            sum += (uint128)m * ORDER[j] + t[j];
            t[j - 1] = (uint64_t)sum;
            sum >>= 64;
        }
        sum += t[4];
        t[3] = (uint64_t)sum;
        t[4] = t[5] + (uint64_t)(sum >> 64);
    }
    return scalar_once((scalar){{t[0], t[1], t[2], t[3]}}, t[4]);
}

/* 64 bytes mod L: low + high R. */
static inline scalar scalar_reduce(const uint8_t bytes[64]) {
    return scalar_add(scalar_montgomery(scalar_load(bytes), scalar_constant(ORDER_R)),
                      scalar_montgomery(scalar_load(bytes + 32), scalar_constant(ORDER_RR)));
}

/* a b mod L, for a any 256 bits and b < L. */
static inline scalar scalar_multiply(scalar a, scalar b) {
    return scalar_montgomery(scalar_montgomery(a, b), scalar_constant(ORDER_RR));
}

/* 1/a = a^(L - 2) mod L; the exponent is public. */
static inline scalar scalar_invert(scalar a) {
    scalar base = scalar_montgomery(a, scalar_constant(ORDER_RR)), power = scalar_constant(ORDER_R);
    scalar exponent = scalar_constant(ORDER);
    exponent.word[0] -= 2;
    for (int bit = 252; bit >= 0; bit--) {
        power = scalar_montgomery(power, power);
        if (exponent.word[bit / 64] >> (bit % 64) & 1) power = scalar_montgomery(power, base);
    }
    return scalar_montgomery(power, (scalar){{1, 0, 0, 0}});
}

/* a/2 mod L: a or a + L, whichever is even, shifted. For a < L. */
static inline scalar scalar_half(scalar a) {
    uint64_t odd = 0 - (a.word[0] & 1);
    uint128 sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += (uint128)a.word[i] + (odd & ORDER[i]);
        a.word[i] = (uint64_t)sum;
        sum >>= 64;
    }
    for (int i = 0; i < 4; i++) a.word[i] = a.word[i] >> 1 | (i < 3 ? a.word[i + 1] << 63 : 0);
    return a;
}

/* 64 digits of radix 16 from -8 to 7, the last from 0 to 2: magnitudes and signs (1 for negative). For a < L. */
static inline void scalar_digits(uint64_t magnitude[64], uint64_t negative[64], scalar a) {
    uint64_t carry = 0;
    for (int i = 0; i < 64; i++) {
        uint64_t digit = (a.word[i / 16] >> (4 * (i % 16)) & 15) + carry; /* 0 .. 16 */
        carry = i < 63 ? (digit + 8) >> 4 : 0;
        digit -= carry << 4; /* -8 .. 7, modulo 2^64 */
        negative[i] = digit >> 63;
        magnitude[i] = (digit ^ (0 - negative[i])) + negative[i];
    }
}

#endif
